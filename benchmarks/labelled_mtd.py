"""A table of MTD in which some of the defective tiles are to learn from: MTD brings no such split.

The good tiles are split as the layout `mtd` splits them with seed 0. Of each kind of defect a share
is to train on, chosen with seed 0; the others are tested with.

    python benchmarks/labelled_mtd.py ../shared/data/mtd mtd_labelled.csv
    ad train csv all supersimplenet-supervised --data-root mtd_labelled.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from ad.core import collect, get_dataset

SHARE = 0.2


def write_table(root: Path, table: Path, share: float = SHARE) -> None:
    """Write a table for the layout `csv`.

    Args:
        root: MTD's folder.
        table: To write; paths in it are absolute.
        share: Of each kind of defect, to train on.
    """
    samples = collect(get_dataset("mtd"), "all", root=root.resolve(), seed=0)
    lent: set[Path] = set()
    for kind in sorted({sample.group for sample in samples if sample.label}):
        paths = [sample.path for sample in samples if sample.group == kind]
        chosen = np.random.default_rng(0).permutation(len(paths))[: round(share * len(paths))]
        lent |= {paths[index] for index in chosen}
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "mask", "split", "group"])
        for sample in samples:
            split = "train" if sample.path in lent else sample.split
            masks = ";".join(map(str, sample.masks))
            label, group = ("bad", sample.group) if sample.label else ("good", "")
            writer.writerow([sample.path, label, masks, split, group])


def main() -> None:
    """Write the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mtd", type=Path, help="MTD's folder")
    parser.add_argument("table", type=Path, help="to write")
    parser.add_argument("--share", type=float, default=SHARE, help="of the defects, to train on")
    options = parser.parse_args()
    write_table(options.mtd, options.table, options.share)


if __name__ == "__main__":
    main()
