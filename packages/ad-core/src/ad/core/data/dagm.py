"""DAGM 2007: ten drawn textures with drawn defects, as published.

Wieler & Hahn, "Weakly supervised learning for industrial optical inspection", DAGM 2007. A picture
is defective if there is a mask of it; masks are ellipses around the defects, so pixel figures are
coarse. The training folder holds defective pictures too, which nothing here learns from: they are
left out.
"""

from __future__ import annotations

from pathlib import Path

from ad.core.data.masks import check_masks_fit, masks_by_stem
from ad.core.data.samples import (
    DatasetSpec,
    Sample,
    categories_in,
    category_folder,
)
from ad.core.data.walking import pictures_in

TREE = """\
<data root>/
  Class1/                          to Class10
    Train/0576.PNG                 good and defective; the defective ones are left out
    Train/Label/0576_label.PNG     masks of the defective ones only
    Test/0001.PNG, Test/Label/0001_label.PNG   likewise, all of them to test with"""

HOLDS = ("Train/Label", "Test/Label")


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used."""
    folder = category_folder(root, category, HOLDS)
    known = _masks(folder / "Train")
    train = [path for path in pictures_in(folder / "Train") if path.stem not in known]
    found = [Sample(path, 0, "train", category) for path in train]
    masks = _masks(folder / "Test")
    for path in pictures_in(folder / "Test"):
        mask = masks.get(path.stem)
        if mask is None:
            found.append(Sample(path, 0, "test", category))
        else:
            found.append(Sample(path, 1, "test", category, "defect", (mask,)))
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
)
