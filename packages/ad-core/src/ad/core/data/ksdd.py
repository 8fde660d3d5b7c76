"""Kolektor Surface-Defect Dataset, as published.

Tabernik et al., "Segmentation-based deep-learning approach for surface-defect detection", JIM
2020. Whether a picture is good is in its mask alone: a mask without a defect is all zero. The data
bring no split for learning from good parts: a seeded 80 % of them are for training, the rest and
all defective ones for testing.
"""

from __future__ import annotations

from pathlib import Path

from ad.core.data.samples import (
    Archive,
    DatasetSpec,
    Sample,
    split_good,
)
from ad.core.errors import DataError
from ad.runtime.pictures.masks import pictures_with_masks
from ad.runtime.pictures.walking import folders_in

TREE = """\
<data root>/
  kos01/Part0.jpg        and Part1, Part2, ...; kos02 to kos50 likewise
  kos01/Part0_label.bmp  the mask of Part0.jpg: all zero if the part is good"""


def categories(root: Path) -> list[str]:
    """The single category, ``all``, if this is the data set's folder."""
    found = any(mask for folder in _parts(root) for _, mask in pictures_with_masks(folder))
    return ["all"] if found else []


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """All pictures, the good ones split with the seed."""
    pairs = [pair for folder in _parts(root) for pair in pictures_with_masks(folder)]
    good, bad = tell_apart(pairs)
    train, test = split_good(good, seed)
    found = [Sample(path, 0, "train", category) for path in train]
    found += [Sample(path, 0, "test", category) for path in test]
    return found + [Sample(path, 1, "test", category, "defect", (mask,)) for path, mask in bad]


def tell_apart(
    pairs: list[tuple[Path, Path | None]],
) -> tuple[list[Path], list[tuple[Path, Path]]]:
    """Tell good pictures from defective ones by their masks.

    Args:
        pairs: Pictures with their masks.

    Returns:
        The good pictures, and the defective ones with their masks.

    Raises:
        DataError: If a picture has no mask.
        PictureError: If a mask cannot be read.
    """
    from ad.runtime.pictures.drawn import shows_defect

    good, bad = [], []
    for path, mask in pairs:
        if mask is None:
            msg = (
                f"`{path}` has no mask beside it, and in these data nothing else says whether it "
                "is good. Take the picture and its mask from the original again."
            )
            raise DataError(msg)
        if shows_defect(mask):
            bad.append((path, mask))
        else:
            good.append(path)
    return good, bad


def _parts(root: Path) -> list[Path]:
    return [folder for folder in folders_in(root) if folder.name.startswith("kos")]


DATASET = DatasetSpec(
    name="ksdd",
    summary="KolektorSDD: surfaces of 50 commutators, 347 good pictures and 52 with fine cracks",
    tree=TREE,
    source="https://www.vicos.si/resources/kolektorsdd",
    licence="CC BY-NC-SA 4.0, no commercial use",
    folders=("KolektorSDD", "KSDD"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://data.vicos.si/datasets/KSDD/KolektorSDD.zip",
        checksum="sha256:65dc621693418585de9c4467d1340ea7958a6181816f0dc2883a1e8b61f9d4dc",
        size=101_831_129,
    ),
)
