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

from ad.core.errors import DataError, PictureError, listed, nearest
from ad.core.paths import given_path
from ad.core.progress import SILENT, Progress

Item = TypeVar("Item")

GOOD = "good"
"""Group of every normal sample."""

TRAIN_FRACTION = 0.8
"""Share of the good pictures to train on where the data bring no split."""

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""File names that end like this are pictures; case does not matter."""


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
    """``train`` holds good parts only, and so does ``validation``: to calibrate with."""
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
    prepare: Callable[[Path, list[str], Progress], None] | None = None
    """Called with the root and the categories wanted before their samples are listed."""
    default_root: Callable[[], Path] | None = None
    """Where the data are when no root is given; None if a root must be given."""
    path_as_category: bool = False
    """Whether ``ad train NAME ./parts ...`` means all of the folder ``./parts``."""
    archive: Archive | None = None
    """The official file, if it can be fetched without asking and its checksum is known."""


def collect(
    dataset: DatasetSpec,
    category: str,
    *,
    root: Path | None,
    seed: int,
    progress: Progress = SILENT,
) -> list[Sample]:
    """The samples of one, several or all categories of a data set.

    Args:
        dataset: The layout.
        category: A name, a comma list of names, or ``all``.
        root: The data set's folder; None for the layout's default.
        seed: Seed of a split that the data do not bring themselves.
        progress: Where to show how far a data set is that must be made first.

    Returns:
        Samples, categories in the order asked for.

    Raises:
        DataError: If the folder is missing or laid out otherwise, a category does not exist, or
            there is nothing to train on.
    """
    if root is None:
        if dataset.default_root is None:
            msg = (
                f"The data set `{dataset.name}` needs its folder: give `--data-root DIR` "
                f"(`data_root=` in Python).\n{describe(dataset)}"
            )
            raise DataError(msg)
        root = dataset.default_root()
    known = dataset.categories(root)
    if not known:
        msg = f"{_what_is_there(root)} It is not laid out as `{dataset.name}`.\n{describe(dataset)}"
        raise DataError(msg)
    asked = (name.strip() for name in category.split(","))
    wanted = known if category == "all" else list(dict.fromkeys(name for name in asked if name))
    for name in wanted:
        if name not in known:
            msg = (
                f"`{root}` has no category `{name}`.{nearest(name, known)} It has "
                f"{listed({*known, 'all'})}."
            )
            raise DataError(msg)
    if dataset.prepare is not None:
        dataset.prepare(root, wanted, progress)
    samples = [sample for name in wanted for sample in dataset.samples(root, name, seed)]
    if not any(sample.split == "train" for sample in samples):
        msg = f"`{root}` holds no good pictures to train on.\n{describe(dataset)}"
        raise DataError(msg)
    return samples


def locate(dataset: DatasetSpec, category: str, root: str | Path | None) -> tuple[str, Path | None]:
    """Settle what a user's category and data root mean, wherever the process is started next.

    Args:
        dataset: The layout.
        category: As given; for `DatasetSpec.path_as_category`, it may be the folder itself.
        root: As given.

    Returns:
        Category and root; roots are absolute.

    Raises:
        DataError: If a category that must be a folder is none.
    """
    if root is None and dataset.path_as_category:
        folder = given_path(category, "the folder of pictures").expanduser()
        if not folder.is_dir():
            msg = (
                f"There is no folder `{category}`. Give the folder of your pictures, or a category "
                f"and `--data-root DIR`.\n{describe(dataset)}"
            )
            raise DataError(msg)
        return "all", folder.resolve()
    if root is None:
        return category, None
    path = given_path(root, "the data root").expanduser()
    if "=" not in str(root) or path.exists():
        return category, path.resolve()
    # Parts, such as `normal=DIR,abnormal=DIR`: each is a folder.
    parts = (part.partition("=") for part in str(root).split(","))
    named = ((key, given_path(value, f"`{key}=`")) for key, _, value in parts)
    whole = (f"{key}={value.expanduser().resolve()}" for key, value in named)
    return category, Path(",".join(whole))


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


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly inside a folder, sorted by name; hidden files are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def pictures_below(folder: Path) -> list[Path]:
    """Pictures inside a folder and all its sub-folders, sorted by path; hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def folders_in(folder: Path) -> list[Path]:
    """Folders directly inside a folder, sorted by name; hidden ones are left out."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


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


def masks_by_stem(folder: Path) -> dict[str, Path]:
    """Masks of a folder by the stem of the picture they belong to, whatever their suffix.

    ``000_mask.png``, ``000_GT.bmp`` and ``000.png`` all belong to picture ``000``.
    """
    return {_picture_stem(path): path for path in pictures_in(folder)}


def pictures_with_masks(folder: Path) -> list[tuple[Path, Path | None]]:
    """Pictures of a folder that holds their masks too, each with its mask if it has one.

    ``000_GT.png``, ``000_label.bmp`` and ``000_mask.png`` are masks; ``000.png`` is a picture.
    """
    paths = pictures_in(folder)
    masks = {_picture_stem(path): path for path in paths if _picture_stem(path) != path.stem}
    pictures = [path for path in paths if _picture_stem(path) == path.stem]
    return [(path, masks.get(path.stem)) for path in pictures]


def check_masks_fit(folder: Path, stems: Iterable[str]) -> None:
    """Check that a folder of masks has one for any picture at all.

    Args:
        folder: Masks, as for `masks_by_stem`; may be missing.
        stems: Of the pictures that masks may be of.

    Raises:
        DataError: If there are masks, and all have other names.
    """
    masks = masks_by_stem(folder)
    stems = sorted(stems)
    if masks and stems and not set(masks) & set(stems):
        msg = (
            f"None of the {len(masks)} masks in `{folder}` has the name of a picture: the first is "
            f"`{next(iter(masks.values())).name}`, and a mask is needed for `{stems[0]}`, such as "
            f"`{stems[0]}.png` or `{stems[0]}_mask.png`. Rename the masks, or move them away."
        )
        raise DataError(msg)


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


def _picture_stem(mask: Path) -> str:
    """Stem of the picture that a mask belongs to."""
    for ending in ("_mask", "_gt", "_label"):
        if mask.stem.lower().endswith(ending):
            return mask.stem[: -len(ending)]
    return mask.stem


def fingerprint_of(paths: Iterable[Path]) -> str:
    """The `fingerprint` of pictures that are no samples, such as textures."""
    return fingerprint(Sample(path, 0, "train", "") for path in paths)


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return f"The folder `{root}` does not exist."
    if not root.is_dir():
        return f"`{root}` is a file, not a folder."
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    found = ", ".join(f"`{name}`" for name in names[:8]) or "nothing"
    return f"The folder `{root}` holds {found}{', ...' if len(names) > 8 else ''}."
