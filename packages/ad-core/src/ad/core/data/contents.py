"""What pictures and masks show, as far as it speaks against what their names say.

Found before learning: a mask that is taken for a part, copies of one picture in two places, masks
that mark nothing or nearly everything.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from ad.core.data.samples import Sample
from ad.core.errors import DataError, PictureError
from ad.runtime.errors import counted
from ad.runtime.pictures.drawn import check_headers, mask_facts
from ad.runtime.pictures.masks import look_of
from ad.runtime.pictures.names import folded, masked_stem, without_suffix
from ad.runtime.pictures.reading import stored_size
from ad.runtime.progress import SILENT, Progress

Result = TypeVar("Result")

_BYTES_PER_PIXEL = 0.25
"""A compressed picture of more has too much in it for a mask."""

_HEADER = 2048  # bytes that small files have beside their pixels
_UNCOMPRESSED = frozenset({".bmp", ".pgm", ".ppm", ".tif", ".tiff"})
_LOOKED_AT = 500
"""Masks that are looked at; of more, this many at even distances."""

_NAMED = 20
"""Pictures with a fault that are named."""

_CHUNK = 4096  # bytes


def check_pictures(samples: Sequence[Sample], *, progress: Progress = SILENT) -> list[str]:
    """Check pictures and masks before minutes of learning: their headers, then what they show.

    Args:
        samples: Of any split.
        progress: Where to show how far it is.

    Returns:
        Notes on what a user should know, with names and figures.

    Raises:
        DataError: If masks are among the pictures.
        PictureError: If pictures or masks cannot be opened, or a mask does not fit; it names all.
    """
    odd: list[tuple[Path, PictureError]] = []
    with progress.step("checking", total=len(samples), unit="pictures") as advance:
        for sample in samples:
            try:
                check_headers(sample.path, sample.masks)
            except PictureError as error:
                odd.append((sample.path, error))
            advance(1)
    if odd:
        _, first = odd[0]
        msg = f"{first}{_others([path for path, _ in odd[1:]])}"
        raise PictureError(msg) from first
    return [
        *_masks_as_pictures(samples),
        *_copies(samples),
        *_two_formats(samples),
        *_odd_masks(samples),
    ]


def _others(paths: Sequence[Path]) -> str:
    """Which other pictures have something wrong, so that they are mended in one go."""
    if not paths:
        return ""
    named = ", ".join(f"`{path}`" for path in paths[:_NAMED])
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    many = "1 other has" if len(paths) == 1 else f"{len(paths)} others have"
    return f"\n{many} such a fault: {named}{more}."


def _masks_as_pictures(samples: Sequence[Sample]) -> list[str]:
    """Find masks among the pictures: two values or one, where good pictures have more."""
    suspects = [s for s in samples if _may_be_mask(s.path)]
    looks = list(zip(suspects, _map(lambda s: look_of(s.path), suspects), strict=True))
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


def _folder_of_masks(mask: Path, masks: set[Path], samples: Sequence[Sample]) -> Path | None:
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


def _copies(samples: Sequence[Sample]) -> list[str]:
    """Find pictures of the same bytes where one of them tells something wrong of the other."""
    groups = _same_bytes(samples)
    notes = []
    both = [same for same in groups if len({s.label for s in same}) == 2]
    if both:
        good, bad = (next(s for s in both[0] if s.label == label) for label in (0, 1))
        notes.append(
            f"{counted(len(both), 'picture is', 'pictures are')} there as good and, copied, as "
            f"defective, such as `{good.path}` and `{bad.path}`: one of the two labels is wrong, "
            "and figures suffer."
        )
    learnt = [
        same for same in groups if same not in both and len({s.split == "train" for s in same}) == 2
    ]
    if learnt:
        train = next(s for s in learnt[0] if s.split == "train")
        test = next(s for s in learnt[0] if s.split != "train")
        count = sum(s.split != "train" for same in learnt for s in same)
        notes.append(
            f"{counted(count, 'picture', 'pictures')} to test or calibrate with "
            f"{'is a copy of one' if count == 1 else 'are copies of pictures'} to learn from, "
            f"such as `{test.path}` of `{train.path}`: copies look better than new ones would."
        )
    return notes


def copies_in_folds(samples: Sequence[Sample], folds: Sequence[Sequence[int]]) -> list[str]:
    """Find good pictures whose copies lie in other folds of cross-fitting.

    Args:
        samples: Good ones.
        folds: Numbers of those in each fold.
    """
    if not folds:
        return []
    home = {samples[number].path: fold for fold, own in enumerate(folds) for number in own}
    apart = [same for same in _same_bytes(samples) if len({home[s.path] for s in same}) > 1]
    if not apart:
        return []
    one = apart[0][0].path
    other = next(s.path for s in apart[0] if home[s.path] != home[one])
    count = sum(len(same) - 1 for same in apart)
    many = "1 good picture is a copy" if count == 1 else f"{count} good pictures are copies"
    return [
        f"{many} of another, such as `{other}` of `{one}`: what scores the one has learnt from the "
        "other, so that the threshold comes out low. Keep one of each."
    ]


def _same_bytes(samples: Sequence[Sample]) -> list[list[Sample]]:
    by_size: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_size[sample.path.stat().st_size].append(sample)
    alike = [s for same in by_size.values() if len(same) > 1 for s in same]
    alike = _with_twins(alike, lambda s: _digest(s.path, whole=False))
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample, content in zip(alike, _map(lambda s: _digest(s.path), alike), strict=True):
        by_content[content].append(sample)
    return [same for same in by_content.values() if len(same) > 1]


def copies_of(pictures: Sequence[Sample], others: Sequence[Sample]) -> list[Path]:
    """Which pictures have the same bytes as one of some others."""
    sizes = {sample.path.stat().st_size for sample in pictures}
    there = (sample for sample in others if sample.path.is_file())
    alike = [sample for sample in there if sample.path.stat().st_size in sizes]
    contents = set(_map(lambda s: _digest(s.path), alike))
    found = zip(pictures, _map(lambda s: _digest(s.path), pictures), strict=True)
    return [sample.path for sample, content in found if content in contents]


def _two_formats(samples: Sequence[Sample]) -> list[str]:
    """Find pictures that a camera or a person may have saved twice, as ``.jpg`` and ``.tif``."""
    same: dict[tuple[Path, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        same[sample.path.parent, folded(sample.path.stem)].append(sample)
    twice = [some for some in same.values() if len({s.path.suffix.lower() for s in some}) > 1]
    if not twice:
        return []
    names = " and ".join(f"`{sample.path.name}`" for sample in twice[0][:2])
    return [
        f"{counted(len(twice), 'name is', 'names are')} there in two formats, such as {names} in "
        f"`{twice[0][0].path.parent}`. If they show the same, keep one of the two: it would be "
        "learnt from and tested with."
    ]


def _with_twins(samples: Sequence[Sample], key: Callable[[Sample], str]) -> list[Sample]:
    keys = _map(key, samples)
    counts: dict[str, int] = defaultdict(int)
    for one in keys:
        counts[one] += 1
    return [sample for sample, one in zip(samples, keys, strict=True) if counts[one] > 1]


def _digest(path: Path, *, whole: bool = True) -> str:
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


def _odd_masks(samples: Sequence[Sample]) -> list[str]:
    """Find masks that cannot mean what they say: none or nearly all of a picture is marked."""
    owners: dict[str, Path] = {}
    pictures = {os.path.realpath(sample.path) for sample in samples}
    shared: dict[str, tuple[Path, Path, Path]] = {}
    for sample in samples:
        for mask in sample.masks:
            file = os.path.realpath(mask)
            if file in pictures:
                msg = (
                    f"`{mask}` is given as the mask of `{sample.path}`, and is a picture itself. "
                    "Give its mask, or none."
                )
                raise DataError(msg)
            other = owners.setdefault(file, sample.path)
            if other != sample.path:
                shared[file] = (mask, other, sample.path)
    notes = []
    if shared:
        mask, one, other = next(iter(shared.values()))
        notes.append(
            f"{counted(len(shared), 'mask belongs', 'masks belong')} to several pictures each, "
            f"such as `{mask}` to `{one}` and `{other}`: pixel figures are wrong if it is not that "
            "of all."
        )
    marked = [s for s in samples if s.label == 1 and s.masks and not s.saturations]
    chosen = marked[:: max(1, -(-len(marked) // _LOOKED_AT))]
    shares = np.array(_map(_share, chosen))
    of = f"{len(chosen)}" if len(chosen) == len(marked) else f"{len(chosen)} looked at"
    if len(shares) and (empty := int((shares == 0).sum())):
        first = chosen[int(np.argmin(shares))]
        notes.append(
            f"{empty} of {of} defective pictures with masks have no defective pixel in them, such "
            f"as `{first.path}` with `{first.masks[0]}`: their defects are not known, and they are "
            "left out of the pixel metrics. Defective is what is not black."
        )
    if len(shares) and (median := float(np.median(shares))) > 0.5:
        first = chosen[int(np.argmax(shares))]
        notes.append(
            f"Masks mark {median:.0%} of a picture as defective (median of {of}; most in "
            f"`{first.masks[0]}`). If defects are black in them they are the wrong way round: "
            "invert them, since defective is what is not black. If they are no masks, rename their "
            "folder."
        )
    elif len(shares) and (wide := int((shares > 0.5).sum())):
        first = chosen[int(np.argmax(shares))]
        notes.append(
            f"{wide} of {of} defective pictures are marked by more than half, the most in "
            f"`{first.masks[0]}` ({shares.max():.0%}). A mask with its defect in black is the "
            "wrong way round: invert it."
        )
    return notes


def _share(sample: Sample) -> float:
    # The masks of one picture count together; as a share, at most their sum.
    return min(1.0, sum(mask_facts(mask).share for mask in sample.masks))


def _map(function: Callable[[Sample], Result], samples: Iterable[Sample]) -> list[Result]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, samples))
