"""A sheet of synthetic defects for a person to judge before a model learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ad.core.data.finding import collect, locate
from ad.core.data.learning import LearningData
from ad.core.data.samples import split_seeded
from ad.core.errors import SettingError
from ad.core.framing import Framing
from ad.core.registry import get_dataset
from ad.core.saved.claims import letting_go, make_folder
from ad.core.synth.anomalies import Broken, PerlinAnomalies
from ad.core.synth.cut_paste import CutPaste
from ad.core.synth.textures import let_take_from, texture_source
from ad.runtime.files import write_atomic
from ad.runtime.framing.size import Sides, size_of
from ad.runtime.paths import given_path
from ad.runtime.pictures.levels import find_white_level
from ad.runtime.pictures.opening import drawn_png
from ad.runtime.progress import SILENT, Progress

Recipe = Literal["draem", "cut-paste"]

SHEET = "synth.png"
"""Name of the sheet."""

_BATCH = 8
_SMALLEST = 16  # pixels
_TILE = 160  # pixels that a picture takes on the sheet, at least
_GAP, _TEXT = 8, 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What `preview` wrote."""

    sheet: Path
    """The picture: examples as normal picture, mask and broken picture, numbered from 1."""
    paths: tuple[Path, ...]
    """The normal pictures, in the order of the numbers."""
    shares: tuple[float, ...]
    """Broken share of each picture's area, from 0 to 1."""
    notes: tuple[str, ...]
    """What a user should know."""

    def to_json(self) -> dict[str, Any]:
        """As ``ad synth --json`` prints it."""
        rows = [
            {"path": str(path), "broken_share": share}
            for path, share in zip(self.paths, self.shares, strict=True)
        ]
        return {"sheet": str(self.sheet), "examples": rows, "notes": list(self.notes)}


@letting_go()
def preview(
    dataset: str,
    category: str,
    *,
    output: str | Path,
    data_root: str | Path | None = None,
    count: int = 8,
    seed: int = 0,
    textures: str = "",
    recipe: Recipe = "draem",
    img_size: Sides = 256,
    progress: Progress = SILENT,
) -> Preview:
    """Break some good training pictures and put them on a sheet.

    Every one is broken, while a trainer leaves half of its pictures as they are.

    Args:
        dataset: A layout's name.
        category: A category, a comma list, or ``all``; for `folder`, also a path.
        output: Folder to make for the sheet.
        data_root: Folder of the data set.
        count: Examples, as far as there are pictures.
        seed: Of the choice of pictures and of all that is random in the defects.
        textures: Folder of textures for `draem`; empty for textures made by code.
        recipe: ``draem`` or ``cut-paste``.
        img_size: Side of the pictures in pixels, or height and width.
        progress: Where to show how far it is.

    Raises:
        SettingError: If a setting cannot work.
        UnknownNameError: If there is no such layout.
        DataError: If the data are missing or laid out otherwise, or there are no textures.
        PictureError: If a picture cannot be read.
        OutputError: If the folder exists and is not empty, or cannot be written.
    """
    if count < 1:
        msg = f"`count` must be a whole number from 1; got {count}."
        raise SettingError(msg)
    framing = Framing(size=size_of(img_size))
    if min(framing.size) < _SMALLEST:
        msg = f"`img_size` must be at least {_SMALLEST} pixels; got {framing.size.typed}."
        raise SettingError(msg)
    breaking, notes = _recipe(recipe, textures)
    spec = get_dataset(dataset)
    category, root = locate(spec, category, data_root)
    samples = collect(spec, category, root=root, seed=seed, progress=progress)
    good = [sample.path for sample in samples if sample.split == "train"]
    paths, _ = split_seeded(good, min(count, len(good)), seed)
    white = find_white_level([sample.path for sample in samples], progress=progress)
    notes += white.notes
    folder = given_path(output, "the output").expanduser()
    make_folder(folder)

    if isinstance(breaking, PerlinAnomalies):
        let_take_from(breaking.textures, framing.pictures(good, white=white.value))
    pictures = framing.pictures(paths, white=white.value)
    data = LearningData(pictures, torch.device("cpu"), lambda images: (), cache=False, seed=seed)
    examples: list[tuple[Image.Image, ...]] = []
    shares: list[float] = []
    with progress.step("examples", total=len(paths), unit="pictures") as advance:
        for batch in data.batches(_BATCH):
            rows = range(len(batch.indices))
            broken = breaking(batch.images, [batch.generator(row) for row in rows])
            shares += broken.masks.mean(dim=(1, 2, 3)).tolist()
            parts = (broken.clean, broken.masks, broken.images)
            examples += zip(*map(_pictures, parts), strict=True)
            advance(len(rows))
    sheet = folder / SHEET
    write_atomic(sheet, drawn_png(_sheet(examples, shares)))
    return Preview(sheet=sheet, paths=tuple(paths), shares=tuple(shares), notes=tuple(notes))


def _recipe(
    recipe: Recipe, textures: str
) -> tuple[Callable[[Tensor, Sequence[torch.Generator]], Broken], list[str]]:
    if recipe == "draem":
        source, note = texture_source(textures, "`--textures DIR` (`textures=` in Python)")
        return PerlinAnomalies(source, probability=1.0), [] if note is None else [note]
    if textures:
        msg = (
            "`textures` is of no use to `cut-paste`, which fills defects with parts of the "
            f"picture itself; got `{textures}`. Leave it out, or use the recipe `draem`."
        )
        raise SettingError(msg)
    return CutPaste(probability=1.0), []


def _pictures(images: Tensor) -> list[Image.Image]:
    """``[B, C, H, W]`` in [0, 1] as pictures that are large enough to be looked at."""
    levels = (images * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    pictures = [Image.fromarray(array) for array in levels.contiguous().numpy()]
    times = -(-_TILE // pictures[0].width)
    size = (pictures[0].width * times, pictures[0].height * times)
    return [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]


def _sheet(examples: Sequence[Sequence[Image.Image]], shares: Sequence[float]) -> Image.Image:
    """Examples of three pictures, two in a row if there are several."""
    tile, tall = examples[0][0].size
    abreast = min(2, len(examples))
    width, height = 3 * tile + 3 * _GAP, tall + _TEXT
    lines = -(-len(examples) // abreast)
    sheet = Image.new("RGB", (abreast * width + _GAP, lines * height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (pictures, share) in enumerate(zip(examples, shares, strict=True)):
        left, top = _GAP + number % abreast * width, number // abreast * height
        for place, picture in enumerate(pictures):
            sheet.paste(picture, (left + place * (tile + 2), top))
        words = f"{share:.2%} broken" if share else "empty mask: counts as good"
        draw.text((left, top + tall + 3), f"{number + 1}   {words}", fill="black", font_size=14)
    return sheet
