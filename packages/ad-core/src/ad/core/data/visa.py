"""VisA: the tree as published with its table of splits, or as its authors' script prepares it.

Zou et al., "SPot-the-difference self-supervised pre-training for anomaly detection and
segmentation", ECCV 2022. The split is the one for learning from good parts, ``1cls``.
"""

from __future__ import annotations

import csv
from pathlib import Path

from ad.core.data import mvtec
from ad.core.data.samples import Archive, DatasetSpec, Sample
from ad.core.errors import DataError

TREE = """\
<data root>/
  split_csv/1cls.csv               columns object, split, label, image, mask
  candle/Data/Images/Normal/*.JPG  and 11 more categories; good parts
  candle/Data/Images/Anomaly/*.JPG     defective parts
  candle/Data/Masks/Anomaly/*.png      masks, not zero where defective
or, as prepared by the authors' script, with or without the folder 1cls:
  1cls/candle/train/good, test/good, test/bad, ground_truth/bad"""

COLUMNS = ("object", "split", "label", "image", "mask")


def categories(root: Path) -> list[str]:
    """Categories of the published tree that are there, or of the prepared one."""
    if not _table(root).is_file():
        return mvtec.categories(_prepared(root))
    named = dict.fromkeys(row["object"] for row in _rows(root))
    return sorted(name for name in named if (root / name / "Data").is_dir())


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used.

    Raises:
        DataError: If the table of splits has other columns or values.
    """
    if not _table(root).is_file():
        return mvtec.samples(_prepared(root), category, seed)
    found = []
    for row in _rows(root):
        if row["object"] != category:
            continue
        path = root / row["image"]
        match row["split"], row["label"]:
            case "train", "normal":
                found.append(Sample(path, 0, "train", category))
            case "test", "normal":
                found.append(Sample(path, 0, "test", category))
            case "test", "anomaly":
                mask = (root / row["mask"],) if row["mask"] else ()
                found.append(Sample(path, 1, "test", category, "bad", mask))
            case split, label:
                msg = (
                    f"`{_table(root)}` must say `train,normal`, `test,normal` or `test,anomaly` "
                    f"of each picture; of `{row['image']}` it says `{split},{label}`."
                )
                raise DataError(msg)
    return found


def _rows(root: Path) -> list[dict[str, str]]:
    with _table(root).open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            msg = (
                f"`{_table(root)}` must have the columns {', '.join(COLUMNS)}; it has "
                f"{', '.join(reader.fieldnames or ()) or 'none'}."
            )
            raise DataError(msg)
        return list(reader)


def _table(root: Path) -> Path:
    return root / "split_csv" / "1cls.csv"


def _prepared(root: Path) -> Path:
    return root / "1cls" if (root / "1cls").is_dir() else root


DATASET = DatasetSpec(
    name="visa",
    summary="VisA: twelve objects, single, in groups, and circuit boards",
    tree=TREE,
    source="https://github.com/amazon-science/spot-diff",
    licence="CC BY 4.0",
    also_reads=("split_csv/1cls.csv",),
    folders=("VisA", "VisA_20220922", "visa_pytorch"),
    categories=categories,
    samples=samples,
    archive=Archive(
        url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        checksum="sha256:2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
        size=1_929_840_640,
    ),
)
