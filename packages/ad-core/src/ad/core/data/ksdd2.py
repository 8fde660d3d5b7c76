"""Kolektor Surface-Defect Dataset 2, as published.

Bozic et al., "Mixed supervision for surface-defect detection: from weakly to fully supervised
learning", Computers in Industry 2021. Whether a picture is good is in its mask alone. The training
folder holds defective pictures too, for models that learn from labelled defects; others leave them
out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ad.core.data.ksdd import tell_apart
from ad.core.data.samples import Archive, DatasetSpec, Sample
from ad.runtime.pictures.masks import pictures_with_masks

TREE = """\
<data root>/
  train/10000.png      good and defective surfaces; the defective ones are left out, but by models
                       that learn from them
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
    return [s for s in labelled(root, category, seed) if s.label == 0 or s.split == "test"]


def labelled(root: Path, category: str, seed: int) -> list[Sample]:
    """All pictures: the authors' protocol for learning from labelled defects."""
    found: list[Sample] = []
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        good, bad = tell_apart(pictures_with_masks(root / split))
        found += [Sample(path, 0, split, category) for path in good]
        found += [Sample(path, 1, split, category, "defect", (mask,)) for path, mask in bad]
    return found


DATASET = DatasetSpec(
    name="ksdd2",
    summary="KolektorSDD2: 2,979 good surfaces and 356 with scratches, spots and imperfections",
    tree=TREE,
    source="https://www.vicos.si/resources/kolektorsdd2",
    licence="CC BY-NC-SA 4.0, no commercial use",
    folders=("KolektorSDD2", "KSDD2"),
    categories=categories,
    samples=samples,
    labelled=labelled,
    archive=Archive(
        url="https://data.vicos.si/datasets/KSDD/KolektorSDD2.zip",
        checksum="md5:1ed0f628122776ace4965afa30dfe316",
    ),
)
