"""The data set as files, in MVTec AD's layout.

``synthetic.json`` is written at the start with ``"complete": false`` and again at the end, so
that settings cannot be mixed and an interrupted writing is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.core.data.synthetic.picture import draw
from ad.core.data.synthetic.products import DEFECTS
from ad.core.errors import DataError, OutputError
from ad.core.saved.claims import alone, clear_leftovers, temporary_name

NOTE = "synthetic.json"
"""The file at the root that says what the folder holds."""

DRAWING = 1
"""Raised when the code draws other pictures than before from the same settings."""

_BLOCK = 100_000
"""Indices apart of good training, good test and each kind of defective pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the folder holds; see `ad.core.data.synthetic.write`."""

    categories: tuple[str, ...]
    train: int
    test_good: int
    test_defective: int
    seed: int
    size: int
    drawing: int = DRAWING


@dataclass(frozen=True, slots=True)
class _Entry:
    """One picture to write."""

    picture: Path
    category: str
    index: int
    defect: str | None = None
    mask: Path | None = None


def write_tree(root: Path, settings: Settings, advance: Callable[[int], None]) -> None:
    """Write what is missing of the tree; the settings are checked by the caller."""
    entries = list(_entries(root, settings))
    if _is_complete(root, settings):
        advance(len(entries))
        return
    folders = {path.parent for one in entries for path in (one.picture, one.mask) if path}
    clear_leftovers(root, *folders)
    try:
        _write_note(root, settings, complete=False)
        for entry in entries:
            _write_entry(entry, settings)
            advance(1)
        _write_note(root, settings, complete=True)
    except OSError as error:
        msg = f"The synthetic pictures cannot be written to `{root}`: {error}"
        raise OutputError(msg) from error


def _entries(root: Path, settings: Settings) -> Iterator[_Entry]:
    # Test pictures stay the same however many there are to train on.
    for category in settings.categories:
        folder = root / category
        for k in range(settings.train):
            yield _Entry(folder / "train" / "good" / f"{k:03d}.png", category, k)
        for k in range(settings.test_good):
            yield _Entry(folder / "test" / "good" / f"{k:03d}.png", category, _BLOCK + k)
        for block, kind in enumerate(DEFECTS[category], start=2):
            for k in range(settings.test_defective):
                picture = folder / "test" / kind / f"{k:03d}.png"
                mask = folder / "ground_truth" / kind / f"{k:03d}_mask.png"
                yield _Entry(picture, category, block * _BLOCK + k, kind, mask)


def _is_complete(root: Path, settings: Settings) -> bool:
    """Whether everything is there already.

    Raises:
        DataError: If the folder holds something else.
    """
    note = root / NOTE
    if not note.is_file():
        if root.is_dir() and any(root.iterdir()):
            msg = (
                f"`{root}` holds other files and no `{NOTE}`; the synthetic pictures are written "
                "to an empty or a new folder only."
            )
            raise DataError(msg)
        return False
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        complete = bool(found.pop("complete"))
    except (ValueError, AttributeError, KeyError) as error:
        msg = f"`{note}` is not a note of synthetic pictures. Delete `{root}` to write it anew."
        raise DataError(msg) from error
    wanted = _as_json(settings)
    if found != wanted:
        changed = ", ".join(
            f"`{key}` is {found.get(key)} there, {value} was asked for"
            for key, value in wanted.items()
            if found.get(key) != value
        )
        msg = (
            f"`{root}` holds synthetic pictures of other settings: {changed or 'others'}. Name "
            "another folder, or delete this one to write it anew."
        )
        raise DataError(msg)
    return complete


def _as_json(settings: Settings) -> dict[str, object]:
    return {**asdict(settings), "categories": list(settings.categories)}


def _write_note(root: Path, settings: Settings, *, complete: bool) -> None:
    text = json.dumps({**_as_json(settings), "complete": complete}, indent=2) + "\n"
    _write(root / NOTE, lambda part: part.write_text(text, encoding="utf-8"))


def _write_entry(entry: _Entry, settings: Settings) -> None:
    # Files appear under their names only when they are whole, so those that exist are done.
    if entry.picture.exists() and (entry.mask is None or entry.mask.exists()):
        return
    picture, mask = draw(
        entry.category,
        entry.index,
        seed=settings.seed,
        size=settings.size,
        defect=entry.defect,
    )
    if entry.mask is not None:
        _write_png(entry.mask, mask.astype(np.uint8) * np.uint8(255))
    _write_png(entry.picture, picture)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    # Sensor noise does not compress: a low level halves the time and costs 5 % of space.
    _write(path, lambda part: Image.fromarray(pixels).save(part, "PNG", compress_level=2))


def _write(path: Path, save: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary_name(path)
    try:
        part.touch(exist_ok=False)
        with alone(part):
            save(part)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
