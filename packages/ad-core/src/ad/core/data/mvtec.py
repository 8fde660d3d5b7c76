"""MVTec AD's tree, which many other data sets and tools use too."""

from __future__ import annotations

from pathlib import Path

from ad.core.data.samples import (
    GOOD,
    Archive,
    DatasetSpec,
    Sample,
    categories_in,
    category_folder,
    check_masks_fit,
    folders_in,
    masks_by_stem,
    pictures_in,
)

TREE = """\
<data root>/
  <category>/            one or more, any name
    train/good/*.png     good parts
    validation/good/*.png   optional: good parts to set the threshold with
    test/good/*.png      good parts
    test/<defect>/*.png  defective parts, one folder per kind of defect
    ground_truth/<defect>/000_mask.png   optional masks, same stem with or without `_mask`"""

HOLDS = ("train/good",)


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the layout brings its own split, so the seed is not used."""
    return read_category(category_folder(root, category, HOLDS), category)


def read_category(
    folder: Path,
    category: str,
    *,
    good: str = GOOD,
    test: str = "test",
    truth: str = "ground_truth",
) -> list[Sample]:
    """Samples of one category of a tree like MVTec AD's.

    Args:
        folder: Of the category.
        category: Its name.
        good: Name of the folders of good parts.
        test: The folder to test with; holds ``good`` and a folder for each kind of defect.
        truth: The folder of masks; mirrors ``test``, and may be in it.
    """
    found = read_good(folder, category, good=good)
    for group in folders_in(folder / test):
        if group == folder / truth:
            continue
        if group.name == good:
            found += [Sample(path, 0, "test", category) for path in pictures_in(group)]
            continue
        pictures, masks = pictures_in(group), masks_by_stem(folder / truth / group.name)
        check_masks_fit(folder / truth / group.name, (path.stem for path in pictures))
        for path in pictures:
            mask = (masks[path.stem],) if path.stem in masks else ()
            found.append(Sample(path, 1, "test", category, group.name, mask))
    return found


def read_good(folder: Path, category: str, *, good: str = GOOD) -> list[Sample]:
    """Samples to train with and to calibrate with; see `read_category`."""
    train, validation = pictures_in(folder / "train" / good), folder / "validation" / good
    found = [Sample(path, 0, "train", category) for path in train]
    return found + [Sample(path, 0, "validation", category) for path in pictures_in(validation)]


DATASET = DatasetSpec(
    name="mvtec",
    summary="MVTec AD's layout: 15 objects and textures, or your own in the same tree",
    tree=TREE,
    source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    licence="MVTec AD itself: CC BY-NC-SA 4.0, no commercial use",
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        checksum="sha256:cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        size=5_264_982_680,
    ),
)
