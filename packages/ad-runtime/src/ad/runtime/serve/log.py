"""What a server tells whoever runs it: JSON objects, one a line, to stderr."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TextIO


def tell(event: str, **facts: object) -> None:
    """Write one line.

    Args:
        event: What happened.
        facts: JSON values; no picture's content is among them.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"time": now, "event": event, **facts}, default=str)
    # In one piece, as threads write too; a log that nobody reads any more stops no server.
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


def tell_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning, in place of `warnings.showwarning`."""
    tell("warning", message=str(message), kind=category.__name__)


class Handler(logging.Handler):
    """Writes what libraries log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        tell("library", level=record.levelname.lower(), message=record.getMessage())
