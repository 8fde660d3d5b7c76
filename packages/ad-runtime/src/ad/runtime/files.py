"""Writes files so that a crash never leaves half of one, and reads what may come from anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ad.runtime.errors import ModelFileError, OutputError
from ad.runtime.printable import escaped_json

LARGEST_JSON = 16 * 2**20
"""Bytes; a larger one is no configuration, and parsing it would take the memory."""

LONGEST_NAME = 255
"""Bytes of a name that file systems allow."""


def claim(file: IO[bytes], *, shared: bool = False, wait: bool = False) -> bool:
    """Claim an open file for this process and those that inherit it, until all have closed it.

    Args:
        file: Open for reading and writing: some file systems lock nothing else.
        shared: Whether others may have a shared claim on it too.
        wait: Whether to wait for others to give up theirs.

    Returns:
        Whether nobody else has a claim on it that keeps this one out.
    """
    if sys.platform != "win32":
        import fcntl

        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file.fileno(), kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # no locks there
    return True


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time work on a file or in a folder; others wait until it is done."""
    with contextlib.ExitStack() as stack:
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def temporary_name(path: Path) -> Path:
    """A hidden name beside a file or folder, for what is to have its name once it is whole.

    Whoever writes it works on it `alone`, so that what clears up after the killed lets it be.
    """
    tag = f"{uuid.uuid4().hex}.tmp"
    whole = f".{path.name}.{tag}"
    fits = len(os.fsencode(whole)) <= LONGEST_NAME
    return path.with_name(whole if fits else f".{tag}")


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename.

    Raises:
        OutputError: If it cannot be written; an older file of that name is then still there.
    """
    temporary = temporary_name(path)
    try:
        temporary.touch(exist_ok=False)
        with alone(temporary):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # such as a name that is too long
            temporary.unlink()
        msg = f"`{path}` cannot be written ({error.strerror}). Nothing there was changed."
        raise OutputError(msg) from error


@contextlib.contextmanager
def new_folder(folder: Path, what: str) -> Iterator[Path]:
    """Write a folder whole or not at all.

    Args:
        folder: Where; must not exist yet.
        what: Is written, for an error: ``model``.

    Yields:
        A folder beside it to write to, which gets the name when the ``with`` block ends.

    Raises:
        OutputError: If the folder exists, or an `OSError` ends the block: nothing is left then.
    """
    if os.path.lexists(folder):
        msg = f"`{folder}` exists already; a saved {what} is never overwritten."
        raise OutputError(msg)
    temporary = temporary_name(folder)
    try:
        temporary.mkdir(parents=True)
        with alone(temporary):
            yield temporary
            temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        msg = f"The {what} cannot be saved to `{folder}` ({reason}). Nothing there was changed."
        raise OutputError(msg) from error


def sync_file(path: Path) -> None:
    """Have a file's content written to the disk, so that its name is never there without it."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have what was renamed in a folder written to the disk."""
    # Without this a rename may be lost with the power although the file's content is safe.
    if os.name == "nt":  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: object) -> bytes:
    """JSON as people and tools like it: indented, keys in the order given, newline at the end.

    It can be printed as it is: what a terminal would obey is escaped.
    """
    text = escaped_json(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # a file name that is no valid text: escaped, it still is JSON
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def parse_json(name: Path | str, content: bytes) -> dict[str, Any]:
    """A JSON object that may come from anywhere.

    Args:
        name: Of its file, for an error.
        content: Of its file.

    Raises:
        ModelFileError: If it is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # the latter where lists are nested too deep
        msg = (
            f"`{name}` is no JSON ({error}): it was cut short, damaged or changed; take it from "
            "the original again."
        )
        raise ModelFileError(msg) from error
    if not isinstance(value, dict):
        msg = f"`{name}` must hold a JSON object."
        raise ModelFileError(msg)
    return value


def read_limited(path: Path, kind: str, *, largest: int = LARGEST_JSON) -> bytes:
    """Read a file that may come from anywhere, and never more of it than a limit.

    Args:
        path: The file.
        kind: What its folder should be, for the error: ``run directory``.
        largest: The limit, in bytes.

    Raises:
        ModelFileError: If it is a device or a pipe, which could be read for ever, or too large.
        OSError: If it is missing or cannot be read.
    """
    check_regular(path, kind)
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ModelFileError(_too_large(path, kind, largest))
    return content


def sha256_of(path: Path, kind: str, *, largest: int | None = None) -> str:
    """Hash of a file that may come from anywhere, read piece by piece.

    Args:
        path: The file.
        kind: What its folder should be, for an error.
        largest: Bytes that it may have; None for any number.

    Raises:
        ModelFileError: As of `read_limited`.
        OSError: If it is missing or cannot be read.
    """
    check_regular(path, kind)
    with path.open("rb") as file:
        if largest is not None and os.fstat(file.fileno()).st_size > largest:
            raise ModelFileError(_too_large(path, kind, largest))
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_regular(path: Path, kind: str) -> None:
    """Refuse what could be read for ever: a device, a pipe, or a link to one.

    Raises:
        ModelFileError: If it is one.
    """
    if path.exists() and not path.is_file():
        msg = f"`{path}` is no regular file: `{path.parent}` is no {kind}."
        raise ModelFileError(msg)


def _too_large(path: Path, kind: str, largest: int) -> str:
    article = "an" if kind[0] in "aeiou" else "a"
    return f"`{path}` is larger than {largest:,} bytes: it is no file of {article} {kind}."
