"""Where a picture goes once its line is written."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import final

from ad.runtime.errors import OutputError, SettingError
from ad.runtime.files import sync_folder

KINDS = {"good": "good", "defective": "defective", "error": "unreadable"}
"""What pictures of a verdict are called where their destinations are given."""


@final
class Destinations:
    """A folder for each kind of picture, on the file system of the watched one.

    Args:
        folder: That is watched.
        given: Folders by kind, of the values of `KINDS`; each is made if it is not there.

    Raises:
        SettingError: If a kind is not known, or a folder lies in the watched one or on another file
            system.
        OutputError: If a folder cannot be made.
    """

    def __init__(self, folder: Path, given: Mapping[str, Path]) -> None:
        self.folder = folder
        self._of: dict[str, Path] = {}
        home = folder.resolve()
        for kind, destination in given.items():
            if kind not in KINDS.values():
                kinds = ", ".join(f"{one}=DIR" for one in KINDS.values())
                msg = f"`--move` takes {kinds}; got `{kind}`."
                raise SettingError(msg)
            if destination.resolve().is_relative_to(home):
                msg = (
                    f"`{destination}`, to which {kind} pictures are to be moved, lies in the "
                    f"watched folder `{folder}`: they would be found again. Name one outside of it."
                )
                raise SettingError(msg)
            try:
                destination.mkdir(parents=True, exist_ok=True)
                other = destination.stat().st_dev != folder.stat().st_dev
            except OSError as error:
                msg = f"The folder `{destination}` cannot be made ({error.strerror})."
                raise OutputError(msg) from error
            if other:
                msg = (
                    f"`{destination}` is on another file system than `{folder}`, where a move is a "
                    "copy that can be cut short. Name a folder on the same one."
                )
                raise SettingError(msg)
            self._of[kind] = destination.resolve()

    def free(self, path: Path, verdict: str) -> Path | None:
        """Where a picture is moved to: its path below the watched folder, or with a number.

        Args:
            path: The picture.
            verdict: Its verdict; one that there is no folder for stays where it is.
        """
        home = self._of.get(KINDS.get(verdict, ""))
        if home is None:
            return None
        wanted = home / path.relative_to(self.folder)
        for number in itertools.count(1):
            name = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if not os.path.lexists(name):
                return name
        raise AssertionError  # there is no last number


def move(path: Path, destination: Path) -> None:
    """Move a file on one file system, over nothing; what was begun before is finished.

    Raises:
        OutputError: If it cannot be moved, or something else is there; the file stays.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(destination) and not _same(path, destination):
            msg = (
                f"`{path}` stays: `{destination}`, where its line says that it was moved to, is "
                "another file. Move it by hand."
            )
            raise OutputError(msg)
        try:
            with contextlib.suppress(FileExistsError):  # a link that a kill has left
                os.link(path, destination, follow_symlinks=False)
            path.unlink()
        except OSError:  # a file system without links
            if os.path.lexists(destination):
                raise
            path.rename(destination)
        sync_folder(destination.parent)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        msg = f"`{path}` cannot be moved to `{destination}` ({error.strerror}). It stays there."
        raise OutputError(msg) from error


def _same(path: Path, other: Path) -> bool:
    one, two = path.lstat(), other.lstat()
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
