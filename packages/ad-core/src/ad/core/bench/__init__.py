"""Many trainings: data sets, categories, models and seeds, each run in a process of its own.

A run that fails or is killed costs only itself. Started again in the same folder, runs that are
finished are not done again, and those that were stopped go on.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ad.core.bench.executors import Executor
from ad.core.bench.jobs import Job, Outcome, finished, outcome_of
from ad.core.errors import OutputError
from ad.core.figures.kinds import SATURATED_METRICS
from ad.core.figures.measure import IMAGE_METRICS, PIXEL_METRICS
from ad.core.report.choice import choose
from ad.core.report.comparison import Compared, read_compared, write_comparison
from ad.core.report.recommending import Limits, Recommendation
from ad.core.report.run import REPORT
from ad.core.thresholds.verdicts import Verdicts
from ad.runtime.files import to_json, write_atomic

METRICS = (*IMAGE_METRICS, *PIXEL_METRICS, *SATURATED_METRICS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One model on one category, over its seeds."""

    dataset: str
    """Layout of the data."""
    category: str
    """Of the data set."""
    model: str
    """Registry name, with the options that are not the catalogue's: see `Job.label`."""
    runs: int
    """Runs that are done."""
    failed: int
    """Runs that are not."""
    mean: dict[str, float | None]
    """Of each metric over the runs that have it."""
    deviation: dict[str, float | None]
    """Standard deviation over them; None for fewer than two."""


def run_bench(
    jobs: Sequence[Job],
    executor: Executor,
    *,
    output: Path,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Do all runs that are not done, and write ``results.json`` and ``results.csv``.

    Both files are written anew after each run, so a bench that is stopped has what it had found.
    `compare` makes a page of them to look at.

    Args:
        jobs: What to run.
        executor: How.
        output: Folder for the two files.
        told: Called with each outcome as it comes, those of earlier benches first.

    Returns:
        Outcomes in the order of the jobs.

    Raises:
        OutputError: If the folder cannot be made or written to.
        Interrupted: On SIGTERM, after the runs that were going on have ended.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = (
            f"The bench's folder `{output}` cannot be made ({error.strerror}). Name another "
            "one, or make way for it."
        )
        raise OutputError(msg) from error
    outcomes: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        outcomes[outcome.job.name] = outcome
        rows = [outcomes[job.name].row() for job in jobs if job.name in outcomes]
        write_atomic(output / "results.json", to_json({"runs": rows}))
        write_atomic(output / "results.csv", _table(rows).encode())
        told(outcome)

    for job in jobs:
        if finished(job):
            note(outcome_of(job, skipped=True))
    for outcome in executor.run([job for job in jobs if job.name not in outcomes]):
        note(outcome)
    return [outcomes[job.name] for job in jobs]


def summarise(outcomes: Sequence[Outcome]) -> list[Summary]:
    """Mean and deviation over the seeds, for each category and model in the order of the runs."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        job = outcome.job
        groups.setdefault((job.dataset, job.category, job.label), []).append(outcome)
    summaries = []
    for (dataset, category, model), members in groups.items():
        mean: dict[str, float | None] = {}
        deviation: dict[str, float | None] = {}
        for key in METRICS:
            values = [one.metrics[key] for one in members if one.metrics.get(key) is not None]
            mean[key] = float(np.mean(values)) if values else None
            deviation[key] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        done = sum(outcome.error is None for outcome in members)
        summaries.append(
            Summary(
                dataset=dataset,
                category=category,
                model=model,
                runs=done,
                failed=len(members) - done,
                mean=mean,
                deviation=deviation,
            )
        )
    return summaries


def read_done(outcomes: Sequence[Outcome]) -> Compared | None:
    """Read what the runs that are done have written; nothing is scored.

    Returns:
        None if no run is done.

    Raises:
        ModelFileError: If what a run has written is gone or cannot be read.
    """
    done = [outcome.job for outcome in outcomes if outcome.error is None]
    if not done:
        return None
    return read_compared([job.folder for job in done], [job.label for job in done])


def recommendation(
    outcomes: Sequence[Outcome], compared: Compared | None, limits: Limits
) -> Recommendation:
    """Which of the models to take.

    Args:
        outcomes: Those of `run_bench`.
        compared: What `read_done` read of them.
        limits: What a model may cost.
    """
    done = {outcome.job.label for outcome in outcomes if outcome.error is None}
    labels = dict.fromkeys(outcome.job.label for outcome in outcomes)
    rows, columns = ([], []) if compared is None else (compared.rows, compared.columns)
    return choose(rows, columns, limits, [label for label in labels if label not in done])


def failures(outcomes: Sequence[Outcome], planned: int | None = None) -> list[str]:
    """What a reader of figures must know of the runs that are not done.

    Args:
        outcomes: Of those that have ended.
        planned: How many there were to be, if not so many.
    """
    told = []
    if planned is not None and planned > len(outcomes):
        told.append(
            f"The bench was stopped when {len(outcomes)} of {planned} runs had ended, and the "
            "others are not here; the same command goes on with them."
        )
    failed = sum(outcome.error is not None for outcome in outcomes)
    if failed:
        told.append(f"{failed} of {len(outcomes)} runs failed and are not here: see results.csv.")
    return told


def compare(
    outcomes: Sequence[Outcome],
    output: Path,
    *,
    compared: Compared | None = None,
    recommended: Recommendation | None = None,
    planned: int | None = None,
) -> Path | None:
    """Write ``report.html``: all runs that are done, as a table of models and categories.

    Args:
        outcomes: Those of `run_bench`.
        output: Folder of the file, which replaces an older one.
        compared: What `read_done` read of them, if it was.
        recommended: Which model to take, if that was asked.
        planned: How many runs there were to be, if not so many.

    Returns:
        The file; None, and nothing is written, if no run is done.

    Raises:
        ModelFileError: If what a run has written is gone or cannot be read.
        OutputError: If the file cannot be written.
    """
    compared = compared or read_done(outcomes)
    if compared is None:
        return None
    path = output / REPORT
    write_comparison(path, compared, failures(outcomes, planned), recommended)
    return path


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each run; what only some have has a column, too."""
    flat = [_flat(row) for row in rows]
    last = {"run": None, "error": None}
    columns = [
        name for name in dict.fromkeys(name for one in flat for name in one) if name not in last
    ]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*columns, *last])
    for one in flat:
        cells = [one.get(column) for column in (*columns, *last)]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``results.json`` without anything inside of anything."""
    groups = ("metrics", "verdicts", "settings", "machine", "versions")
    figures = {key: row["metrics"].get(key) for key in METRICS}
    verdicts = row["verdicts"] or dict.fromkeys(Verdicts._fields)
    chosen = {key: value for key, value in row["settings"].items() if key not in row}
    return {
        **{key: row[key] for key in ("dataset", "category", "model", "label", "seed", "status")},
        **figures,
        **verdicts,
        **{key: value for key, value in row.items() if key not in groups},
        # The rate of false alarms that was asked for has the name of those that came of it.
        **{f"{key}_asked" if key in verdicts else key: _cell(v) for key, v in chosen.items()},
        **row["machine"],
        **{f"{name}_version": found for name, found in row["versions"].items()},
    }


def _cell(value: object) -> object:
    """A setting as `ad` reads it: what is no number and no text as JSON."""
    return json.dumps(value) if isinstance(value, dict | list | tuple | bool) else value
