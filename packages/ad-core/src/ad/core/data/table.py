"""One table of pictures, wherever they lie: a CSV file with a row for each."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, NamedTuple

from ad.core.data.samples import GOOD, DatasetSpec, Sample, split_good
from ad.core.errors import DataError, listed, nearest

TREE = """\
<data root>             a .csv file, or a folder that holds one; a row for each picture, columns:
  image                 needed: the picture
  label                 needed: 0, good, normal or ok; 1, bad, defective, abnormal, anomaly or ng
  mask                  masks of the defects, several separated by `;`; of a good picture, none or
                        black ones
  split                 train, validation or test; without the column, a seeded 80 % of the good
                        pictures is to train on if there are defective ones
  category              what is shown; `all` without the column
  group                 kind of defect
Paths are relative to the table's folder. Columns are separated by commas, semicolons or tabs;
others than these are not read. Defective pictures to train on are left out, but by models that
learn from them."""

COLUMNS = ("image", "label", "mask", "split", "category", "group")

_LABELS: dict[str, Literal[0, 1]] = {
    **dict.fromkeys(("0", "good", "normal", "ok"), 0),
    **dict.fromkeys(("1", "bad", "defective", "abnormal", "anomaly", "ng"), 1),
}
_SPLITS: dict[str, Literal["train", "validation", "test"]] = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
_DEFECTIVE = "defective"  # group of a defective picture whose kind is not given


class _Row(NamedTuple):
    line: int
    sample: Sample
    has_split: bool
    masks: tuple[Path, ...]
    """All that it names, also those of a good picture, which must mark nothing."""


def categories(root: Path) -> list[str]:
    """Categories that rows of the table name.

    Raises:
        DataError: If the folder holds several tables, or the table is not as described.
    """
    table = _table(root)
    return [] if table is None else sorted({row.sample.category for row in _rows(table)})


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the good ones are split with the seed if no row says a split.

    Raises:
        DataError: If the table is not as described.
    """
    return _samples(root, category, seed, labelled=False)


def labelled(root: Path, category: str, seed: int) -> list[Sample]:
    """The same with the defective pictures that rows say are to train on.

    Raises:
        DataError: If the table is not as described.
    """
    return _samples(root, category, seed, labelled=True)


def _samples(root: Path, category: str, seed: int, *, labelled: bool) -> list[Sample]:
    table = _table(root)
    assert table is not None  # it has categories
    rows = [row for row in _rows(table) if row.sample.category == category]
    _check_good(table, rows)
    found = [row.sample for row in rows]
    if not any(row.has_split for row in rows):
        return _split(found, seed)
    for row in rows:
        if not row.has_split:
            msg = (
                f"Line {row.line} of `{table}` has no split, and others have: give each row one of "
                f"{listed(_SPLITS)}, or none."
            )
            raise DataError(msg)
    taken = {"test", "train"} if labelled else {"test"}
    kept = [sample for sample in found if sample.label == 0 or sample.split in taken]
    if len(kept) < len(found):
        what = "to calibrate" if labelled else "to train or to calibrate"
        warnings.warn(
            f"`{table}` has {len(found) - len(kept)} defective pictures of `{category}` {what} "
            "with. That is done with good ones, and these are left out.",
            stacklevel=3,
        )
    return kept


def _check_good(table: Path, rows: list[_Row]) -> None:
    """Check that masks of good pictures mark nothing; they are of no other use."""
    from ad.runtime.pictures.drawn import shows_defect

    for row in rows:
        for mask in row.masks if row.sample.label == 0 else ():
            if shows_defect(mask):
                msg = (
                    f"Line {row.line} of `{table}` calls a picture good, and its mask `{mask}` "
                    "marks a defect: it would be learnt from as good. Mend the label, or take the "
                    "mask out of the row."
                )
                raise DataError(msg)


def _split(found: list[Sample], seed: int) -> list[Sample]:
    good = [sample for sample in found if sample.label == 0]
    bad = [sample for sample in found if sample.label == 1]
    train, test = split_good(good, seed) if bad else (good, [])
    return [
        *(Sample(s.path, 0, "train", s.category) for s in train),
        *(Sample(s.path, 0, "test", s.category) for s in test),
        *bad,
    ]


def _table(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() == ".csv" else None
    tables = sorted(root.glob("*.csv")) if root.is_dir() else []
    if len(tables) > 1:
        msg = (
            f"`{root}` holds several tables: {listed(path.name for path in tables)}. Name the one "
            f"to use, such as `{tables[0]}`, as the data root."
        )
        raise DataError(msg)
    return tables[0] if tables else None


def _rows(table: Path) -> Iterator[_Row]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"The table `{table}` cannot be read as UTF-8 text ({error}). Save it so."
        raise DataError(msg) from error
    header = text.partition("\n")[0]
    delimiter = next((mark for mark in "\t;" if mark in header and "," not in header), ",")
    reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter)
    columns = [name.strip().lower() for name in next(reader, [])]
    _check_columns(table, columns)
    seen: dict[Path, int] = {}
    unread: dict[str, set[str]] = {name: set() for name in columns if name not in COLUMNS}
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(columns):
            msg = (
                f"Line {reader.line_num} of `{table}` has {len(cells)} cells, and the header "
                f"{len(columns)}. Put a cell with a `{delimiter}` in it between double quotes."
            )
            raise DataError(msg)
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=True))
        for name, values in unread.items():
            values.add(row[name].lower())
        found = _row(table, reader.line_num, row)
        if found.sample.path in seen:
            msg = (
                f"Lines {seen[found.sample.path]} and {found.line} of `{table}` are of the same "
                f"picture, `{row['image']}`: each must be there once, or it might be learnt from "
                "and tested with."
            )
            raise DataError(msg)
        seen[found.sample.path] = found.line
        yield found
    for name, values in unread.items():
        if "split" not in columns and len(values) > 1 and values <= {*_SPLITS}:
            msg = (
                f"The column `{name}` of `{table}` would not be read, and holds {listed(values)}. "
                "Rename it `split`: pictures to test with would be learnt from."
            )
            raise DataError(msg)


def _row(table: Path, line: int, row: dict[str, str]) -> _Row:
    label = _LABELS.get(row["label"].lower())
    split = row.get("split", "").lower()
    if not row["image"]:
        msg = f"Line {line} of `{table}` names no picture."
        raise DataError(msg)
    if os.sep == "/" and "\\" in row["image"] and not (table.parent / row["image"]).exists():
        msg = (
            f"Line {line} of `{table}` names `{row['image']}`, which is a path on Windows alone. "
            "Write `/` in place of `\\`, which all systems know."
        )
        raise DataError(msg)
    if label is None:
        msg = (
            f"Line {line} of `{table}` has the label {row['label']!r}; allowed: {listed(_LABELS)}."
        )
        raise DataError(msg)
    if split and split not in _SPLITS:
        msg = (
            f"Line {line} of `{table}` has the split {row['split']!r}; allowed: {listed(_SPLITS)}."
            f"{nearest(split, _SPLITS)}"
        )
        raise DataError(msg)
    home = table.parent
    masks = tuple(home / cell.strip() for cell in row.get("mask", "").split(";") if cell.strip())
    sample = Sample(
        path=home / row["image"],
        label=label,
        split=_SPLITS.get(split, "test"),
        category=row.get("category", "") or "all",
        group=(row.get("group", "") or _DEFECTIVE) if label else GOOD,
        masks=masks if label else (),
    )
    return _Row(line, sample, bool(split), masks)


def _check_columns(table: Path, columns: list[str]) -> None:
    for name in ("image", "label"):
        if name not in columns:
            msg = (
                f"`{table}` has no column `{name}`: its first line names {listed(columns)}. Name "
                "the one that holds it so."
            )
            raise DataError(msg)
    for name in {*columns} - {*COLUMNS}:
        meant = get_close_matches(name, {*COLUMNS} - {*columns}, n=1, cutoff=0.8)
        if meant:
            msg = (
                f"The column `{name}` of `{table}` would not be read. Rename it `{meant[0]}` if "
                "that is what it holds, and otherwise to something less alike."
            )
            raise DataError(msg)


DATASET = DatasetSpec(
    name="csv",
    summary="a table of your own pictures: image, label, mask, split, category, group",
    tree=TREE,
    source="your own pictures",
    licence="yours",
    categories=categories,
    samples=samples,
    labelled=labelled,
)
