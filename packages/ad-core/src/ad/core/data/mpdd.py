"""Metal Parts Defect Detection, which has MVTec AD's tree.

Jezek et al., "Deep learning-based defect detection of metal parts: evaluating current methods in
complex conditions", ICUMT 2021.
"""

from __future__ import annotations

from ad.core.data import mvtec
from ad.core.data.samples import DatasetSpec

TREE = """\
<data root>/
  bracket_black/         and bracket_brown, bracket_white, connector, metal_plate, tubes
    train/good/*.png     good parts
    test/good/*.png      good parts
    test/<defect>/*.png  defective parts, one folder per kind of defect
    ground_truth/<defect>/000_mask.png"""

DATASET = DatasetSpec(
    name="mpdd",
    summary="MPDD: six kinds of painted metal parts, turned and placed freely",
    tree=TREE,
    source="https://github.com/stepanje/MPDD",
    licence="not stated by its authors; others pass it on as CC BY-NC-SA 4.0, no commercial use",
    folders=("MPDD",),
    categories=mvtec.categories,
    samples=mvtec.samples,
)
