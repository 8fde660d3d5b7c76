"""MVTec AD's tree, which many other data sets and tools use too."""

from __future__ import annotations

from pathlib import Path

from ad.core.data.good import good_pictures, refuse_data_set
from ad.core.data.samples import (
    GOOD,
    Archive,
    DatasetSpec,
    Sample,
    categories_in,
    category_folder,
)
from ad.core.errors import DataError, listed
from ad.runtime.errors import counted
from ad.runtime.pictures.masks import MaskTree, several_masks, sort_folder
from ad.runtime.pictures.names import meaning_of
from ad.runtime.pictures.walking import folders_in

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
    """Samples of one category of a tree like MVTec AD's; pictures may lie in folders below.

    Args:
        folder: Of the category.
        category: Its name.
        good: Name of the folders of good parts.
        test: The folder to test with; holds ``good`` and a folder for each kind of defect.
        truth: The folder of masks; mirrors ``test``, and may be in it. One of another name that
            says that it holds masks is taken where there is none of this.

    Raises:
        DataError: If it cannot be told what a folder of ``test`` holds, or which mask is of which
            picture.
    """
    found = read_good(folder, category, good=good)
    masks = MaskTree(_truth(folder, test, truth))
    for group in folders_in(folder / test):
        role = meaning_of(group.name).role
        if group == masks.folder or role == "masks":
            continue
        if group.name == good or role == "good":
            found += [Sample(path, 0, "test", category) for path in good_pictures(group)]
            continue
        refuse_data_set(group)
        pictures, beside = sort_folder(group)
        if role == "doubtful" and pictures:
            msg = (
                f"`{group}` sounds like good parts, but it is not called `{good}`: as a kind of "
                f"defect its {counted(len(pictures), 'picture', 'pictures')} would count as "
                f"defective. Rename it `{good}`, or after the defect."
            )
            raise DataError(msg)
        for path in pictures:
            inside = path.parent.relative_to(group).parts
            mask = masks.of(path, (group.name, *inside), (group.name,))
            if mask and path in beside:
                raise DataError(several_masks(path, (*mask, *beside[path])))
            own = mask or beside.get(path, ())
            found.append(Sample(path, 1, "test", category, group.name, own))
        masks.require_use(pictures, (group.name,))
    return found


def read_good(folder: Path, category: str, *, good: str = GOOD) -> list[Sample]:
    """Samples to train with and to calibrate with; see `read_category`."""
    return [
        Sample(path, 0, split, category)
        for split in ("train", "validation")
        for path in good_pictures(folder / split / good)
    ]


def _truth(folder: Path, test: str, truth: str) -> Path:
    """The folder of masks."""
    if (folder / truth).is_dir():
        return folder / truth
    others = [
        path
        for home in (folder, folder / test)
        for path in folders_in(home)
        if meaning_of(path.name).role == "masks"
    ]
    if len(others) > 1:
        msg = (
            f"`{folder}` has no folder `{truth}`, and several that may hold its masks: "
            f"{listed(path.name for path in others)}. Rename the right one `{truth}`."
        )
        raise DataError(msg)
    return others[0] if others else folder / truth


DATASET = DatasetSpec(
    name="mvtec",
    summary="MVTec AD's layout: 15 objects and textures, or your own in the same tree",
    tree=TREE,
    source="https://www.mvtec.com/company/research/datasets/mvtec-ad",
    licence="MVTec AD itself: CC BY-NC-SA 4.0, no commercial use",
    folders=("mvtec_anomaly_detection", "mvtec_ad", "MVTec", "MVTecAD", "MVTec-AD"),
    categories=categories,
    samples=samples,
    kinds_are_folders=True,
    archive=Archive(
        url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        checksum="sha256:cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
        size=5_264_982_680,
    ),
)
