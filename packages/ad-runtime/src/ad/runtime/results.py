"""What is told of each picture, and the file that grows with it."""

from __future__ import annotations

import contextlib
import csv
import heapq
import io
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, Self, TextIO, TypeVar, final, overload

from ad.runtime.budget import memory_budget
from ad.runtime.errors import OutputError, SettingError, calibrate_command, counted
from ad.runtime.findings import Finding
from ad.runtime.printable import escaped_json
from ad.runtime.regions import Region
from ad.runtime.spill import Texts

Item = TypeVar("Item")
Given = ParamSpec("Given")

SUFFIXES = (".csv", ".jsonl")
"""Of files of results: a table, or one JSON object a line."""

SHOWN = 20
"""Rows of the table on a terminal."""

UNREADABLE, DEFECTIVE = 3, 4
"""Exit statuses: a picture could not be read; one is defective, where that was asked for."""

_COLUMNS = ("path", "score", "normalized", "verdict", "heatmap", "error", "num_regions")


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
    regions: tuple[Region, ...] | None = None
    """As of a finding: where it is above the pixel threshold, largest first."""
    num_regions: int | None = None
    """How many there are."""

    @classmethod
    def of(cls, finding: Finding, heatmap: Path | None = None) -> Self:
        """That of a picture that is a file."""
        assert finding.path is not None
        return cls(
            path=Path(finding.path),  # of a frame the name alone: itself it holds decoded pictures
            score=finding.score,
            normalized=finding.normalized,
            verdict=finding.verdict,
            heatmap=heatmap,
            error=finding.error,
            regions=finding.regions,
            num_regions=finding.num_regions,
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
            "num_regions": self.num_regions,
            "regions": None
            if self.regions is None
            else [region._asdict() for region in self.regions],
        }


@final
class Rows(Sequence[Row]):
    """The rows of many pictures: in memory up to a budget, in a temporary file past it."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()
        self.scores = array("d")
        """Of all pictures that have one."""
        self._room = memory_budget()
        self._held: list[Row] = []
        self._texts: Texts | None = None

    def add(self, row: Row) -> None:
        """Add one.

        Raises:
            OutputError: If the disk is full.
        """
        self.verdicts[row.verdict] += 1
        if row.score is not None:
            self.scores.append(row.score)
        self._held.append(row)
        self._room -= _ROW + _REGION * len(row.regions or ())
        if self._texts is None and self._room >= 0:
            return
        if self._texts is None:
            self._texts = Texts("rows")
        for one in self._held:
            self._texts.append(json.dumps([*one.to_json().values()]))
        self._held.clear()

    def summary(self) -> str:
        """One line for a person: how many pictures got which verdict."""
        return summary([*self.verdicts.elements()])

    def __len__(self) -> int:
        return len(self._held if self._texts is None else self._texts)

    @overload
    def __getitem__(self, number: int) -> Row: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Row]: ...

    def __getitem__(self, number: int | slice) -> Row | Sequence[Row]:
        if isinstance(number, slice):
            return [self[one] for one in range(len(self))[number]]
        if self._texts is None:
            return self._held[number]
        path, *values, regions = json.loads(self._texts[range(len(self))[number]])
        score, normalized, verdict, heatmap, error, num_regions = values
        return Row(
            path=Path(path),
            score=score,
            normalized=normalized,
            verdict=verdict,
            heatmap=None if heatmap is None else Path(heatmap),
            error=error,
            regions=None if regions is None else tuple(Region(**one) for one in regions),
            num_regions=num_regions,
        )


_ROW, _REGION = 1000, 300
"""Bytes that a row takes in memory, about, and each of its regions."""


class ResultFile:
    """A file of rows, each as soon as it is known, by its suffix one of `SUFFIXES`.

    Paths of heat maps in it are relative to the folder that it is in.

    A table has the number of a picture's regions; they themselves are in a second one, a row each.

    Args:
        path: The file, which must not exist yet.
        regions: The second one, if the first is a table; ``NAME-regions.csv`` beside it by default.

    Raises:
        SettingError: If it has another suffix.
        OutputError: If one exists or cannot be written.
    """

    def __init__(self, path: Path, regions: Path | None = None) -> None:
        self.path = path
        if path.suffix not in SUFFIXES:
            msg = f"Results are written to {' or '.join(SUFFIXES)}; got `{path}`."
            raise SettingError(msg)
        self._tables: list[tuple[Path, TextIO]] = []
        self._count = 0
        self._open(path)
        if path.suffix == ".csv":
            try:
                self._open(regions or path.with_name(f"{path.stem}-regions.csv"))
            except OutputError:
                self._close()
                path.unlink()  # it is new, and nothing is in it
                raise
            self._write(0, _csv_line(_COLUMNS))
            self._write(1, _csv_line(("path", *Region._fields)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def add(self, row: Row) -> None:
        """Add one row.

        Raises:
            OutputError: If it cannot be written; what is there stays.
        """
        values = row.to_json()
        if row.heatmap is not None:
            values["heatmap"] = _seen_from(self.path, row.heatmap)
        if len(self._tables) == 1:
            text = json.dumps(values, allow_nan=False)
            self._write(0, f"{escaped_json(text)}\n")
        else:
            self._write(1, "".join(_csv_line((row.path, *one)) for one in row.regions or ()))
            self._write(0, _csv_line([values[name] for name in _COLUMNS]))
        self._count += 1

    def _open(self, path: Path) -> None:
        # Names that are no valid text are written as the bytes they are.
        try:
            file = path.open("x", newline="", encoding="utf-8", errors="surrogateescape")
        except FileExistsError as error:
            msg = f"`{path}` exists already and is never overwritten. Name another file."
            raise OutputError(msg) from error
        except OSError as error:
            msg = f"`{path}` cannot be written ({error.strerror})."
            raise OutputError(msg) from error
        self._tables.append((path, file))

    def _write(self, table: int, text: str) -> None:
        path, file = self._tables[table]
        try:
            file.write(text)
            file.flush()
        except OSError as error:
            self._close()
            msg = (
                f"`{path}` cannot be written ({error.strerror}). The results of the first "
                f"{self._count} pictures are in `{self.path}`.\n"
                "hint: once it can be written, predict the others to a new place"
            )
            raise OutputError(msg) from error

    def _close(self) -> None:
        for _, file in self._tables:
            with contextlib.suppress(OSError):  # of a line that was told of already
                file.close()


@final
class FilesBeside:
    """Files of the pictures' own beside their rows, until one cannot be written.

    None is written from then on, and no further picture is taken; those that were scored ahead get
    their rows all the same.
    """

    def __init__(self) -> None:
        self._failure: tuple[OutputError, str] | None = None

    def until_failure(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items as long as all could be written."""
        for item in items:
            yield item
            if self._failure is not None:
                return

    def write(
        self, without: str, write: Callable[Given, Path], *given: Given.args, **named: Given.kwargs
    ) -> Path | None:
        """Write a file; by any thread.

        Args:
            without: How a user does without such files.
            write: Writes it and gives its path.
            given: What that is given.
            named: By name, likewise.

        Returns:
            Its path; None if it, or one before, could not be written.
        """
        if self._failure is None:
            try:
                return write(*given, **named)
            except OutputError as error:
                self._failure = (error, without)
        return None

    def check(self, scored: int, total: int, output: Path | None) -> None:
        """Tell of the failure, once all rows are kept.

        Args:
            scored: Pictures that have a row.
            total: Pictures that were asked for.
            output: The file of rows, if there is one.

        Raises:
            OutputError: If a file could not be written.
        """
        if self._failure is None:
            return
        error, without = self._failure
        kept = f"are in `{output}`" if output else "are in no file; `--output FILE.csv` keeps them"
        others = "the others" if output else "again"
        msg = (
            f"{error} The results of the first {scored} of {total} pictures {kept}.\n"
            f"hint: once it can be written, or without it ({without}), predict {others} to a new "
            "place"
        )
        raise OutputError(msg) from error


def _csv_line(cells: Iterable[Any]) -> str:
    """One line of a table."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def _seen_from(file: Path, path: Path) -> str:
    # Folders that are links are followed first: `..` leads out of what they lead to.
    return os.path.relpath(path.parent.resolve() / path.name, file.parent.resolve())


def exit_status(verdicts: Collection[str], *, fail_on_defect: bool) -> int:
    """What a command that predicted ends with.

    A picture that could not be read comes first: nobody knows what is in it, and so whether all
    defective ones were found.
    """
    if "error" in verdicts:
        return UNREADABLE
    return DEFECTIVE if fail_on_defect and "defective" in verdicts else 0


def worst(rows: Iterable[Row]) -> list[Row]:
    """The `SHOWN` rows of the highest scores, highest first; those without a score come last."""
    return heapq.nsmallest(SHOWN, rows, key=lambda row: (row.score is None, -(row.score or 0.0)))


def refuse_without_threshold(asked: str, threshold: float | None, name: str) -> None:
    """Refuse what is about verdicts where there are none.

    Args:
        asked: What needs them, as it was asked for; empty for nothing.
        threshold: Of the model.
        name: Of the model.

    Raises:
        SettingError: If there is no threshold.
    """
    if asked and threshold is None:
        msg = (
            f"{asked}: `{name}` has no threshold, and so calls nothing defective. Set one from "
            f"good pictures (`{calibrate_command()}`), or leave it out."
        )
        raise SettingError(msg)


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
    return f"{counted(len(verdicts), 'picture', 'pictures')}: {', '.join(counts)}"
