"""The embedded data set as a layout: it writes its own pictures the first time it is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ad.core.data import mvtec
from ad.core.data.samples import DatasetSpec, Sample
from ad.core.data.synthetic import CATEGORIES, total, write

if TYPE_CHECKING:
    from ad.runtime.progress import Progress

TREE = """\
<data root>/               an empty or new folder; the user's cache by default
  <category>/<category>/   fabric, metal, tray, wood, each written when it is first needed,
                           in MVTec AD's layout"""


def default_root() -> Path:
    """The user's cache folder for these pictures."""
    from ad.core.data.synthetic.tree import DRAWING

    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "ad" / f"synthetic-{DRAWING}"


def categories(root: Path) -> list[str]:
    """The same four, whatever the root holds."""
    return sorted(CATEGORIES)


def prepare(root: Path, wanted: list[str], progress: Progress) -> None:
    """Write the pictures of some categories, unless they are there."""
    for category in wanted:
        count = total(categories=[category])
        with progress.step(f"pictures of {category}", total=count, unit="pictures") as advance:
            write(root / category, categories=[category], advance=advance)


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """Samples of one category; the pictures are the same whatever the run's seed."""
    return mvtec.samples(root / category, category, seed)


DATASET = DatasetSpec(
    name="synthetic",
    summary="four products drawn by code, with defects and exact masks; needs no download",
    tree=TREE,
    source="made on this machine by ad-core, the same everywhere",
    licence="Apache-2.0",
    categories=categories,
    samples=samples,
    prepare=prepare,
    default_root=default_root,
)
