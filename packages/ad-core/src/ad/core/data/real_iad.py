"""Real-IAD, as published: pictures of one resolution and a JSON file of splits per category.

Wang et al., "Real-IAD: a real-world multi-view dataset for benchmarking versatile industrial
anomaly detection", CVPR 2024. The split is the one of several views, ``realiad_jsons``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from ad.core.data.samples import DatasetSpec, Sample
from ad.core.errors import DataError, listed
from ad.runtime.pictures.walking import folders_in

TREE = """\
<data root>/
  realiad_1024/           or realiad_512, realiad_256, realiad_raw; one of them
    audiojack/            and 29 more categories
      OK/S0001/*.jpg      good parts, five views C1 to C5 of each
      NG/<defect>/S0001/*.jpg   defective parts, with masks as .png
  realiad_jsons/audiojack.json  what to train on and to test with; may be one folder deeper
With several resolutions, the data root is one of their folders: <data root>/realiad_256"""


def categories(root: Path) -> list[str]:
    """Categories that have both pictures and a split.

    Raises:
        DataError: If there are pictures of several resolutions.
    """
    pictures = _pictures(root)
    if pictures is None:
        return []
    names = (folder.name for folder in folders_in(pictures))
    return [name for name in names if _split_file(pictures, name).is_file()]


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the data bring their split, so the seed is not used.

    Raises:
        DataError: If the file of the split is not as published.
    """
    return [s for s in labelled(root, category, seed) if s.label == 0 or s.split == "test"]


def labelled(root: Path, category: str, seed: int) -> list[Sample]:
    """The same with the defective pictures to train on, where a split has some."""
    pictures = _pictures(root)
    assert pictures is not None  # it has categories
    file = _split_file(pictures, category)
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        meta = record.get("meta", {})
        home = pictures / meta.get("prefix", category)
        normal = meta.get("normal_class", "OK")
        found = [_sample(home, category, normal, "train", row) for row in record["train"]]
        found += [_sample(home, category, normal, "test", row) for row in record["test"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"`{file}` is not a split of Real-IAD ({type(error).__name__}: {error}): it must hold "
            "lists `train` and `test` of objects with `image_path`, `mask_path` and "
            "`anomaly_class`. Take it from the original again."
        )
        raise DataError(msg) from error
    return found


def _sample(
    home: Path,
    category: str,
    normal: str,
    split: Literal["train", "test"],
    row: dict[str, str | None],
) -> Sample:
    path, group = home / str(row["image_path"]), str(row["anomaly_class"])
    if group == normal:
        return Sample(path, 0, split, category)
    mask = row.get("mask_path")
    return Sample(path, 1, split, category, group, (home / mask,) if mask else ())


def _pictures(root: Path) -> Path | None:
    """The folder of pictures: one resolution, or the root itself."""
    if root.name.startswith("realiad_") and not root.name.startswith("realiad_jsons"):
        return root
    found = [
        folder
        for folder in folders_in(root)
        if folder.name.startswith("realiad_") and not folder.name.startswith("realiad_jsons")
    ]
    if len(found) > 1:
        msg = (
            f"`{root}` has pictures of several resolutions: {listed(f.name for f in found)}. Name "
            f"the one to use, such as `{found[0]}`, as the data root."
        )
        raise DataError(msg)
    return found[0] if found else None


def _split_file(pictures: Path, category: str) -> Path:
    home = pictures.parent / "realiad_jsons"
    nested = home / "realiad_jsons" / f"{category}.json"
    return nested if nested.is_file() else home / f"{category}.json"


DATASET = DatasetSpec(
    name="real-iad",
    summary="Real-IAD: thirty objects in five views each, 151,050 pictures",
    tree=TREE,
    source="https://realiad4ad.github.io/Real-IAD (on request)",
    licence="CC BY-NC-SA 4.0, no commercial use",
    also_reads=("realiad_jsons/*.json",),
    folders=("Real-IAD", "Real_IAD", "realiad"),
    categories=categories,
    samples=samples,
    labelled=labelled,
)
