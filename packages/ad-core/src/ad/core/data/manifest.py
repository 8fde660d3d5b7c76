"""What a data set was: a manifest of the size and sha256 of every file, and what differs since.

A damaged JPEG, BMP or TIFF mostly decodes without a complaint to a wrong picture; a hash finds it.
Hidden files are left out, as everywhere. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from ad.core.errors import DataError, OutputError
from ad.runtime.files import to_json, write_atomic
from ad.runtime.progress import SILENT, Progress

Result = TypeVar("Result")

NAME = "ad-manifest.json"
"""Name of the manifest of a folder, in that folder."""

SCHEMA = 1
"""Version of the format of a manifest; a newer one is refused."""


class Entry(NamedTuple):
    """One file."""

    size: int
    """In bytes."""
    sha256: str
    """In hexadecimal digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A folder held against its manifest; paths are relative to the folder, with ``/``."""

    num_files: int
    """Files that the folder holds."""
    missing: tuple[str, ...]
    """In the manifest, not in the folder."""
    new: tuple[str, ...]
    """In the folder, not in the manifest."""
    changed: tuple[str, ...]
    """In both, with another content."""

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        return not (self.missing or self.new or self.changed)


def write_manifest(folder: Path, manifest: Path, *, progress: Progress = SILENT) -> int:
    """Hash every file of a folder and write down what there is.

    Args:
        folder: The data set.
        manifest: The file to write; if it is in the folder, it is no part of the data set.
        progress: Where to show how far it is.

    Returns:
        How many files there are.

    Raises:
        DataError: If the folder is missing or holds no files, or a file cannot be read.
        OutputError: If the manifest cannot be written.
    """
    files = _files(folder, manifest)
    found = _in_threads(lambda name: _entry(files[name]), list(files), progress)
    entries = {name: entry._asdict() for name, entry in zip(files, found, strict=True)}
    try:
        write_atomic(manifest, to_json({"schema": SCHEMA, "files": entries}))
    except OutputError as error:
        msg = f"{error}\nhint: `--manifest FILE` writes it to another place"
        raise OutputError(msg) from error
    return len(entries)


def compare(folder: Path, manifest: Path, *, progress: Progress = SILENT) -> Comparison:
    """Find what changed in a folder since its manifest was written.

    Args:
        folder: The data set; it may have moved.
        manifest: As `write_manifest` wrote it.
        progress: Where to show how far it is.

    Raises:
        DataError: If the folder is missing or holds no files, a file cannot be read, or the
            manifest is none.
    """
    files = _files(folder, manifest)
    known = _read(manifest)
    both = [name for name in files if name in known]
    same = _in_threads(lambda name: _is(files[name], known[name]), both, progress)
    return Comparison(
        num_files=len(files),
        missing=tuple(sorted({*known} - {*files})),
        new=tuple(name for name in files if name not in known),
        changed=tuple(name for name, is_same in zip(both, same, strict=True) if not is_same),
    )


def _files(folder: Path, manifest: Path) -> dict[str, Path]:
    """Files of a folder by their names in a manifest, sorted; without the manifest itself."""
    if not folder.is_dir():
        msg = f"There is no folder `{folder}` to verify."
        raise DataError(msg)
    own = {(folder / NAME).resolve(), manifest.resolve()}
    paths = (path for path in _below(folder, set()) if path.resolve() not in own)
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    if not files:
        msg = f"The folder `{folder}` holds no files to verify."
        raise DataError(msg)
    return dict(sorted(files.items()))


def _below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    # Folders that are links are followed, since large data sets often lie elsewhere; each once.
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, seen)
        else:
            yield path


def _entry(path: Path) -> Entry:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Entry(os.fstat(file.fileno()).st_size, digest)
    except OSError as error:
        msg = f"`{path}` cannot be read ({error.strerror})."
        raise DataError(msg) from error


def _is(path: Path, entry: Entry) -> bool:
    # Another size needs no hash. What is no file any more is left to `_entry` to say.
    if path.is_file() and path.stat().st_size != entry.size:
        return False
    return _entry(path) == entry


def _read(manifest: Path) -> dict[str, Entry]:
    if not manifest.exists():
        msg = f"There is no manifest `{manifest}`.\nhint: `--write` writes it"
        raise DataError(msg)
    try:
        record = json.loads(manifest.read_bytes())
        if record["schema"] != SCHEMA:
            msg = (
                f"`{manifest}` is a manifest of format {record['schema']!r}; this version of "
                f"ad-core reads format {SCHEMA}. Update ad-core, or write it again."
            )
            raise DataError(msg)
        files: dict[str, dict[str, object]] = record["files"]
        return {
            name: Entry(int(str(entry["size"])), str(entry["sha256"]))
            for name, entry in files.items()
        }
    except DataError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        msg = (
            f"`{manifest}` is no manifest of a data set ({type(error).__name__}: {error}). Name "
            "the one that `ad data verify` wrote, or write it again."
        )
        raise DataError(msg) from error


def _in_threads(
    function: Callable[[str], Result], names: Sequence[str], progress: Progress
) -> list[Result]:
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    results = []
    try:
        with progress.step("hashing", total=len(names), unit="files") as advance:
            for result in pool.map(function, names):
                results.append(result)
                advance(1)
    finally:  # an error, or Ctrl-C: do not hash what nobody wants
        pool.shutdown(cancel_futures=True)
    return results
