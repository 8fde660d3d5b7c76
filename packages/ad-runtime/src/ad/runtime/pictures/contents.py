"""What pictures show, as far as it speaks against what their names say.

A mask that is taken for a part, copies of one picture.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

from ad.runtime.errors import DataError, PictureError, counted
from ad.runtime.pictures.drawn import Header, check_headers
from ad.runtime.pictures.masks import look_of
from ad.runtime.pictures.names import folded, masked_stem, without_suffix
from ad.runtime.pictures.reading import stored_size
from ad.runtime.progress import SILENT, Progress

Result = TypeVar("Result")

_BYTES_PER_PIXEL = 0.25
"""A compressed picture of more has too much in it for a mask."""

_HEADER = 2048  # bytes that small files have beside their pixels
_UNCOMPRESSED = frozenset({".bmp", ".pgm", ".ppm", ".tif", ".tiff"})
_NAMED = 20
"""Pictures with a fault that are named."""

_CHUNK = 4096  # bytes


class Pictured(Protocol):
    """A picture of a data set."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def label(self) -> int:
        """0 good, 1 defective."""

    @property
    def split(self) -> str:
        """``train`` if it is learnt from."""

    @property
    def masks(self) -> tuple[Path, ...]:
        """Of its defects."""


One = TypeVar("One", bound=Pictured)


def check_files(pictures: Sequence[Pictured], *, progress: Progress = SILENT) -> list[Header]:
    """Check the headers of pictures and of their masks.

    Args:
        pictures: Of any split.
        progress: Where to show how far it is.

    Returns:
        What each picture's header says.

    Raises:
        PictureError: If some cannot be opened, or a mask does not fit; it names all.
    """
    headers: list[Header] = []
    odd: list[tuple[Path, PictureError]] = []
    with progress.step("checking", total=len(pictures), unit="pictures") as advance:
        for one in pictures:
            try:
                headers.append(check_headers(one.path, one.masks))
            except PictureError as error:
                odd.append((one.path, error))
            advance(1)
    if odd:
        _, first = odd[0]
        msg = f"{first}{_others([path for path, _ in odd[1:]])}"
        raise PictureError(msg) from first
    return headers


def check_good_pictures(pictures: Sequence[Pictured], *, progress: Progress = SILENT) -> list[str]:
    """Check good pictures that a threshold is to be set with: their headers, then what they show.

    Args:
        pictures: None of them defective.
        progress: Where to show how far it is.

    Returns:
        Notes on what a user should know, with names and figures.

    Raises:
        DataError: If masks are among them.
        PictureError: If some cannot be opened; it names all.
    """
    check_files(pictures, progress=progress)
    return [*masks_as_pictures(pictures), *_copies(pictures), *two_formats(pictures)]


def _copies(pictures: Sequence[Pictured]) -> list[str]:
    groups = same_bytes(pictures)
    if not groups:
        return []
    count = sum(len(same) - 1 for same in groups)
    many = "1 is a copy of another" if count == 1 else f"{count} are copies of others"
    one, other = (same.path for same in groups[0][:2])
    return [
        f"Of {len(pictures)} good pictures {many}, such as `{other}` of `{one}`: copies tell "
        "nothing new, and the threshold keeps less than it promises. Keep one of each."
    ]


def _others(paths: Sequence[Path]) -> str:
    """Which other pictures have something wrong, so that they are mended in one go."""
    if not paths:
        return ""
    named = ", ".join(f"`{path}`" for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    many = "1 other has" if len(paths) == 1 else f"{len(paths)} others have"
    return f"\n{many} such a fault: {named}{more}."


def masks_as_pictures(samples: Sequence[Pictured]) -> list[str]:
    """Find masks among the pictures: two values or one, where good pictures have more."""
    suspects = [s for s in samples if _may_be_mask(s.path)]
    looks = list(zip(suspects, mapped(lambda s: look_of(s.path), suspects), strict=True))
    blank = [sample for sample, one in looks if one and one.blank]
    notes = []
    if blank:
        notes.append(
            f"{len(blank)} of {len(samples)} pictures are the same all over, such as "
            f"`{blank[0].path}`: they show no part. Masks of good parts go into a folder `masks`; "
            "remove other ones."
        )
    drawn = [sample for sample, one in looks if one and one.drawn and not one.blank]
    good = sum(sample.label == 0 for sample in samples)
    if not drawn or sum(sample.label == 0 for sample in drawn) > good / 2:
        return notes  # the parts themselves are seen in two values
    masks = {sample.path for sample in drawn}
    stems = {folded(sample.path.stem) for sample in samples if sample.path not in masks}
    first = next((s for s in drawn if _named_after(s.path, stems)), None)
    words = (
        f"{len(drawn)} of {len(samples)} pictures look like masks, not like parts: they have two "
        f"values, such as `{(first or drawn[0]).path}`"
    )
    if first is None:
        return [*notes, f"{words}. If they are masks, move them into a folder `masks`."]
    home = _folder_of_masks(first.path, masks, samples)
    remedy = (
        "Name masks after their pictures with `_mask` behind, such as `000_mask.png` of `000.png`"
        if home is None
        else f"Rename the folder `{home}` to `masks`"
    )
    msg = (
        f"{words}, which has the name of another picture. Read as a part it would be "
        f"{'learnt from' if first.split == 'train' else 'scored'}. {remedy}, or move the masks out "
        "of the data."
    )
    raise DataError(msg)


def _named_after(mask: Path, stems: set[str]) -> bool:
    """Whether a mask has the stem of a picture, with or without anything before or behind it."""
    stem = folded(mask.stem)
    readings = {stem, masked_stem(Path(f"{stem}.png")) or stem, without_suffix(stem)}
    for around in (r"[-_. ]+[^-_. ]*$", r"^[^-_. ]*[-_. ]+", r"[^\W\d_]+$", r"^[^\W\d_]+"):
        readings.add(re.sub(around, "", stem))
    return bool(readings & stems)


def _folder_of_masks(mask: Path, masks: set[Path], samples: Sequence[Pictured]) -> Path | None:
    """The largest folder around a mask that holds nothing else."""
    pictures = [sample.path for sample in samples if sample.path not in masks]
    home = None
    for folder in mask.parents:
        if any(path.is_relative_to(folder) for path in pictures):
            break
        home = folder
    return home


def _may_be_mask(path: Path) -> bool:
    if path.suffix.lower() in _UNCOMPRESSED:
        return True
    width, height = stored_size(path)
    return path.stat().st_size < _BYTES_PER_PIXEL * width * height + _HEADER


def same_bytes(samples: Sequence[One]) -> list[list[One]]:
    """Groups of pictures whose files are the same, of two or more each."""
    by_size: dict[int, list[One]] = defaultdict(list)
    for sample in samples:
        by_size[sample.path.stat().st_size].append(sample)
    alike = [s for same in by_size.values() if len(same) > 1 for s in same]
    alike = _with_twins(alike, lambda s: digest(s.path, whole=False))
    by_content: dict[str, list[One]] = defaultdict(list)
    for sample, content in zip(alike, mapped(lambda s: digest(s.path), alike), strict=True):
        by_content[content].append(sample)
    return [same for same in by_content.values() if len(same) > 1]


def two_formats(samples: Sequence[Pictured]) -> list[str]:
    """Find pictures that a camera or a person may have saved twice, as ``.jpg`` and ``.tif``."""
    same: dict[tuple[Path, str], list[Pictured]] = defaultdict(list)
    for sample in samples:
        same[sample.path.parent, folded(sample.path.stem)].append(sample)
    twice = [some for some in same.values() if len({s.path.suffix.lower() for s in some}) > 1]
    if not twice:
        return []
    names = " and ".join(f"`{sample.path.name}`" for sample in twice[0][:2])
    return [
        f"{counted(len(twice), 'name is', 'names are')} there in two formats, such as {names} in "
        f"`{twice[0][0].path.parent}`. If they show the same, keep one of the two: it would "
        "count twice, or be learnt from and tested with."
    ]


def _with_twins(samples: Sequence[One], key: Callable[[One], str]) -> list[One]:
    keys = mapped(key, samples)
    counts: dict[str, int] = defaultdict(int)
    for one in keys:
        counts[one] += 1
    return [sample for sample, one in zip(samples, keys, strict=True) if counts[one] > 1]


def digest(path: Path, *, whole: bool = True) -> str:
    """Sha256 of a file, or of its size with its start, middle and end, which mostly differ."""
    with path.open("rb") as file:
        if whole:
            return hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        for place in (0, size // 2, max(0, size - _CHUNK)):
            file.seek(place)
            digest.update(file.read(_CHUNK))
        return digest.hexdigest()


def mapped(function: Callable[[One], Result], samples: Iterable[One]) -> list[Result]:
    """What a function gives for each, found by threads."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, samples))
