"""A file for each of many pictures: its number, and what tells the pictures apart."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from ad.runtime.errors import OutputError
from ad.runtime.files import write_atomic
from ad.runtime.pictures.frames import without_suffix

_NAME_LENGTH = 60  # characters of a name, the last ones: up to 240 bytes of 255
_REFUSED_NAMES = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)  # too long, or not in this text


def numbered_names(paths: Sequence[Path], suffix: str) -> list[str]:
    """A name for each picture: its number and its path below the folder that all are in."""
    top = Path(os.path.commonpath([path.parent.absolute() for path in paths]))
    names = []
    for number, path in enumerate(paths, start=1):
        inside = "-".join(without_suffix(path).absolute().relative_to(top).parts)
        names.append(f"{number:04d}-{inside[-_NAME_LENGTH:]}{suffix}")
    return names


def write_numbered(folder: Path, name: str, content: bytes) -> Path:
    """Write a picture's file, under its number alone where the file system refuses its name.

    Raises:
        OutputError: If it cannot be written.
    """
    try:
        write_atomic(folder / name, content)
    except OutputError as error:
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _REFUSED_NAMES:
            raise
        name = f"{name.partition('-')[0]}{Path(name).suffix}"
        write_atomic(folder / name, content)
    return folder / name
