"""Who works where: folders of one's own, claims on what is there, and what the killed have left.

A claim is a lock of the system and no file: it ends with its process, however that ends, and so
none is ever stale. On Windows, and on a file system without locks, nobody is kept out by one; new
folders have one owner there too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

from ad.core.errors import OutputError
from ad.runtime.files import alone as alone
from ad.runtime.files import claim as claim
from ad.runtime.files import temporary_name as temporary_name

_TEMPORARY = re.compile(r"\.(.*\.)?[0-9a-f]{32}\.tmp", re.DOTALL)


_held: ContextVar[contextlib.ExitStack] = ContextVar("held")


@contextlib.contextmanager
def letting_go() -> Iterator[None]:
    """Give up what is held inside (see `hold`), however that ends; for a job, a decorator."""
    with contextlib.ExitStack() as stack:
        token = _held.set(stack)
        try:
            yield
        finally:
            _held.reset(token)


def hold(file: IO[bytes]) -> None:
    """Keep a claimed file open until the job that goes on ends."""
    if sys.platform == "win32":  # where it keeps nobody out, and could not be removed
        file.close()
    else:
        _held.get().enter_context(file)


def make_folder(path: Path) -> None:
    """Make a folder for results; refuse one that already holds something.

    Nobody else can make it their own until the job ends, see `letting_go`.

    Raises:
        OutputError: If it cannot be made, is not empty, or another process has just made it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        ours = _hold_folder(path)
        taken = any(path.iterdir())
    except OSError as error:
        raise OutputError(_not_made(path, error)) from error
    if not ours:
        msg = (
            f"Another process writes to the output folder `{path}`, so nothing there was touched. "
            "Name another one."
        )
        raise OutputError(msg)
    if taken:
        msg = f"The output folder `{path}` is not empty. Name another one, or remove it first."
        raise OutputError(msg)


def _hold_folder(path: Path) -> bool:
    """Whether nobody else holds a folder; outside of a job, nothing is held."""
    stack = _held.get(None)
    if sys.platform == "win32" or stack is None:
        return True
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    stack.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # no locks there
    return True


def make_free_folder(wanted: Path) -> Path:
    """Make a folder, with the first number behind its name that is not taken, if it is taken.

    Of several processes that ask at once, each gets its own.

    Raises:
        OutputError: If it cannot be made.
    """
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            if isinstance(error, FileExistsError) and os.path.lexists(folder):
                continue
            raise OutputError(_not_made(folder, error)) from error
        return folder
    raise AssertionError  # there is no last number


def _not_made(path: Path, error: OSError) -> str:
    return f"The output folder `{path}` cannot be made ({error.strerror})."


def clear_leftovers(*folders: Path) -> None:
    """Remove what processes that were killed have left half written directly in folders.

    Nothing is removed that a process is writing, or where that cannot be told.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                if _TEMPORARY.fullmatch(path.name):
                    _remove_abandoned(path)


def _remove_abandoned(path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # such as one in use
        mode = path.lstat().st_mode
        folder = stat.S_ISDIR(mode)
        if not folder and not stat.S_ISREG(mode):
            return
        # Between making and claiming it, it is empty.
        if not (any(path.iterdir()) if folder else path.stat().st_size):
            return
        handle = os.open(path, os.O_RDONLY)
        stack.callback(os.close, handle)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder:
            shutil.rmtree(path)
        else:
            path.unlink()
