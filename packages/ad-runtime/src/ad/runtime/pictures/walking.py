"""Which pictures lie in a folder, and which files there are none.

Folders that are links are followed, each folder once; a link back to a folder around it is an
error. Left out are hidden files, what systems and viewers put beside pictures, and what `ad` itself
wrote: run directories and the heat maps of predictions. `everything_below` names all of these, so
that what was left out can be told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ad.runtime.errors import DataError
from ad.runtime.pictures.frames import SUFFIXES as OF_VIDEOS
from ad.runtime.pictures.names import is_left_out

SUFFIXES = frozenset(
    {
        *(".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
        *(".tif", ".tiff", ".webp"),
    }
)
"""File names that end like this are pictures; case does not matter."""

HIDDEN = "hidden, or made by a system, viewer or detector"
OURS = "what `ad` wrote: runs, predictions, heat maps"
ALIAS = "a link to a folder that is read already"
NO_FILE = "a link to nothing, or no plain file"
VIDEO = "videos: prediction takes those that are named, nothing else does"
OTHER_FORMAT = "no format that is read"


class Found(NamedTuple):
    """One file below a folder."""

    path: Path
    """The file; inside a folder that is left out whole, some file of it."""
    why: str | None
    """Why it is no picture of the folder; None if it is one."""


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly inside a folder, sorted by name; hidden files are left out.

    Raises:
        DataError: If the folder cannot be listed.
    """
    if not folder.is_dir() or is_ours(folder):
        return []
    return [
        Path(entry.path)
        for entry in _listed(folder)
        if _suffix(entry) in SUFFIXES and not is_left_out(entry.name) and entry.is_file()
    ]


def pictures_below(folder: Path) -> list[Path]:
    """Pictures inside a folder and all its sub-folders, sorted by path; see this module.

    Raises:
        DataError: If a folder cannot be listed, or a link leads back to a folder around it.
    """
    return sorted(found.path for found in everything_below(folder) if found.why is None)


def folders_in(folder: Path) -> list[Path]:
    """Folders directly inside a folder, sorted by name, but for those that are left out.

    Raises:
        DataError: If the folder cannot be listed.
    """
    if not folder.is_dir():
        return []
    return [
        path
        for entry in _listed(folder)
        if entry.is_dir() and not is_left_out(entry.name) and not is_ours(path := Path(entry.path))
    ]


def everything_below(folder: Path, *, without: frozenset[str] = frozenset()) -> Iterator[Found]:
    """All files inside a folder and its sub-folders, with why those are left out that are.

    Args:
        folder: Where to look; without it there is nothing.
        without: Names of folders that are passed over, and not named.

    Raises:
        DataError: If a folder cannot be listed, or a link leads back to a folder around it.
    """
    if folder.is_dir():
        yield from _below(folder, None, {}, set(), without)


def is_ours(folder: Path) -> bool:
    """Whether `ad` wrote a folder: a run directory, a bench's, or the heat maps of a prediction."""
    if (folder / "predictions.csv").is_file():
        return True
    if folder.name == "heatmaps" and (folder.parent / "predictions.csv").is_file():
        return True
    return (folder / "run.json").is_file() and (
        (folder / "log.jsonl").is_file() or (folder / "model").is_dir()
    )


def _below(
    folder: Path,
    why: str | None,
    around: dict[tuple[int, int], Path],
    seen: set[tuple[int, int]],
    without: frozenset[str],
) -> Iterator[Found]:
    status = folder.stat()
    key = (status.st_dev, status.st_ino)
    if key in around:
        # The folder may be a real one behind a link: whoever removed that would lose pictures.
        link = next((path for path in (folder, *folder.parents) if path.is_symlink()), folder)
        msg = (
            f"`{link}` is a link back to `{around[key]}`, a folder around it: it would be read "
            "for ever. Remove the link."
        )
        raise DataError(msg)
    if why is None and is_ours(folder):
        why = OURS
    if key in seen:
        why = why or ALIAS
    seen.add(key)
    for entry in _listed(folder):
        path = Path(entry.path)
        reason = why or (HIDDEN if is_left_out(entry.name) else None)
        if entry.is_dir():
            if entry.name in without or (reason is not None and entry.is_symlink()):
                continue  # nothing in a linked one is read: it needs no following
            yield from _below(path, reason, {**around, key: folder}, seen, without)
        elif not entry.is_file():  # what it is a link to may have been a folder of pictures
            yield Found(path, reason or NO_FILE)
        else:
            yield Found(path, reason or _why_not_read(_suffix(entry)))


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        msg = (
            f"The folder `{folder}` cannot be listed ({error.strerror}). Make it readable, or move "
            "it out of the data."
        )
        raise DataError(msg) from error


def _why_not_read(suffix: str) -> str | None:
    if suffix in SUFFIXES:
        return None
    return VIDEO if suffix in OF_VIDEOS else OTHER_FORMAT


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()
