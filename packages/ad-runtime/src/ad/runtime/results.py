"""What is told of each picture, and the file that grows with it."""

from __future__ import annotations

import contextlib
import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ad.runtime.errors import OutputError, SettingError
from ad.runtime.findings import Finding
from ad.runtime.printable import escaped_json

SUFFIXES = (".csv", ".jsonl")
"""Of files of results: a table, or one JSON object a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One picture's line."""

    path: Path
    """The picture."""
    score: float | None
    """Raw score; None if the picture could not be read."""
    normalized: float | None
    """From 0 to 1, 0.5 at the threshold; None without calibration."""
    verdict: str
    """``good``, ``defective``, ``unknown`` (no threshold) or ``error``."""
    heatmap: Path | None
    """The overlay that was written."""
    error: str | None
    """Why the picture could not be read."""

    @classmethod
    def of(cls, finding: Finding, heatmap: Path | None = None) -> Self:
        """That of a picture that is a file."""
        assert finding.path is not None
        return cls(
            path=finding.path,
            score=finding.score,
            normalized=finding.normalized,
            verdict=finding.verdict,
            heatmap=heatmap,
            error=finding.error,
        )

    def to_json(self) -> dict[str, Any]:
        """As it is printed and written."""
        return {
            "path": str(self.path),
            "score": self.score,
            "normalized": self.normalized,
            "verdict": self.verdict,
            "heatmap": None if self.heatmap is None else str(self.heatmap),
            "error": self.error,
        }


class ResultFile:
    """A file of rows, each as soon as it is known, by its suffix one of `SUFFIXES`.

    Args:
        path: The file, which must not exist yet.

    Raises:
        SettingError: If it has another suffix.
        OutputError: If it exists or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix not in SUFFIXES:
            msg = f"Results are written to {' or '.join(SUFFIXES)}; got `{path}`."
            raise SettingError(msg)
        # Names that are no valid text are written as the bytes they are.
        try:
            self.file = path.open("x", newline="", encoding="utf-8", errors="surrogateescape")
        except FileExistsError as error:
            msg = f"`{path}` exists already and is never overwritten. Name another file."
            raise OutputError(msg) from error
        except OSError as error:
            msg = f"`{path}` cannot be written ({error.strerror})."
            raise OutputError(msg) from error
        self.writer = csv.writer(self.file) if path.suffix == ".csv" else None
        if self.writer is not None:
            self._write(("path", "score", "normalized", "verdict", "heatmap", "error"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # of a line that was told of already
            self.file.close()

    def add(self, row: Row) -> None:
        """Add one row.

        Raises:
            OutputError: If it cannot be written; what is there stays.
        """
        self._write(tuple(row.to_json().values()), row)

    def _write(self, cells: tuple[Any, ...], row: Row | None = None) -> None:
        try:
            if self.writer is not None:
                self.writer.writerow(["" if cell is None else cell for cell in cells])
            elif row is not None:
                text = json.dumps(row.to_json(), allow_nan=False)
                self.file.write(f"{escaped_json(text)}\n")
            self.file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.close()
            msg = (
                f"`{self.path}` cannot be written ({error.strerror}). What it holds are the "
                "pictures up to there."
            )
            raise OutputError(msg) from error


def summary(verdicts: list[str]) -> str:
    """One line for a person: how many pictures got which verdict."""
    counts = [
        f"{verdicts.count(verdict)} {words}"
        for verdict, words in (
            ("good", "good"),
            ("defective", "defective"),
            ("unknown", "without verdict, as nothing was held out in training"),
            ("error", "not readable"),
        )
        if verdict in verdicts
    ]
    return f"{len(verdicts)} pictures: {', '.join(counts)}"
