"""MVTec AD 2, as published.

Heckler-Kram et al., "The MVTec AD 2 dataset: advanced scenarios for unsupervised anomaly
detection", 2025. Its private test pictures have no labels here: their figures come from the
authors' server alone, so they are left out.
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
<data root>/                   the folder mvtec_ad_2
  can/                         and fabric, fruit_jelly, rice, sheet_metal, vial, wallplugs, walnuts
    train/good/*.png           good parts
    validation/good/*.png      good parts to set the threshold with
    test_public/good/*.png     good parts
    test_public/bad/*.png      defective parts
    test_public/ground_truth/bad/*_mask.png
    test_private, test_private_mixed   not read: no labels, scored at https://benchmark.mvtec.com"""

HOLDS = ("train/good", "test_public")


def categories(root: Path) -> list[str]:
    """Categories below a root; the root itself may be the only one."""
    return categories_in(root, HOLDS)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used."""
    return read_category(
        category_folder(root, category, HOLDS),
        category,
        test="test_public",
        truth="test_public/ground_truth",
    )


DATASET = DatasetSpec(
    name="mvtec-ad2",
    summary="MVTec AD 2: eight products that are see-through, in bulk, or lit in many ways",
    tree=TREE,
    source="https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
    licence="CC BY-NC-SA 4.0, no commercial use",
    folders=("mvtec_ad_2", "mvtec_ad2", "MVTecAD2", "MVTec-AD-2"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://www.mydrive.ch/shares/150997/701c90d3aea6588f404936e32a674602/download/"
        "466712769-1743429042/mvtec_ad_2.tar.gz",
        checksum="sha256:c0ded99ef32bfc8e352d52beb44515e5b292b8598cb963aadfa91ca0763505e4",
        size=32_739_596_982,
    ),
)
