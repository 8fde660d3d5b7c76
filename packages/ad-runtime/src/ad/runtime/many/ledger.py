"""The file that grows with every chunk of pictures, and that an interrupted work goes on from.

    {"kind": "ad-results", "schema": 1, "export": "...", ...}     what it is of
    {"chunk": 0, "path": "...", "score": 0.3, ...}                a line a picture

The lines of a chunk stand together, in one write; chunks stand in the order of their completion.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self, final

from ad.runtime.errors import OutputError
from ad.runtime.files import claim
from ad.runtime.lines import append, line_of, whole_lines

KIND, SCHEMA = "ad-results", 1
_BEGINNING = b'{"kind": "ad-results", '

WORDS = {
    "export": "another exported model, or this one before it was changed",
    "inputs": "another list of pictures",
    "shard": "another shard",
    "category": "verdicts for another category",
    "threshold": "verdicts by another threshold",
    "engine": "scores of another engine",
    "device": "scores of another device",
    "maps": "maps in another folder, or none",
    "min_area": "regions from another area on, or none",
}
"""What a file is of in which each entry of the head is another one."""


@final
class Ledger:
    """Such a file, claimed by this process until it is closed.

    Args:
        path: The file.
        head: What it is of: the keys of `WORDS`, ``pictures`` and ``size``, the pictures of a
            chunk, which is the file's own if it is gone on with.
        resume: Whether to go on with the file, if it is there.

    Raises:
        OutputError: If it exists and is not gone on with, is of something else, or was changed; or
            another process writes to it.
    """

    def __init__(self, path: Path, head: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.head = {"kind": KIND, "schema": SCHEMA, **head}
        self.done: set[int] = set()
        self.verdicts: Counter[str] = Counter()
        self.scores = array("d")
        """Of all pictures that have one."""
        try:
            self._file: IO[bytes] = path.open("a+b" if resume else "x+b", buffering=0)
        except FileExistsError as error:
            msg = (
                f"`{path}` exists already and is never overwritten. Go on with it by `--resume`, "
                "or name another file."
            )
            raise OutputError(msg) from error
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if not claim(self._file):
                msg = f"Another process writes to `{path}`. Wait until it has ended."
                raise OutputError(msg)
            self._end = self._read()
            self._file.truncate(self._end)
            self._file.seek(self._end)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if not self._end:  # nothing came of it: no file is left
            self.path.unlink(missing_ok=True)

    @property
    def chunks(self) -> range:
        """Numbers of all chunks."""
        return range(-(-self.head["pictures"] // self.head["size"]))

    def of(self, chunk: int) -> range:
        """Which pictures a chunk has."""
        size = self.head["size"]
        return range(chunk * size, min((chunk + 1) * size, self.head["pictures"]))

    def begin(self) -> None:
        """Write the head, unless it is there.

        Raises:
            OutputError: If it cannot be written.
        """
        if not self._end:
            self._append([self.head])

    def add(self, chunk: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add a chunk, so that it is on the disk when this returns.

        Raises:
            OutputError: If it cannot be written; what is there stays.
        """
        self.begin()
        self._append([{"chunk": chunk, **line} for line in lines])
        self._count(chunk, lines)

    def _count(self, chunk: int, lines: Sequence[Mapping[str, Any]]) -> None:
        self.done.add(chunk)
        self.verdicts.update(line["verdict"] for line in lines)
        self.scores.extend(one for line in lines if isinstance(one := line.get("score"), float))

    def _append(self, lines: Sequence[Mapping[str, Any]]) -> None:
        content = b"".join(line_of(line) for line in lines)
        try:
            append(self._file, self._end, content)
        except OSError as error:
            raise self._unwritable(error) from error
        self._end += len(content)

    def _unwritable(self, error: OSError) -> OutputError:
        msg = (
            f"`{self.path}` cannot be written ({error.strerror}). What it holds are whole chunks; "
            "go on with them by `--resume`."
        )
        return OutputError(msg)

    def _read(self) -> int:
        """Find what is complete; returns where that ends."""
        end = size = 0
        waiting: list[Mapping[str, Any]] = []
        for number, length, line in whole_lines(self.path, _BEGINNING, self._changed):
            if number == 1 or line is None:
                self._check_head(line)
                end = length
                continue
            chunk = line.get("chunk")
            if (
                type(chunk) is not int
                or chunk not in self.chunks
                or chunk in self.done
                or (waiting and waiting[0]["chunk"] != chunk)
                or not isinstance(line.get("verdict"), str)
            ):
                raise self._changed(number)
            waiting.append(line)
            size += length
            if len(waiting) == len(self.of(chunk)):
                self._count(chunk, waiting)
                end, size, waiting = end + size, 0, []
        return end

    def _check_head(self, found: Mapping[str, Any] | None) -> None:
        if found is None or found.get("kind") != KIND or found.get("schema") != SCHEMA:
            msg = (
                f"`{self.path}` is no file of results that could be gone on with: its first line "
                "does not say what it is of. Name another file."
            )
            raise OutputError(msg)
        size = found.get("size")
        if type(size) is int and size >= 1:  # others may have begun with more workers
            self.head["size"] = size
        others = [key for key, value in self.head.items() if found.get(key) != value]
        if others:
            what = WORDS.get(others[0], f"something else ({others[0]})")
            msg = (
                f"`{self.path}` cannot be gone on with: it holds {what} "
                f"(`{others[0]}` is {found.get(others[0])!r} there, now "
                f"{self.head[others[0]]!r}). Give what it was begun with, or name another file."
            )
            raise OutputError(msg)

    def _changed(self, number: int) -> OutputError:
        msg = (
            f"Line {number} of `{self.path}` is not what was written there, and no work that was "
            "stopped leaves that. Name another file."
        )
        return OutputError(msg)
