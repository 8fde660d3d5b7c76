"""DAGM 2007: ten drawn textures with drawn defects, as published.

Wieler & Hahn, "Weakly supervised learning for industrial optical inspection", DAGM 2007. A picture
is defective if there is a mask of it; masks are ellipses around the defects, so pixel figures are
coarse. The training folder holds defective pictures too, for models that learn from labelled
defects; others leave them out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ad.core.data.samples import (
    DatasetSpec,
    Sample,
    categories_in,
    category_folder,
)
from ad.runtime.pictures.masks import check_masks_fit, masks_by_stem
from ad.runtime.pictures.walking import pictures_in

TREE = """\
<data root>/
  Class1/                          to Class10
    Train/0576.PNG                 good and defective; the defective ones are left out, but by
                                   models that learn from them
    Train/Label/0576_label.PNG     masks of the defective ones only
    Test/0001.PNG, Test/Label/0001_label.PNG   likewise, all of them to test with"""

HOLDS = ("Train/Label", "Test/Label")


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used."""
    return [s for s in labelled(root, category, seed) if s.label == 0 or s.split == "test"]


def labelled(root: Path, category: str, seed: int) -> list[Sample]:
    """The same with the defective pictures to train on."""
    folder = category_folder(root, category, HOLDS)
    found = []
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        home = folder / split.capitalize()
        masks = _masks(home)
        for path in pictures_in(home):
            mask = masks.get(path.stem)
            if mask is None:
                found.append(Sample(path, 0, split, category))
            else:
                found.append(Sample(path, 1, split, category, "defect", (mask,)))
    return found


def _masks(split: Path) -> dict[str, Path]:
    check_masks_fit(split / "Label", pictures_in(split))
    return masks_by_stem(split / "Label")


DATASET = DatasetSpec(
    name="dagm",
    summary="DAGM 2007: ten drawn textures with drawn defects",
    tree=TREE,
    source="https://zenodo.org/records/12750201",
    licence="CC BY 4.0",
    folders=("DAGM", "DAGM2007", "DAGM_2007"),
    categories=categories,
    samples=samples,
    labelled=labelled,
)
