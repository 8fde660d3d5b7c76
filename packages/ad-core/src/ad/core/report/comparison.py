"""What the report of several runs says, from what is in their directories; nothing is scored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ad.core.errors import PictureError
from ad.core.report.caveats import caveats
from ad.core.report.choice import shown as shown_speeds
from ad.core.report.contrasts import Contrasts, contrast
from ad.core.report.finished import Finished, Scored, read_finished
from ad.core.report.page import data_uri, write_page
from ad.core.report.recommending import Recommendation
from ad.core.report.run import REPORT, run_title
from ad.core.report.standings import (
    COSTS,
    Cell,
    Row,
    columns_of,
    differences,
    grid,
    keys_of,
    meaning_of,
    rows_of,
    title_of,
    value_of,
    written,
)
from ad.core.report.webp import picture_webp
from ad.core.thresholds.verdicts import Verdicts, renewed_notes
from ad.runtime.pictures.reading import glimpse

_DOTS, _ALL_DOTS = 200, 20_000
"""Scores that are drawn, of a run's good and defective pictures each, and of all runs; of more,
quantiles are."""
_LISTED = 300
"""Runs that are listed one by one."""
_PICTURES, _OF_EACH = 100, 5
"""Pictures that are listed with the verdicts of all models; of several categories, at least so many
of each."""
_THUMBNAILS, _SIDE = 60, 96
_THUMBNAIL_BYTES = 300_000
"""Of all of them together."""


class Compared(NamedTuple):
    """Runs that were read to be compared."""

    runs: list[Finished]
    rows: list[Row]
    """A model with its settings in each."""
    columns: list[str]
    """Categories, with the data sets they are of."""
    contrasts: Contrasts
    caveats: list[str]
    """What a reader of their figures must know."""


def read_compared(runs: Sequence[Path], labels: Sequence[str] | None = None) -> Compared:
    """Read runs and compare them.

    Args:
        runs: Run directories of finished runs.
        labels: See `rows_of`.

    Raises:
        ModelFileError: If one is no finished run.
    """
    finished = [read_finished(run) for run in runs]
    rows, columns = rows_of(finished, labels), columns_of(finished)
    odd = caveats(finished, rows, columns)
    return Compared(finished, rows, columns, contrast(rows, columns), odd)


def write_comparison(
    path: Path,
    compared: Compared,
    notes: Sequence[str] = (),
    recommended: Recommendation | None = None,
) -> None:
    """Write one page that shows runs side by side.

    Args:
        path: The file.
        compared: The runs.
        notes: What a reader must know beyond what they say themselves.
        recommended: Which model to take, if that was asked.

    Raises:
        OutputError: If the file cannot be written.
    """
    runs, rows, columns, contrasts, odd = compared
    wrong = _wrong_pictures(rows)
    shown = _chosen(wrong, len(columns))
    title = f"{len(runs)} runs compared" if len(runs) > 1 else run_title(runs[0].record)
    places = {id(run): place for place, run in enumerate(runs)}
    data = {
        "title": title,
        "columns": columns,
        "figures": [_figure(rows, columns, key, places) for key in keys_of(runs)],
        "rows": [_row(row, places) for row in rows],
        "runs": [_run(run, path, len(runs)) for run in runs[:_LISTED]],
        "numRuns": len(runs),
        "settings": differences(rows),
        "notes": [*notes, *odd],
        "contrasts": {
            "pairs": [
                {
                    "words": one.words(),
                    "differs": one.overall.differs,
                    "categories": [[column, *own] for column, own in one.categories.items()],
                }
                for one in contrasts.pairs
            ],
            "notes": contrasts.notes,
        },
        "speeds": shown_speeds(rows, columns, recommended),
        "wrong": _pictured(shown),
        "numWrong": len(wrong),
    }
    write_page(path, "comparison", title, data)


def _figure(
    rows: Sequence[Row], columns: Sequence[str], key: str, places: dict[int, int]
) -> dict[str, Any]:
    """One figure of all rows: cells with what they read and the runs that are behind them."""
    found = grid(rows, columns, key)

    def cell(one: Cell, runs: list[list[Any]]) -> dict[str, Any]:
        deviation = None if one.deviation is None else written(one.deviation, key)
        value = written(one.mean, key)
        return {"text": value, "deviation": deviation, "best": one.best, "runs": runs}

    def behind(row: Row, column: str) -> list[list[Any]]:
        return [
            [places[id(run)], written(value_of(run, name, key), key)]
            for run, name in row.of(column)
        ]

    return {
        "key": key,
        "title": title_of(key),
        "meaning": meaning_of(key),
        "rows": [
            [
                *(cell(one, behind(row, c)) for one, c in zip(cells, columns, strict=True)),
                {**cell(mean, []), "seeds": mean.seeds, "covered": covered},
            ]
            for row, cells, mean, covered in zip(rows, *found[1:], strict=True)
        ],
    }


def _row(row: Row, places: dict[int, int]) -> dict[str, Any]:
    verdicts = [found for run in row.runs if (found := _verdicts(run)) is not None]
    costs = {
        "seconds_per_picture": _mean([run.costs.seconds_per_picture for run in row.runs]),
        "fit_seconds": _mean([run.costs.fit_seconds for run in row.runs]),
        "peak_memory_bytes": max((run.costs.peak_memory_bytes or 0 for run in row.runs), default=0)
        or None,
    }
    return {
        "label": row.label,
        "settings": list(row.settings.items()),
        "runs": [places[id(run)] for run in row.runs],
        "verdicts": (
            Verdicts(*(sum(each) for each in zip(*verdicts, strict=True)))._asdict()
            if verdicts
            else None
        ),
        "judged": len(verdicts),
        "costs": [[title_of(key), written(costs[key], key)] for key in COSTS],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _verdicts(run: Finished) -> Verdicts | None:
    """How the threshold of now does; without scores, what the one of then called the pictures."""
    written_then = run.metrics["verdicts"]
    return run.verdicts() or (None if written_then is None else Verdicts(**written_then))


def _run(run: Finished, page: Path, of: int) -> dict[str, Any]:
    scored = [one for own in run.scored.values() for one in own]
    report = run.folder / REPORT
    link = None
    if report.exists() and report.resolve() != page.resolve():
        link = Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix()
    verdicts = _verdicts(run)
    most = max(10, min(_DOTS, _ALL_DOTS // (2 * of)))
    return {
        "folder": str(run.folder),
        "title": run_title(run.record),
        "model": run.record["settings"]["model"],
        "seed": run.seed,
        "link": link,
        "mean": run.metrics["metrics"],
        "columns": {run.column(name): values for name, values in run.metrics["categories"].items()},
        "verdicts": None if verdicts is None else verdicts._asdict(),
        "threshold": None if run.calibration is None else run.calibration.threshold,
        "good": _dots([one.score for one in scored if not one.defective], most),
        "defective": _dots([one.score for one in scored if one.defective], most),
        "notes": renewed_notes(
            run.metrics["notes"], run.calibration, run.verdicts(), len(run.scored)
        ),
        "command": run.record["command"],
    }


def _dots(scores: Sequence[float], most: int) -> list[float]:
    if len(scores) <= most:
        return sorted(scores)
    shares = np.linspace(0, 1, most)
    return [float(score) for score in np.quantile(scores, shares, method="nearest")]


class _Wrong(NamedTuple):
    """A picture that some run gets wrong."""

    column: str
    one: Scored
    white_level: int | None
    called: list[int | None]
    """Of each row: how many of its runs call it defective; None if none has a verdict on it."""
    tested: list[int]
    """Of each row: how many of its runs have a verdict on it."""

    @property
    def mistakes(self) -> int:
        """Runs that get it wrong."""
        pairs = zip(self.called, self.tested, strict=True)
        found = sum(called or 0 for called in self.called)
        return sum(n - (c or 0) for c, n in pairs) if self.one.defective else found


def _wrong_pictures(rows: Sequence[Row]) -> list[_Wrong]:
    """Pictures that a run gets wrong at its threshold: those first that most do."""
    found: dict[tuple[str, str, bool, str], _Wrong] = {}
    for place, row in enumerate(rows):
        for run in row.runs:
            if run.calibration is None:
                continue
            for category, own in run.scored.items():
                for one in own:
                    key = (run.column(category), one.name, one.defective, one.group)
                    if key not in found:
                        none: list[int | None] = [None] * len(rows)
                        found[key] = _Wrong(key[0], one, run.white_level, none, [0] * len(rows))
                    called, tested = found[key].called, found[key].tested
                    called[place] = (called[place] or 0) + run.calls_defective(one)
                    tested[place] += 1
    wrong = [one for one in found.values() if one.mistakes]
    return sorted(wrong, key=lambda one: (-one.mistakes, one.column, one.one.name))


def _chosen(wrong: Sequence[_Wrong], columns: int) -> list[_Wrong]:
    """Those to list: the worst of each category, so that none takes all places."""
    places = max(_OF_EACH, _PICTURES // max(1, columns))
    taken: dict[str, int] = {}
    chosen: list[_Wrong] = []
    for one in wrong:
        taken[one.column] = taken.get(one.column, 0) + 1
        if taken[one.column] <= places and len(chosen) < _PICTURES:
            chosen.append(one)
    return chosen


def _pictured(wrong: Sequence[_Wrong]) -> list[dict[str, Any]]:
    """What a page shows of them: thumbnails of the first ones, if the pictures are still there."""
    shown, left = [], _THUMBNAIL_BYTES
    for place, own in enumerate(wrong):
        column, one, white, called, tested = own
        picture = None
        if place < _THUMBNAILS:
            try:
                picture = picture_webp(glimpse(Path(one.path), white=white), _SIDE)
            except PictureError:  # it is named all the same
                picture = None
            left -= len(picture or b"")
        shown.append(
            {
                "column": column,
                "name": one.name,
                "defective": one.defective,
                "group": one.group,
                "called": called,
                "tested": tested,
                "mistakes": own.mistakes,
                "picture": None if picture is None or left < 0 else data_uri(picture),
            }
        )
    return shown
