"""Fetches the official file of a data set and unpacks it, so that neither can do harm.

A download that breaks off is gone on with. The checksum is checked before anything is unpacked, and
what is unpacked is plain files and folders inside the output folder, of no more than a bounded
size. The standard library alone; torch-free.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from importlib.metadata import version
from lzma import LZMAError
from pathlib import Path, PureWindowsPath
from typing import IO, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ad.core.data.samples import Archive, DatasetSpec, describe_source
from ad.core.errors import DataError, DownloadError, OutputError
from ad.runtime.pictures.walking import folders_in
from ad.runtime.progress import SILENT, Progress

_MIB = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_FRUITLESS = 3  # attempts in a row that bring nothing, before giving up
_PAUSE = 2.0  # seconds between attempts
_MOST_UNPACKED = 30  # times the archive's size: pictures are packed already
_UNPACKING = ".unpacking"


def download(dataset: DatasetSpec, output: Path, *, progress: Progress = SILENT) -> Path:
    """Fetch a data set, check it and unpack it.

    Args:
        dataset: One whose official file is known.
        output: Folder to make; may hold what an earlier attempt left.
        progress: Where to show how far it is.

    Returns:
        The data root: ``output`` or a folder in it.

    Raises:
        DownloadError: If there is no official file that can be fetched, it cannot be had, is
            another one than expected, or is damaged or hostile.
        OutputError: If the folder holds something else or cannot be written.
        DataError: If what was unpacked is not laid out as expected.
    """
    archive = dataset.archive
    if archive is None:
        msg = (
            f"`{dataset.name}` has no official file that can be fetched and checked. Get the data "
            f"by hand.\n{describe_source(dataset)}"
        )
        raise DownloadError(msg)
    part = output / f".{archive.name}.part"
    _make_room(output, part)
    fetch(archive.url, part, progress=progress)
    check(archive, part, progress=progress)
    unpack(part, output / _UNPACKING, progress=progress)
    with _writing(output):
        for path in list((output / _UNPACKING).iterdir()):
            path.rename(output / path.name)
        (output / _UNPACKING).rmdir()
        part.unlink()
    for root in (output, *folders_in(output)):
        if dataset.categories(root):
            return root
    msg = f"`{output}` holds what `{archive.url}` had in it, which is not laid out as expected."
    raise DataError(msg)


def fetch(url: str, part: Path, *, progress: Progress = SILENT) -> None:
    """Fetch a file, or what is missing of it.

    Args:
        url: Where it is.
        part: Where to put it; what is there already is taken for its beginning.
        progress: Where to show how far it is.

    Raises:
        DownloadError: If it cannot be had, or breaks off again and again.
        OutputError: If it cannot be written.
    """
    fruitless = 0
    while True:
        before = _size(part)
        try:
            _fetch_rest(url, part, progress)
            return
        except (DownloadError, OutputError):
            raise
        except (OSError, HTTPException) as error:
            fruitless = 0 if _size(part) > before else fruitless + 1
            if fruitless == _FRUITLESS:
                msg = (
                    f"`{url}` cannot be fetched ({error or type(error).__name__}); {_size(part):,} "
                    "bytes are there. The same command goes on from where it broke off."
                )
                raise DownloadError(msg) from error
            time.sleep(_PAUSE)


def check(archive: Archive, part: Path, *, progress: Progress = SILENT) -> None:
    """Check that a file is the one that was published; remove it if it is not.

    Raises:
        DownloadError: If its checksum is another.
        OutputError: If it cannot be read.
    """
    kind, _, expected = archive.checksum.partition(":")
    digest = hashlib.new(kind, usedforsecurity=False)
    with _writing(part), part.open("rb") as file, _mib(progress, "checking", _size(part)) as show:
        while chunk := file.read(_MIB):
            digest.update(chunk)
            show(file.tell())
    if digest.hexdigest() != expected:
        part.unlink()
        msg = (
            f"`{archive.url}` is not the file that was published: its {kind} is "
            f"{digest.hexdigest()}, and {expected} was expected. It was removed. If the same "
            "happens again, the file was replaced: see the source of the data."
        )
        raise DownloadError(msg)


def unpack(packed: Path, folder: Path, *, progress: Progress = SILENT) -> None:
    """Unpack a .zip or .tar, the latter compressed or not.

    Args:
        packed: The archive.
        folder: Where to; what is there is removed first.
        progress: Where to show how far it is.

    Raises:
        DownloadError: If it is damaged, or has in it what no data set has: a path that leads out,
            a link or device, a name twice, more than 30 times its own size.
        OutputError: If something cannot be written.
    """
    shutil.rmtree(folder, ignore_errors=True)
    left = _MOST_UNPACKED * _size(packed)
    try:
        with _writing(folder), packed.open("rb") as file:
            folder.mkdir()
            with _mib(progress, "unpacking", _size(packed)) as show:
                for member in _members(packed, file):
                    target = _inside(folder, packed, member)
                    if member.content is None:
                        target.mkdir(parents=True, exist_ok=True)
                    else:
                        target.parent.mkdir(parents=True, exist_ok=True)
                        left = _write(member.content, target, packed, left)
                    show(file.tell())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _make_room(output: Path, part: Path) -> None:
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in output.iterdir()} - {part.name, _UNPACKING}
    if others:
        msg = (
            f"The output folder `{output}` is not empty: it holds `{min(others)}`. Name another "
            "one, or remove it first."
        )
        raise OutputError(msg)


def _fetch_rest(url: str, part: Path, progress: Progress) -> None:
    have = _size(part)
    headers = {"User-Agent": f"ad-core/{version('ad-core')}"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        answer: HTTPResponse = urlopen(Request(url, headers=headers), timeout=_TIMEOUT)
    except HTTPError as error:
        with error:
            if error.code == 416:  # nothing lies beyond what is there
                if error.headers.get("Content-Range", "").rpartition("/")[2] != str(have):
                    part.unlink()
                    raise
                return
            if error.code < 500:
                msg = (
                    f"`{url}` cannot be fetched: the server answers {error.code} ({error.reason}). "
                    "The file may have moved: see the source of the data."
                )
                raise DownloadError(msg) from error
            raise
    with answer:
        goes_on = answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if answer.status != 206 or not goes_on:
            have = 0  # the server starts anew
            if answer.status == 206:
                part.unlink()
                msg = "the server sent another part of the file than was asked for"
                raise ConnectionError(msg)
        wanted = have + int(answer.headers.get("Content-Length", 0))
        with _writing(part):
            file = part.open("ab" if have else "wb")
        with file, _mib(progress, "fetching", wanted - have) as show:
            while chunk := answer.read(_MIB):
                with _writing(part):
                    file.write(chunk)
                show(file.tell() - have)
    if _size(part) < wanted:
        msg = "the connection broke off"
        raise ConnectionError(msg)


class _Member(NamedTuple):
    """A file or folder in an archive."""

    name: str
    content: IO[bytes] | None
    """None for a folder."""


def _members(packed: Path, file: IO[bytes]) -> Iterator[_Member]:
    try:
        if zipfile.is_zipfile(file):
            file.seek(0)
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    # The type in the upper half is Unix's; 0 where another system packed it.
                    if (info.external_attr >> 28) not in (0, 0o4, 0o10):
                        raise DownloadError(_hostile(packed, info.filename, "is no plain file"))
                    if info.is_dir():
                        yield _Member(info.filename, None)
                        continue
                    with archive.open(info) as content:
                        yield _Member(info.filename, content)
            return
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            for member in archive:
                if not (member.isreg() or member.isdir()):
                    raise DownloadError(_hostile(packed, member.name, "is no plain file"))
                yield _Member(member.name, archive.extractfile(member))
    except DownloadError:
        raise
    except _DAMAGED as error:
        raise DownloadError(_damaged(packed, error)) from error


def _inside(folder: Path, packed: Path, member: _Member) -> Path:
    # Windows' rules are the stricter ones: either slash, drives, and all that Unix forbids too.
    name = PureWindowsPath(member.name)
    if name.anchor or ".." in name.parts or "\0" in member.name:
        raise DownloadError(_hostile(packed, member.name, "leads out of the folder"))
    target = folder.joinpath(*name.parts)
    if member.content is not None and target.exists():
        raise DownloadError(_hostile(packed, member.name, "is there twice"))
    return target


def _write(content: IO[bytes], target: Path, packed: Path, left: int) -> int:
    """Write a file; returns how many bytes may still be unpacked."""
    with target.open("xb") as file:
        while True:
            try:
                chunk = content.read(_MIB)
            except _DAMAGED as error:
                raise DownloadError(_damaged(packed, error)) from error
            if not chunk:
                return left
            left -= len(chunk)
            if left < 0:
                most = f"would unpack to more than {_MOST_UNPACKED} times the archive's size"
                raise DownloadError(_hostile(packed, target.name, most))
            file.write(chunk)


# What the standard library raises for archives that are damaged, encrypted or packed unusually.
_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, LZMAError, zlib.error, struct.error),
    *(EOFError, NotImplementedError, OSError, RuntimeError, ValueError),
)


def _damaged(packed: Path, error: Exception) -> str:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return f"`{packed}` cannot be unpacked ({reason}). Remove it and fetch it again."


def _hostile(packed: Path, name: str, reason: str) -> str:
    return f"`{packed}` is not unpacked: `{name}` in it {reason}, which no data set needs."


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except (DownloadError, OutputError):
        raise
    except OSError as error:
        msg = f"`{path}` cannot be written ({error.strerror or error})."
        raise OutputError(msg) from error


@contextmanager
def _mib(progress: Progress, name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A step of so many bytes; yields what is told how many are done."""
    shown = 0
    with progress.step(name, total=max(1, total // _MIB), unit="MiB") as advance:

        def show(done: int) -> None:
            nonlocal shown
            advance(done // _MIB - shown)
            shown = done // _MIB

        yield show


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
