"""Pictures that a table lists: for those that are not sorted into folders."""

import csv
from pathlib import Path

from ad.core import DatasetSpec, Sample
from ad.core.errors import DataError

TABLE = "pictures.csv"

TREE = """\
<data root>/
  pictures.csv      columns: picture, kind, mask
picture: a path below the root; kind: `train`, `good` or a kind of defect; mask: a path, or empty"""


def categories(root: Path) -> list[str]:
    """The folder itself, if it has a table."""
    return [root.name] if (root / TABLE).is_file() else []


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """One sample a line, in the order of the table."""
    found = []
    with (root / TABLE).open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            try:
                picture, kind, mask = root / line["picture"], line["kind"], line["mask"]
            except KeyError as missing:
                msg = f"`{root / TABLE}` must have the columns picture, kind, mask; no {missing}."
                raise DataError(msg) from missing
            if kind == "train":
                found.append(Sample(picture, 0, "train", category))
            elif kind == "good":
                found.append(Sample(picture, 0, "test", category))
            else:
                masks = (root / mask,) if mask else ()
                found.append(Sample(picture, 1, "test", category, kind, masks))
    return found


DATASET = DatasetSpec(
    name="picture-list",
    summary="pictures listed in a table",
    tree=TREE,
    source="your own pictures",
    licence="yours",
    categories=categories,
    samples=samples,
    also_reads=(TABLE,),
    path_as_category=True,
)
