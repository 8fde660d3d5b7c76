"""The file of what was found, which is also the memory of what was seen.

    {"kind": "ad-watch", "schema": 1, "export": "...", "folder": "..."}
    {"path": "...", "size": 12345, "mtime_ns": ..., "score": 0.3, ..., "moved_to": "..."}

A line is on the disk before its picture is moved. A picture is known by path, size and time of its
last change: a file that is replaced by another of its name is a new picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self, final

from ad.runtime.errors import OutputError
from ad.runtime.files import claim
from ad.runtime.lines import append, line_of, whole_lines

KIND, SCHEMA = "ad-watch", 1
_BEGINNING = b'{"kind": "ad-watch", '


class Identity(NamedTuple):
    """What one picture in a folder is told from all others by."""

    path: Path
    size: int
    """Bytes."""
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """That of a file; None if there is none."""
        try:
            status = path.stat()
        except OSError:
            return None
        return cls(path, status.st_size, status.st_mtime_ns)

    @property
    def digest(self) -> bytes:
        """Few bytes in its place: a folder may see millions of pictures."""
        text = f"{self.size} {self.mtime_ns} {ascii(str(self.path))}"
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


@final
class Journal:
    """Such a file, claimed by this process until it is closed.

    Args:
        path: The file; is gone on with if it is there.
        export: `Package.identity` of the model.
        folder: The folder that is watched, from the root.
        seen: Is called with each line that is there already.

    Raises:
        OutputError: If it is of another model or folder, was changed, cannot be written, or another
            process writes to it.
    """

    def __init__(
        self,
        path: Path,
        export: str,
        folder: Path,
        seen: Callable[[Mapping[str, Any]], object] = lambda _: None,
    ) -> None:
        self.path, self._tell_seen = path, seen
        self.head = {"kind": KIND, "schema": SCHEMA, "export": export, "folder": str(folder)}
        self.unfinished: list[dict[str, Any]] = []
        """Lines of pictures that lie where they were found although they are to be moved."""
        self.last: dict[str, Any] | None = None
        """The line that was written last by an earlier process."""
        self._seen: set[bytes] = set()
        try:
            self._file: IO[bytes] = path.open("a+b", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not claim(self._file):
                msg = f"Another process writes to `{path}`: one alone watches a folder for a file."
                raise OutputError(msg)
            self._end = self._read()
            self._file.truncate(self._end)
            if not self._end:
                self._append(self.head)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __contains__(self, identity: Identity) -> bool:
        return identity.digest in self._seen

    def __len__(self) -> int:
        """How many pictures are known."""
        return len(self._seen)

    def add(self, identity: Identity, found: Mapping[str, Any]) -> dict[str, Any]:
        """Add a line, which is on the disk when this returns.

        Raises:
            OutputError: If it cannot be written.
        """
        line = {
            "path": str(identity.path),
            "size": identity.size,
            "mtime_ns": identity.mtime_ns,
            **found,
        }
        self._append(line)
        self._seen.add(identity.digest)
        return line

    def _append(self, line: Mapping[str, Any]) -> None:
        content = line_of(line)
        try:
            append(self._file, self._end, content)
        except OSError as error:
            raise self._unwritable(error) from error
        self._end += len(content)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"`{self.path}` cannot be written ({error.strerror}).")

    def _read(self) -> int:
        end = 0
        for number, length, line in whole_lines(self.path, _BEGINNING, self._changed):
            if number == 1 or line is None:
                self._check_head(line)
            else:
                self._remember(line, number)
            end += length
        return end

    def _remember(self, line: dict[str, Any], number: int) -> None:
        path, size, changed = line.get("path"), line.get("size"), line.get("mtime_ns")
        moved = line.get("moved_to")
        if (
            not isinstance(path, str)
            or type(size) is not int
            or type(changed) is not int
            or not isinstance(moved, str | None)
        ):
            raise self._changed(number)
        identity = Identity(Path(path), size, changed)
        self._seen.add(identity.digest)
        self.last = line
        self._tell_seen(line)
        if moved is not None and Identity.of(identity.path) == identity:
            self.unfinished.append(line)

    def _check_head(self, found: Mapping[str, Any] | None) -> None:
        if found is None or found.get("kind") != KIND or found.get("schema") != SCHEMA:
            msg = f"`{self.path}` is no journal of a watched folder. Name another file: `--output`."
            raise OutputError(msg)
        for key, what in (("export", "another exported model"), ("folder", "another folder")):
            if found.get(key) != self.head[key]:
                msg = (
                    f"`{self.path}` is the journal of {what} (`{key}` is {found.get(key)!r} there, "
                    f"now {self.head[key]!r}). Name another file: `--output`."
                )
                raise OutputError(msg)

    def _changed(self, number: int) -> OutputError:
        msg = (
            f"Line {number} of `{self.path}` is not what was written there, and no kill leaves "
            "that. Name another file: `--output`."
        )
        return OutputError(msg)
