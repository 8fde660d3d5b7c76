"""What pictures and masks show, as far as it speaks against what their names say.

Found before learning: a mask that is taken for a part, copies of one picture in two places, masks
that mark nothing or nearly everything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ad.core.data.headers import grey_and_coloured, odd_shapes
from ad.core.data.samples import Sample
from ad.core.errors import DataError
from ad.runtime.errors import counted
from ad.runtime.pictures.contents import (
    check_files,
    digest,
    mapped,
    masks_as_pictures,
    same_bytes,
    two_formats,
)
from ad.runtime.pictures.drawn import mask_facts
from ad.runtime.progress import SILENT, Progress

_LOOKED_AT = 500
"""Masks that are looked at; of more, this many at even distances."""


def check_pictures(
    samples: Sequence[Sample], *, stretched: bool = False, progress: Progress = SILENT
) -> list[str]:
    """Check pictures and masks before minutes of learning: their headers, then what they show.

    Args:
        samples: Of any split.
        stretched: Whether pictures are to be stretched to one shape, so that others are told.
        progress: Where to show how far it is.

    Returns:
        Notes on what a user should know, with names and figures.

    Raises:
        DataError: If masks are among the pictures.
        PictureError: If pictures or masks cannot be opened, or a mask does not fit; it names all.
    """
    seen = [*zip(samples, check_files(samples, progress=progress), strict=True)]
    return [
        *masks_as_pictures(samples),
        *_copies(samples),
        *two_formats(samples),
        *_odd_masks(samples),
        *(odd_shapes(seen) if stretched else []),
        *grey_and_coloured(seen),
    ]


def _copies(samples: Sequence[Sample]) -> list[str]:
    """Find pictures of the same bytes where one of them tells something wrong of the other."""
    groups = same_bytes(samples)
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
    apart = [same for same in same_bytes(samples) if len({home[s.path] for s in same}) > 1]
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


def copies_of(pictures: Sequence[Sample], others: Sequence[Sample]) -> list[Path]:
    """Which pictures have the same bytes as one of some others."""
    sizes = {sample.path.stat().st_size for sample in pictures}
    there = (sample for sample in others if sample.path.is_file())
    alike = [sample for sample in there if sample.path.stat().st_size in sizes]
    contents = set(mapped(lambda s: digest(s.path), alike))
    found = zip(pictures, mapped(lambda s: digest(s.path), pictures), strict=True)
    return [sample.path for sample, content in found if content in contents]


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
    shares = np.array(mapped(_share, chosen))
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
