"""Files of JSON lines that outlive whoever writes them: whole lines, on the disk."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ad.runtime.errors import OutputError
from ad.runtime.printable import escaped_json

LOG = "log.jsonl"
"""The log of a run or of an export: what was done to it, with the time."""


def append(file: IO[bytes], end: int, content: bytes) -> None:
    """Add to a file so that it is on the disk; what cannot be written whole is taken back.

    Args:
        file: Open for appending, without a buffer.
        end: Its size.
        content: What is added.

    Raises:
        OSError: If it cannot be.
    """
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        file.seek(end)
        raise


def line_of(values: Mapping[str, Any]) -> bytes:
    """A line of JSON, with its end; a name that is no valid text is escaped."""
    return f"{escaped_json(json.dumps(values, allow_nan=False))}\n".encode()


def parse_line(raw: bytes) -> dict[str, Any] | None:
    """The JSON object of a whole line; None if it is none."""
    if not raw.endswith(b"\n"):
        return None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def whole_lines(
    path: Path, beginning: bytes, changed: Callable[[int], Exception]
) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    """The lines of such a file, without half of one that a kill has left at its end.

    Args:
        path: The file.
        beginning: Of its first line; a file that is cut off there is one without lines.
        changed: Makes an error of the number of a line that no kill can have left.

    Yields:
        Its number from 1, its bytes, and its values; None only for those of the first one.
    """
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = parse_line(raw)
            if number == 1 and not raw.endswith(b"\n"):
                if not beginning.startswith(raw[: len(beginning)]):
                    raise changed(1)
                return
            if line is None and number > 1:
                if any(parse_line(after) is not None for after in file):
                    raise changed(number)
                return
            yield number, len(raw), line


def log_event(path: Path, event: str, **values: object) -> None:
    """Add an event to a log: a line with the time, which is whole when it is there.

    Args:
        path: The log; made if it is not there.
        event: What happened.
        values: What belongs to it.

    Raises:
        OutputError: If it cannot be written; the log then is as it was.
    """
    line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
    try:
        _append_line(path, line.encode() + b"\n")
    except OSError as error:
        raise OutputError(unwritable(path, error)) from error


def unwritable(log: Path, error: OSError) -> str:
    """Say why a log cannot be written."""
    return f"The log `{log}` cannot be written ({error.strerror})."


def _append_line(path: Path, line: bytes) -> None:
    """Add a whole line to a file, or nothing."""
    # Without a buffer, which would be written once more when the file is closed after a failure.
    with path.open("a+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # the process that wrote the last line was killed
                line = b"\n" + line
        left = line
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise
