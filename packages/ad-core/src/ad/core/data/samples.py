"""What a data set is to everything else: a list of samples.

A layout module turns a root folder into samples and does nothing else. Torch-free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ad.core.errors import PictureError
from ad.runtime.pictures.walking import folders_in
from ad.runtime.progress import Progress

Item = TypeVar("Item")

GOOD = "good"
"""Group of every normal sample."""

TRAIN_FRACTION = 0.8
"""Share of the good pictures to train on where the data bring no split."""


class Saturation(NamedTuple):
    """How much of a defect has to be found for all of it to count as found."""

    value: int
    """Value of the mask's pixels on defects of this kind."""
    threshold: float
    """Pixels, or share of the defect's pixels."""
    relative: bool
    """Whether it is a share."""

    def area(self, pixels: int) -> int:
        """Pixels that have to be found of a defect of so many."""
        wanted = self.threshold * pixels if self.relative else min(self.threshold, pixels)
        return max(1, int(wanted))


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture and what is known about it."""

    path: Path
    """The picture."""
    label: Literal[0, 1]
    """0 for a good part, 1 for a defective one."""
    split: Literal["train", "validation", "test"]
    """``validation`` holds good parts only, to calibrate with, and so does ``train`` but for those
    of `DatasetSpec.labelled`."""
    category: str
    """What is shown: ``bottle``."""
    group: str = GOOD
    """Kind of defect, or ``good``."""
    masks: tuple[Path, ...] = ()
    """Masks of the defects, non-zero where defective; their union counts."""
    saturations: tuple[Saturation, ...] = ()
    """What each value in the masks asks for, in data sets that mark places where it is enough to
    find a part; there, each mask is one defect."""

    @property
    def has_truth(self) -> bool:
        """Whether each pixel's truth is known: it is for good parts and for those with masks."""
        return self.label == 0 or bool(self.masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """One file that holds a data set, as its authors publish it."""

    url: str
    """Where it can be had."""
    checksum: str
    """``sha256:`` or ``md5:`` and the digest in hexadecimal digits."""
    size: int | None = None
    """In bytes, to tell the user beforehand; None if it is not known."""

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSpec:
    """One layout of folders, as announced by an entry point ``ad.datasets``."""

    name: str
    """What a user types."""
    summary: str
    """What the data are, in one line."""
    tree: str
    """The layout that is expected, as a drawing."""
    source: str
    """Where the official data can be had."""
    licence: str
    """Terms of the data."""
    categories: Callable[[Path], list[str]]
    """Root folder to the categories found in it; empty if the layout is another."""
    samples: Callable[[Path, str, int], list[Sample]]
    """Root folder, category and seed (of a split, if the data have none) to samples."""
    labelled: Callable[[Path, str, int], list[Sample]] | None = None
    """The same as `samples`, with defective pictures among those to train on, for models that learn
    from them; None if the layout has none. Good pictures are the same in both."""
    lends_defects: bool = False
    """Whether `labelled` takes them from those to test with, so that a user has to ask for it."""
    kinds_are_folders: bool = False
    """Whether a kind of defect is a folder with all below it, as where users lay out pictures of
    their own. Several folders in that of one kind are told then."""
    prepare: Callable[[Path, list[str], Progress], None] | None = None
    """Called with the root and the categories wanted before their samples are listed."""
    also_reads: tuple[str, ...] = ()
    """Files that are read beside pictures and masks, such as a table of splits: patterns that the
    ends of their paths match. They are not told to be left out."""
    folders: tuple[str, ...] = ()
    """Names that the data's folder usually has, beside `name`; see `ad.core.data.finding`."""
    default_root: Callable[[], Path] | None = None
    """Where the data are when no root is given; None if a root must be given."""
    path_as_category: bool = False
    """Whether ``ad train NAME ./parts ...`` means all of the folder ``./parts``."""
    archive: Archive | None = None
    """The official file, if it can be fetched without asking and its checksum is known."""


def defects_to_learn(samples: Sequence[Sample]) -> list[Sample]:
    """The defective ones among those to train on."""
    return [sample for sample in samples if sample.split == "train" and sample.label == 1]


def describe(dataset: DatasetSpec) -> str:
    """The layout a data set must have and where to get it, for a person."""
    return f"Expected layout of `{dataset.name}`:\n{dataset.tree}\n{describe_source(dataset)}"


def describe_source(dataset: DatasetSpec) -> str:
    """Where to get a data set and on which terms, for a person."""
    lines = [f"Source: {dataset.source}", f"Licence: {dataset.licence}"]
    if dataset.archive is not None:
        size = dataset.archive.size
        lines.append(f"Archive: {dataset.archive.url}{f' ({size / 1e9:.1f} GB)' if size else ''}")
        lines.append(f"Checksum: {dataset.archive.checksum}")
    return "\n".join(lines)


def categories_in(root: Path, holds: Sequence[str]) -> list[str]:
    """Categories of a data set that has a folder for each; the root itself may be the only one.

    Args:
        root: The data set's folder.
        holds: Files and folders that each category has, relative to it.
    """
    if _holds(root, holds):
        return [root.resolve().name]
    return [folder.name for folder in folders_in(root) if _holds(folder, holds)]


def category_folder(root: Path, category: str, holds: Sequence[str]) -> Path:
    """The folder of one of the categories that `categories_in` found."""
    return root if _holds(root, holds) else root / category


def split_seeded(items: Sequence[Item], count: int, seed: int) -> tuple[list[Item], list[Item]]:
    """Split items at random, repeatably.

    Args:
        items: What to split, in an order that does not depend on the machine.
        count: Size of the first part, at most the number of items.
        seed: Equal seeds and items give equal splits.

    Returns:
        The two parts, each in the order of ``items``.
    """
    first = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    chosen = [item for index, item in enumerate(items) if index in first]
    return chosen, [item for index, item in enumerate(items) if index not in first]


def split_good(pictures: Sequence[Item], seed: int) -> tuple[list[Item], list[Item]]:
    """Split good pictures that bring no split of their own: `TRAIN_FRACTION` to train on."""
    return split_seeded(pictures, max(1, int(len(pictures) * TRAIN_FRACTION)), seed)


def fingerprint(samples: Iterable[Sample]) -> str:
    """Sha256 that changes when a picture of the data set comes, goes, moves or changes size.

    Made of names, sizes in bytes, labels and splits, not of the pixels.

    Raises:
        PictureError: If a picture is not there, which only a table or a change meanwhile can bring.
    """
    digest = hashlib.sha256()
    for s in samples:
        name = "/".join(s.path.parts[-3:])
        line = f"{name}|{_size_of(s.path)}|{s.label}|{s.split}|{s.category}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _size_of(picture: Path) -> int:
    try:
        return picture.stat().st_size
    except FileNotFoundError as error:
        msg = f"The picture `{picture}` does not exist. Put it there, or take it out of the data."
        raise PictureError(msg) from error
    except OSError as error:
        msg = (
            f"The picture `{picture}` cannot be read ({error.strerror}). Make it readable, or take "
            "it out of the data."
        )
        raise PictureError(msg) from error


def _holds(folder: Path, names: Sequence[str]) -> bool:
    return all((folder / name).exists() for name in names)


def fingerprint_of(paths: Iterable[Path]) -> str:
    """The `fingerprint` of pictures that are no samples, such as textures."""
    return fingerprint(Sample(path, 0, "train", "") for path in paths)
