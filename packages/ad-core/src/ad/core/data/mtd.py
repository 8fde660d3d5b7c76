"""Magnetic Tile Defects, as published.

Huang, Qiu & Yuan, "Surface defect saliency of magnetic tile", The Visual Computer 2020. The data
bring no split: a seeded 80 % of the normal tiles are for training, the rest and all defective
tiles for testing.
"""

from __future__ import annotations

from pathlib import Path

from ad.core.data.samples import DatasetSpec, Sample, split_good
from ad.runtime.pictures.walking import folders_in, pictures_in

TREE = """\
<data root>/
  MT_Free/Imgs/*.jpg       good tiles (a .png of the same stem is an all-zero mask)
  MT_Blowhole/Imgs/*.jpg   defective tiles with masks as .png of the same stem;
  MT_Break, MT_Crack, MT_Fray, MT_Uneven   likewise"""


def categories(root: Path) -> list[str]:
    """The single category, ``all``, if this is the data set's folder."""
    return ["all"] if pictures_in(root / "MT_Free" / "Imgs") else []


def samples(root: Path, category: str, seed: int) -> list[Sample]:
    """All tiles, the normal ones split with the seed."""
    good = _tiles(root / "MT_Free")
    train, test = split_good(good, seed)
    found = [Sample(path, 0, "train", category) for path in train]
    found += [Sample(path, 0, "test", category) for path in test]
    for folder in folders_in(root):
        kind = folder.name.removeprefix("MT_")
        if kind in (folder.name, "Free"):
            continue
        for path in _tiles(folder):
            mask = path.with_suffix(".png")
            masks = (mask,) if mask.is_file() else ()
            found.append(Sample(path, 1, "test", category, kind.lower(), masks))
    return found


def _tiles(folder: Path) -> list[Path]:
    return [path for path in pictures_in(folder / "Imgs") if path.suffix.lower() != ".png"]


DATASET = DatasetSpec(
    name="mtd",
    summary="Magnetic Tile Defects: 952 good tiles, 392 defective in 5 kinds",
    tree=TREE,
    source="https://github.com/abin24/Magnetic-tile-defect-datasets.",
    licence="free for research; cite Huang, Qiu & Yuan, The Visual Computer 2020",
    folders=("MTD", "Magnetic-tile-defect-datasets.", "Magnetic-Tile-Defect"),
    categories=categories,
    samples=samples,
)
