"""What the report of several runs says, from what is in their directories; nothing is scored."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from ad.core.errors import ModelFileError
from ad.core.report.page import write_page
from ad.core.report.run import REPORT, as_text, figures, run_title, with_size_in_words
from ad.core.saved.files import LARGEST_LINES
from ad.core.saved.record import RUN, read_run
from ad.core.thresholds.verdicts import Verdicts, renewed_notes
from ad.runtime.calibration import Calibration
from ad.runtime.files import read_limited

_DOTS = 200
"""Scores of a run that are drawn, of good and of defective pictures each; more become quantiles."""
_PICTURES = 100
"""Pictures that are listed with the verdicts of all runs."""


class _Scored(NamedTuple):
    """A line of ``scores.jsonl``."""

    name: str
    defective: bool
    group: str
    score: float


@final
@dataclass(frozen=True, slots=True)
class _Finished:
    """What a finished run wrote."""

    folder: Path
    record: dict[str, Any]
    metrics: dict[str, Any]
    calibration: Calibration | None
    """That of now: it may have been made anew since the metrics were written."""
    scored: dict[str, list[_Scored]]
    """Category to its test pictures; empty if the scores were not kept."""

    def column(self, category: str) -> str:
        """A category's name among those of all runs: it says of which data set it is."""
        return f"{self.record['settings']['dataset']} {category}"

    def calls_defective(self, one: _Scored) -> bool:
        return self.calibration is not None and self.calibration.is_anomalous(one.score)

    def verdicts(self) -> Verdicts | None:
        """How the threshold of now does on the test pictures; None without their scores."""
        scored = [one for own in self.scored.values() for one in own]
        if self.calibration is None or not scored:
            return None
        called = [one.defective for one in scored if self.calls_defective(one)]
        defective = sum(one.defective for one in scored)
        return Verdicts(
            found=sum(called),
            defective=defective,
            false_alarms=len(called) - sum(called),
            good=len(scored) - defective,
        )


def write_comparison(path: Path, runs: Sequence[Path]) -> None:
    """Write one page that shows runs side by side.

    Args:
        path: The file.
        runs: Run directories of finished runs.

    Raises:
        ModelFileError: If one is no finished run.
        OutputError: If the file cannot be written.
    """
    finished = [_read(run) for run in runs]
    titled = {one["key"]: one for run in finished for one in figures(run.metrics["metrics"])}
    columns = list(
        dict.fromkeys(run.column(name) for run in finished for name in run.metrics["categories"])
    )
    pictures = _wrong_pictures(finished)
    title = f"{len(runs)} runs compared" if len(runs) > 1 else run_title(finished[0].record)
    data = {
        "title": title,
        "figures": [
            {key: one[key] for key in ("key", "title", "meaning")} for one in titled.values()
        ],
        "columns": columns,
        "runs": [_run(run, path) for run in finished],
        "settings": _differences(finished),
        "notes": _notes(finished, columns),
        "wrong": pictures[:_PICTURES],
        "numWrong": len(pictures),
    }
    write_page(path, "comparison", title, data)


def _read(run: Path) -> _Finished:
    record = read_run(run)
    try:
        metrics = json.loads(read_limited(run / "metrics.json", RUN))
        saved = json.loads(read_limited(run / "model" / "config.json", RUN))["calibration"]
        calibration = None if saved is None else Calibration.from_json(saved)
        scored = _scores(run / "scores.jsonl")
    except FileNotFoundError as error:
        name = Path(error.filename).name
        msg = (
            f"`{run}` is no finished run: it has no `{name}`. Finish it with `--resume`, or train "
            "again."
        )
        raise ModelFileError(msg) from error
    except ModelFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        msg = f"The results of `{run}` cannot be read ({error!r}): train again."
        raise ModelFileError(msg) from error
    return _Finished(run, record, metrics, calibration, scored)


def _scores(path: Path) -> dict[str, list[_Scored]]:
    """Category to its test pictures, named by their paths below the folder all of them are in."""
    if not path.exists():
        return {}
    lines: dict[str, list[dict[str, Any]]] = {}
    for text in read_limited(path, RUN, largest=LARGEST_LINES).decode().splitlines():
        line = json.loads(text)
        lines.setdefault(line["category"], []).append(line)
    scored = {}
    for category, own in lines.items():
        root = os.path.commonpath([Path(line["path"]).parent for line in own])
        scored[category] = [
            _Scored(
                name=Path(line["path"]).relative_to(root).as_posix(),
                defective=bool(line["label"]),
                group=line["group"],
                score=float(line["score"]),
            )
            for line in own
        ]
    return scored


def _run(run: _Finished, page: Path) -> dict[str, Any]:
    scored = [one for own in run.scored.values() for one in own]
    verdicts = run.verdicts()
    report = run.folder / REPORT
    link = None
    if report.exists() and report.resolve() != page.resolve():
        link = Path(os.path.relpath(report.resolve(), page.resolve().parent)).as_posix()
    return {
        "folder": str(run.folder),
        "title": run_title(run.record),
        "model": run.record["settings"]["model"],
        "link": link,
        "mean": run.metrics["metrics"],
        "columns": {run.column(name): values for name, values in run.metrics["categories"].items()},
        # Without scores, what the threshold of then called them.
        "verdicts": run.metrics["verdicts"] if verdicts is None else verdicts._asdict(),
        "threshold": None if run.calibration is None else run.calibration.threshold,
        "good": _dots([one.score for one in scored if not one.defective]),
        "defective": _dots([one.score for one in scored if one.defective]),
        "notes": renewed_notes(run.metrics["notes"], run.calibration, verdicts, len(run.scored)),
        "command": run.record["command"],
    }


def _dots(scores: Sequence[float]) -> list[float]:
    if len(scores) <= _DOTS:
        return sorted(scores)
    shares = np.linspace(0, 1, _DOTS)
    return [float(score) for score in np.quantile(scores, shares, method="nearest")]


def _differences(runs: Sequence[_Finished]) -> list[dict[str, Any]]:
    """Settings in which the runs differ, with each run's value."""
    flat = [_flat(run.record) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [{"name": name, "values": [one.get(name, "") for one in flat]} for name in names]
    return [row for row in rows if len(set(row["values"])) > 1]


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    settings = with_size_in_words(record["settings"])
    options = settings.pop("options")
    parts = [settings, options, {k: record[k] for k in ("device", "precision", "threads")}]
    parts += [record["machine"], record["versions"]]
    return {name: as_text(value) for part in parts for name, value in part.items()}


def _notes(runs: Sequence[_Finished], columns: Sequence[str]) -> list[str]:
    """Where figures of one column are not of the same pictures, and so cannot be compared."""
    notes = []
    for column in columns:
        tested = [
            {(one.name, one.defective) for one in own}
            for run in runs
            for category, own in run.scored.items()
            if run.column(category) == column
        ]
        if any(one != tested[0] for one in tested):
            counts = ", ".join(str(len(one)) for one in tested)
            notes.append(
                f"The runs were not tested on the same pictures of {column} ({counts} pictures): "
                "their figures there cannot be compared."
            )
    return notes


def _wrong_pictures(runs: Sequence[_Finished]) -> list[dict[str, Any]]:
    """Pictures that a run gets wrong at its threshold: those first that most do."""
    called: dict[tuple[str, str, bool, str], list[bool | None]] = {}
    for place, run in enumerate(runs):
        if run.calibration is None:
            continue
        for category, own in run.scored.items():
            for one in own:
                key = (run.column(category), one.name, one.defective, one.group)
                verdicts = called.setdefault(key, [None] * len(runs))
                verdicts[place] = run.calls_defective(one)
    wrong = []
    for (column, name, defective, group), verdicts in called.items():
        mistakes = sum(verdict is not None and verdict != defective for verdict in verdicts)
        if mistakes:
            wrong.append(
                {
                    "column": column,
                    "name": name,
                    "defective": defective,
                    "group": group,
                    "called": verdicts,
                    "mistakes": mistakes,
                }
            )
    return sorted(wrong, key=lambda one: (-one["mistakes"], one["column"], one["name"]))
