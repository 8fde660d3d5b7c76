"""From what a user typed, a data set, categories and a folder, to samples."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ad.core.data.roots import not_read, parts_of
from ad.core.data.samples import DatasetSpec, Sample, describe
from ad.core.errors import DataError, listed, nearest
from ad.runtime.paths import given_path, nearest_beside
from ad.runtime.progress import SILENT, Progress


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


def locate_again(
    dataset: DatasetSpec, category: str, root: str | Path | None
) -> tuple[str, Path | None]:
    """Where data are that a run was trained on: category and root, of which the root may be new."""
    _, place = locate(dataset, category, root)
    if place is not None and dataset.categories(place) == [place.name] and category != "all":
        category = place.name  # the root is the one category itself, and may have been renamed
    return category, place


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


def _role(sample: Sample) -> str:
    return f"{sample.group}, {sample.split}"


def _no_folder(dataset: DatasetSpec, category: str, folder: Path) -> str:
    """What to do where a folder of pictures is none: it is mistyped, or means something else."""
    if "=" in category and len(parts_of(category)) > 1:
        return (
            f"`{category}` is a data root of several folders, not a folder.\n"
            f"hint: type `all --data-root {shlex.quote(category)}`"
        )
    if folder.is_file():
        return f"`{category}` is a file. Give the folder of your pictures."
    words = f"There is no folder `{category}`."
    if close := nearest_beside(folder):
        return f"{words}{close}"
    return (
        f"{words} Give the folder of your pictures, or a category and `--data-root DIR`.\n"
        f"{describe(dataset)}"
    )


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


def _what_is_there(root: Path) -> str:
    if not root.exists():
        return f"The folder `{root}` does not exist."
    if not root.is_dir():
        return f"`{root}` is a file, not a folder."
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    found = ", ".join(f"`{name}`" for name in names[:8]) or "nothing"
    return f"The folder `{root}` holds {found}{', ...' if len(names) > 8 else ''}."
