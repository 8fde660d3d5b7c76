"""MVTec AD's tree, which many other data sets and tools use too."""

from __future__ import annotations

from pathlib import Path

from ad.core.data.samples import (
    GOOD,
    DatasetSpec,
    Sample,
    check_masks_fit,
    folders_in,
    masks_by_stem,
    pictures_in,
)

TREE = """\
<data root>/
  <category>/            one or more, any name
    train/good/*.png     good parts
    test/good/*.png      good parts
    test/<defect>/*.png  defective parts, one folder per kind of defect
    ground_truth/<defect>/000_mask.png   optional masks, same stem with or without `_mask`"""


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    if _is_category(root):
        return [root.resolve().name]
    return [folder.name for folder in folders_in(root) if _is_category(folder)]


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the layout brings its own split, so the seed is not used."""
    folder = root if _is_category(root) else root / category
    found = [Sample(path, 0, "train", category) for path in pictures_in(folder / "train" / GOOD)]
    for group in folders_in(folder / "test"):
        if group.name == GOOD:
            found += [Sample(path, 0, "test", category) for path in pictures_in(group)]
            continue
        pictures = pictures_in(group)
        check_masks_fit(folder / "ground_truth" / group.name, (path.stem for path in pictures))
        masks = masks_by_stem(folder / "ground_truth" / group.name)
        for path in pictures:
            mask = (masks[path.stem],) if path.stem in masks else ()
            found.append(Sample(path, 1, "test", category, group.name, mask))
    return found


def _is_category(folder: Path) -> bool:
    return (folder / "train" / GOOD).is_dir()


DATASET = DatasetSpec(
    name="mvtec",
    summary="MVTec AD's layout: 15 objects and textures, or your own in the same tree",
    tree=TREE,
    source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    licence="MVTec AD itself: CC BY-NC-SA 4.0, no commercial use",
    categories=categories,
    samples=samples,
)
