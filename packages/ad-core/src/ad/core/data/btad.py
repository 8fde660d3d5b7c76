"""beanTech Anomaly Detection: MVTec AD's tree with other names.

Mishra et al., "VT-ADL: a vision transformer network for image anomaly detection and
localization", ISIE 2021. Pictures and masks are .png or .bmp, and not always alike.
"""

from __future__ import annotations

from pathlib import Path

from ad.core.data.mvtec import read_category
from ad.core.data.samples import (
    Archive,
    DatasetSpec,
    Sample,
    categories_in,
    category_folder,
)

TREE = """\
<data root>/               the folder BTech_Dataset_transformed
  01/                      and 02, 03
    train/ok/*.bmp         good parts; .bmp or .png, as everywhere here
    test/ok/*.bmp          good parts
    test/ko/*.bmp          defective parts
    ground_truth/ko/*.png  masks with the stems of the pictures"""

HOLDS = ("train/ok",)


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used."""
    return read_category(category_folder(root, category, HOLDS), category, good="ok")


DATASET = DatasetSpec(
    name="btad",
    summary="BTAD: three industrial products with defects of body and surface",
    tree=TREE,
    source="https://github.com/pankajmishra000/VT-ADL",
    licence="CC BY-NC-SA 4.0, no commercial use",
    folders=("BTAD", "BTech_Dataset_transformed"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
        checksum="sha256:461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
    ),
)
