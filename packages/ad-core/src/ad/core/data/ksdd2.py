"""Kolektor Surface-Defect Dataset 2, as published.

Bozic et al., "Mixed supervision for surface-defect detection: from weakly to fully supervised
learning", Computers in Industry 2021. Whether a picture is good is in its mask alone. The training
folder holds defective pictures too, which nothing here learns from: they are left out.
"""

from __future__ import annotations

from pathlib import Path

from ad.core.data.ksdd import tell_apart
from ad.core.data.masks import pictures_with_masks
from ad.core.data.samples import Archive, DatasetSpec, Sample

TREE = """\
<data root>/
  train/10000.png      good and defective surfaces; the defective ones are left out
  train/10000_GT.png   the mask of 10000.png: all zero if the surface is good
  test/20000.png, test/20000_GT.png   likewise, all of them to test with"""


def categories(root: Path) -> list[str]:
    """The single category, ``all``, if this is the data set's folder."""
    found = all(
        any(mask for _, mask in pictures_with_masks(root / split)) for split in ("train", "test")
    )
    return ["all"] if found else []


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """All pictures but the defective ones to train on; the data bring their split."""
    train, _ = tell_apart(pictures_with_masks(root / "train"))
    good, bad = tell_apart(pictures_with_masks(root / "test"))
    found = [Sample(path, 0, "train", category) for path in train]
    found += [Sample(path, 0, "test", category) for path in good]
    return found + [Sample(path, 1, "test", category, "defect", (mask,)) for path, mask in bad]


DATASET = DatasetSpec(
    name="ksdd2",
    summary="KolektorSDD2: 2,979 good surfaces and 356 with scratches, spots and imperfections",
    tree=TREE,
    source="https://www.vicos.si/resources/kolektorsdd2",
    licence="CC BY-NC-SA 4.0, no commercial use",
    folders=("KolektorSDD2", "KSDD2"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://data.vicos.si/datasets/KSDD/KolektorSDD2.zip",
        checksum="md5:1ed0f628122776ace4965afa30dfe316",
    ),
)
