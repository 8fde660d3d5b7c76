"""Paths that a user gives, and names that file systems take. Torch-free."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from ad.runtime.errors import PathError, nearest
from ad.runtime.files import LONGEST_NAME as LONGEST_NAME

_LOOKED_AT = 1_000
"""Names in a folder that a mistyped one is compared with."""


def nearest_beside(path: Path) -> str:
    """Words that point from a path that is not there to one beside it; see `nearest`."""
    try:
        with os.scandir(path.parent) as found:
            return nearest(path.name, [entry.name for entry in islice(found, _LOOKED_AT)])
    except OSError:
        return ""


def ending(name: str, size: int) -> str:
    """As much of a name's end as fits into a number of bytes, in whole characters."""
    while len(os.fsencode(name)) > size:
        name = name[1:]
    return name


def given_path(path: str | os.PathLike[str], what: str) -> Path:
    """A path as it was given, which must not be empty.

    An empty one is mostly a variable that is not set, and `pathlib.Path` would take it for the
    current folder.

    Args:
        path: As given.
        what: What it is of, for the error: ``--output``, ``the run``.

    Raises:
        PathError: If it is empty.
    """
    if not os.fspath(path):
        msg = (
            f"An empty path was given for {what}: is a variable not set? Give the path; the "
            "current folder is `.`."
        )
        raise PathError(msg)
    return Path(path)
