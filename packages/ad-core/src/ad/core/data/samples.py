"""What a data set is to everything else: a list of samples.

A layout module turns a root folder into samples and does nothing else. Torch-free.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from ad.core.data.roots import not_read, parts_of
from ad.core.errors import DataError, PictureError, listed, nearest
from ad.runtime.paths import given_path
from ad.runtime.pictures.walking import folders_in
from ad.runtime.progress import SILENT, Progress

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
    prepare: Callable[[Path, list[str], Progress], None] | None = None
    """Called with the root and the categories wanted before their samples are listed."""
    folders: tuple[str, ...] = ()
    """Names that the data's folder usually has, beside `name`; `locate` looks for them."""
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
    labelled: bool = False,
    progress: Progress = SILENT,
) -> list[Sample]:
    """The samples of one, several or all categories of a data set.

    Args:
        dataset: The layout.
        category: A name, a comma list of names, or ``all``.
        root: The data set's folder; None for the layout's default.
        seed: Seed of a split that the data do not bring themselves.
        labelled: Whether defective pictures may be among those to train on; see
            `DatasetSpec.labelled`.
        progress: Where to show how far a data set is that must be made first.

    Returns:
        Samples, categories in the order asked for.

    Raises:
        DataError: If the folder is missing or laid out otherwise, a category does not exist, or
            there is nothing to train on.
    """
    root, wanted = find_categories(dataset, category, root)
    if dataset.prepare is not None:
        dataset.prepare(root, wanted, progress)
    find = dataset.labelled if labelled and dataset.labelled is not None else dataset.samples
    samples = [sample for name in wanted for sample in find(root, name, seed)]
    if not any(sample.split == "train" and sample.label == 0 for sample in samples):
        msg = f"`{root}` holds no good pictures to train on.{not_read(root)}\n{describe(dataset)}"
        raise DataError(msg)
    refuse_one_file_twice(samples)
    return samples


def find_categories(
    dataset: DatasetSpec, category: str, root: Path | None
) -> tuple[Path, list[str]]:
    """Which categories are meant, and the folder that holds them; no picture is listed.

    Args:
        dataset: The layout.
        category: A name, a comma list of names, or ``all``.
        root: The data set's folder; None for the layout's default.

    Returns:
        The folder and the categories, in the order asked for.

    Raises:
        DataError: If the folder is missing or laid out otherwise, or a category does not exist.
    """
    if root is None:
        if dataset.default_root is None:
            raise DataError(_no_root(dataset, category))
        root = dataset.default_root()
    known = dataset.categories(root)
    if not known:
        msg = f"{_what_is_there(root)} It is not laid out as `{dataset.name}`.\n{describe(dataset)}"
        raise DataError(msg)
    return root, known if category == "all" else _asked(category, known, root)


def locate_again(
    dataset: DatasetSpec, category: str, root: str | Path | None
) -> tuple[str, Path | None]:
    """Where data are that a run was trained on: category and root, of which the root may be new."""
    _, place = locate(dataset, category, root)
    if place is not None and dataset.categories(place) == [place.name] and category != "all":
        category = place.name  # the root is the one category itself, and may have been renamed
    return category, place


def defects_to_learn(samples: Sequence[Sample]) -> list[Sample]:
    """The defective ones among those to train on."""
    return [sample for sample in samples if sample.split == "train" and sample.label == 1]


def _asked(category: str, known: Sequence[str], root: Path) -> list[str]:
    """Categories of a comma list; a name may have commas itself.

    Raises:
        DataError: If one does not exist, or the list can be read in two ways.
    """
    pieces = [piece for piece in category.split(",") if piece.strip()]
    if not pieces:
        msg = (
            f"An empty category was given for `{root}`: is a variable not set? It has "
            f"{listed({*known, 'all'})}."
        )
        raise DataError(msg)
    readings = list(_readings(pieces, known))
    if len(readings) > 1:
        ways = " or ".join(listed(reading) for reading in readings)
        msg = (
            f"The categories `{category}` of `{root}` can be read as {ways}, since a name has a "
            "comma in it. Rename one of the folders, or train them one by one."
        )
        raise DataError(msg)
    if readings:
        return list(dict.fromkeys(readings[0]))
    unknown = next((p.strip() for p in pieces if p.strip() not in known), category)
    msg = f"`{root}` has no category `{unknown}`.{nearest(unknown, known)} It has " + (
        f"{listed({*known, 'all'})}."
    )
    raise DataError(msg)


def _readings(pieces: Sequence[str], known: Sequence[str]) -> Iterator[list[str]]:
    """All ways to join the pieces of a comma list to names that exist."""
    if not pieces:
        yield []
    for count in range(1, len(pieces) + 1):
        name = ",".join(pieces[:count]).strip()
        if name in known:
            yield from ([name, *rest] for rest in _readings(pieces[count:], known))


def refuse_one_file_twice(samples: Sequence[Sample]) -> None:
    """Refuse a file that is two samples, by another spelling of its path or by a link.

    Raises:
        DataError: If there is one: it might be learnt from and tested with, or be good and bad.
    """
    seen: dict[tuple[int, int], Sample] = {}
    for sample in samples:
        try:
            status = os.stat(sample.path)
        except OSError:
            continue  # told of where it is read
        if not status.st_ino:
            continue  # a file system that does not tell files apart
        other = seen.setdefault((status.st_dev, status.st_ino), sample)
        if other is not sample:
            msg = (
                f"`{other.path}` ({_role(other)}) and `{sample.path}` ({_role(sample)}) are the "
                "same file: a picture must be there once, or it would count twice, or be learnt "
                "from and tested with. Remove one of the two."
            )
            raise DataError(msg)


def _role(sample: Sample) -> str:
    return f"{sample.group}, {sample.split}"


def locate(dataset: DatasetSpec, category: str, root: str | Path | None) -> tuple[str, Path | None]:
    """Settle what a user's category and data root mean, wherever the process is started next.

    Args:
        dataset: The layout.
        category: As given; for `DatasetSpec.path_as_category`, it may be the folder itself.
        root: As given.

    Returns:
        Category and root; roots are absolute. Without one it is looked for: see `find_root`.

    Raises:
        DataError: If a category that must be a folder is none, or the data are not found.
    """
    if root is None and dataset.path_as_category:
        folder = given_path(category, "the folder of pictures").expanduser()
        if not folder.is_dir():
            raise DataError(_no_folder(dataset, category, folder))
        return "all", folder.resolve()
    if root is None:
        return category, None if dataset.default_root is not None else find_root(dataset, category)
    path = given_path(root, "the data root").expanduser()
    if "=" not in str(root) or path.exists():
        return category, path.resolve()
    # Parts, such as `normal=DIR,abnormal=DIR`: each is a folder.
    named = ((key, given_path(value, f"`{key}=`")) for key, value in parts_of(root))
    whole = (f"{key}={value.expanduser().resolve()}" for key, value in named)
    return category, Path(",".join(whole))


def _no_folder(dataset: DatasetSpec, category: str, folder: Path) -> str:
    """What to do where a folder of pictures is none: it is mistyped, or means something else."""
    if "=" in category and len(parts_of(category)) > 1:
        root = shlex.quote(category)
        return (
            f"`{category}` is a data root of several folders, not a folder.\n"
            f"hint: type `all --data-root {root}`"
        )
    if folder.is_file():
        return f"`{category}` is a file. Give the folder of your pictures."
    words = f"There is no folder `{category}`."
    if close := nearest(folder.name, [path.name for path in folders_in(folder.parent)]):
        return f"{words}{close}"
    return (
        f"{words} Give the folder of your pictures, or a category and `--data-root DIR`.\n"
        f"{describe(dataset)}"
    )


def find_root(dataset: DatasetSpec, category: str = "all") -> Path:
    """The folder of a data set where none is given, by one of its names.

    It lies in the folder that the environment variable ``AD_DATA`` names, or without that in
    ``./data`` or ``./datasets``.

    Raises:
        DataError: If it is at none of the places, or at several; they are listed.
    """
    found = {place.resolve(): place for place in _places(dataset) if dataset.categories(place)}
    if len(found) > 1:
        msg = (
            f"The data set `{dataset.name}` is in several places: "
            f"{listed(str(place) for place in found)}. Say which with `--data-root DIR` "
            "(`data_root=` in Python)."
        )
        raise DataError(msg)
    if not found:
        raise DataError(_no_root(dataset, category))
    return next(iter(found))


def _places(dataset: DatasetSpec) -> list[Path]:
    homes = [os.environ["AD_DATA"]] if os.environ.get("AD_DATA") else ["data", "datasets"]
    names = dict.fromkeys((dataset.name, *dataset.folders))
    return [Path(home).expanduser() / name for home in homes for name in names]


def _no_root(dataset: DatasetSpec, category: str) -> str:
    places = _places(dataset)
    there = [place for place in places if place.is_dir()]
    looked = ", ".join(f"`{place}`" for place in places)
    but = f" (`{there[0]}` is there, and laid out otherwise)" if there else ""
    return (
        f"The data set `{dataset.name}` needs its folder. Looked at {looked}{but}. Give "
        "`--data-root DIR` (`data_root=` in Python), or set `AD_DATA` to the folder around it.\n"
        f"{describe(dataset)}{_path_meant(category)}"
    )


def _path_meant(category: str) -> str:
    """Point from a path in a category's place to where it belongs."""
    if category == "all" or not os.path.exists(category):
        return ""
    return (
        f"\nhint: `{category}` is a path: to use it, type `all --data-root {shlex.quote(category)}`"
    )


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


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return f"The folder `{root}` does not exist."
    if not root.is_dir():
        return f"`{root}` is a file, not a folder."
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    found = ", ".join(f"`{name}`" for name in names[:8]) or "nothing"
    return f"The folder `{root}` holds {found}{', ...' if len(names) > 8 else ''}."
