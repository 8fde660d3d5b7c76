"""Many runs as a table: a row for each model with its settings, a column for each category."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, final

import numpy as np

from ad.core.report.finished import Finished
from ad.core.report.run import FIGURES, as_text, with_size_in_words

_NOT_OF_THE_ROW = ("category", "seed", "data_root")
"""Settings in which the runs of one row may differ."""

_FEW = 5
"""So many values of a setting are named where the runs of a row differ."""


class Cost(NamedTuple):
    """A figure of which less is better."""

    title: str
    meaning: str
    unit: str
    scale: float
    """How many of the unit one of what a run records is."""


COSTS: Final = {
    "seconds_per_picture": Cost(
        "time a picture",
        "Reading and scoring a test picture, on the machine and beside whatever else ran there.",
        "ms",
        1e3,
    ),
    "fit_seconds": Cost(
        "time to learn",
        "Of a run that was resumed, since it was resumed for the last time.",
        "s",
        1,
    ),
    "peak_memory_bytes": Cost(
        "memory",
        "The most that a run's process held, learning and testing: of the GPU, if it ran on one.",
        "GiB",
        2**-30,
    ),
}
"""What runs take, by the names that `ad.core.saved.record.Costs` has."""


@final
@dataclass(slots=True)
class Row:
    """A model with its settings."""

    label: str
    """Unlike that of any other row."""
    settings: dict[str, str]
    """All of them, for a person; where its runs differ, what they have."""
    runs: list[Finished] = field(default_factory=list)
    """With other seeds or on other categories."""

    def of(self, column: str) -> list[tuple[Finished, str]]:
        """The runs on a category, in the order of their seeds, with its name in each."""
        found = [
            (run, name)
            for run in self.runs
            for name in run.metrics["categories"]
            if run.column(name) == column
        ]
        return sorted(found, key=lambda one: one[0].seed)

    def numbers(self, key: str, column: str) -> dict[int, float]:
        """Seed to a figure or a cost on a category, where it is known."""
        return {
            run.seed: float(value)
            for run, name in self.of(column)
            if (value := value_of(run, name, key)) is not None
        }


class Cell(NamedTuple):
    """A figure over seeds."""

    mean: float | None
    """None if no run has it."""
    deviation: float | None
    """Standard deviation over the seeds; None for fewer than two."""
    seeds: int
    """Those that have it."""
    best: bool = False
    """Whether, as it is shown, no other row is better in the column."""


class Grid(NamedTuple):
    """One figure of all rows."""

    key: str
    cells: list[list[Cell]]
    """Of each row and category."""
    means: list[Cell]
    """Of each row: the mean over its categories, and its deviation over the seeds."""
    covered: list[int]
    """Categories that each row has the figure of."""


def rows_of(runs: Sequence[Finished], labels: Sequence[str] | None = None) -> list[Row]:
    """Put runs into rows: those that differ in nothing but category and seed, in their order.

    A run that would be a second one with its seed on its category begins a row of its own.

    Args:
        runs: To be compared.
        labels: What to call the model of each run with its settings; by default, by its name and
            the settings in which rows of that model differ.
    """
    found: dict[tuple[str, int], Row] = {}
    for place, run in enumerate(runs):
        label = str(run.record["settings"]["model"]) if labels is None else labels[place]
        settings = run.record["settings"]
        key = json.dumps([label, {k: v for k, v in settings.items() if k not in _NOT_OF_THE_ROW}])
        again = 0
        while (key, again) in found and _is_there(run, found[key, again]):
            again += 1
        found.setdefault((key, again), Row(label, {})).runs.append(run)
    rows = list(found.values())
    for row in rows:
        row.settings = _united([_flat(run.record) for run in row.runs])
    if labels is None:
        _tell_apart(rows)
    _number(rows)
    return rows


def columns_of(runs: Sequence[Finished]) -> list[str]:
    """The categories of all runs, with the data sets they are of."""
    return list(dict.fromkeys(r.column(name) for r in runs for name in r.metrics["categories"]))


def differences(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Settings in which rows differ, with each one's value."""
    names = dict.fromkeys(name for row in rows for name in row.settings)
    found = [
        {"name": name, "values": [row.settings.get(name, "") for row in rows]} for name in names
    ]
    return [one for one in found if len(set(one["values"])) > 1]


def value_of(run: Finished, category: str, key: str) -> float | None:
    """A figure of a run on a category, or one of its `COSTS`."""
    if key in COSTS:
        cost: float | None = getattr(run.costs, key)
        return cost
    found: float | None = run.metrics["categories"][category].get(key)
    return found


def grid(rows: Sequence[Row], columns: Sequence[str], key: str) -> Grid:
    """One figure of all rows and categories, and which are the best.

    Of values that read the same, all are. The mean of a row that lacks a category that another
    has is not comparable, and so never the best.
    """
    numbers = [[row.numbers(key, column) for column in columns] for row in rows]
    cells = [[_cell(list(seeds.values())) for seeds in row] for row in numbers]
    means, covered = [], []
    for row, own in zip(numbers, cells, strict=True):
        known = [seeds for seeds in row if seeds]
        covered.append(len(known))
        common = set.intersection(*map(set, known)) if known else set()
        over = [float(np.mean([seeds[seed] for seeds in known])) for seed in sorted(common)]
        values = [cell.mean for cell in own if cell.mean is not None]
        count = len(common) if common else max((cell.seeds for cell in own), default=0)
        mean = float(np.mean(values)) if values else None
        means.append(_cell(over)._replace(mean=mean, seeds=count))
    for place in range(len(columns)):
        best = _best([own[place].mean for own in cells], key)
        for own, is_best in zip(cells, best, strict=True):
            own[place] = own[place]._replace(best=is_best)
    every = sum(any(row[place] for row in numbers) for place in range(len(columns)))
    full = [one.mean if n == every else None for one, n in zip(means, covered, strict=True)]
    best = _best(full, key)
    means = [one._replace(best=is_best) for one, is_best in zip(means, best, strict=True)]
    return Grid(key, cells, means, covered)


def keys_of(runs: Sequence[Finished]) -> list[str]:
    """The figures and costs that any of the runs has."""
    metrics = dict.fromkeys(key for run in runs for key in run.metrics["metrics"])
    return [
        key
        for key in (*metrics, *COSTS)
        if any(value_of(run, c, key) is not None for run in runs for c in run.metrics["categories"])
    ]


def title_of(key: str) -> str:
    """What a figure or a cost is called, with its unit."""
    if key in COSTS:
        return f"{COSTS[key].title}, {COSTS[key].unit}"
    return FIGURES.get(key, (key, ""))[0]


def meaning_of(key: str) -> str:
    """What a figure or a cost means."""
    return COSTS[key].meaning if key in COSTS else FIGURES.get(key, ("", ""))[1]


def written(value: float | None, key: str) -> str:
    """A figure in three decimals, or a cost in three digits of its unit; a dash for none."""
    if value is None:
        return "–"
    if key not in COSTS:
        return f"{value:.3f}"
    scaled = value * COSTS[key].scale
    return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f}"


def _best(values: Sequence[float | None], key: str) -> list[bool]:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return [False] * len(values)
    best = written(min(known) if key in COSTS else max(known), key)
    return [written(value, key) == best for value in values]


def _cell(values: Sequence[float]) -> Cell:
    mean = float(np.mean(values)) if values else None
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Cell(mean, deviation, len(values))


def _is_there(run: Finished, row: Row) -> bool:
    there = {(run.column(name), run.seed) for run in row.runs for name in run.metrics["categories"]}
    return any((run.column(name), run.seed) in there for name in run.metrics["categories"])


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    settings = with_size_in_words(record["settings"])
    options = settings.pop("options")
    parts = [settings, options, {k: record[k] for k in ("device", "precision", "threads")}]
    parts += [record["machine"], record["versions"]]
    return {name: as_text(value) for part in parts for name, value in part.items()}


def _united(flat: Sequence[Mapping[str, str]]) -> dict[str, str]:
    names = dict.fromkeys(name for one in flat for name in one)
    return {name: _several([one[name] for one in flat if name in one]) for name in names}


def _several(values: Sequence[str]) -> str:
    found = list(dict.fromkeys(values))
    return ", ".join(found) if len(found) <= _FEW else f"{len(found)} values"


def _tell_apart(rows: Sequence[Row]) -> None:
    """Name the settings in which rows of one model differ."""
    for name in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if row.label == name]
        settings = own[0].runs[0].record["settings"]
        named = {*settings, *settings["options"]} - {*_NOT_OF_THE_ROW}
        differ = [one for one in differences(own) if one["name"] in named]
        for place, row in enumerate(own):
            said = "; ".join(f"{one['name']}={one['values'][place]}" for one in differ)
            row.label = f"{name}[{said}]" if said else name


def _number(rows: Sequence[Row]) -> None:
    """Number rows that would have the same name."""
    seen: dict[str, int] = {}
    for row in rows:
        seen[row.label] = seen.get(row.label, 0) + 1
        if seen[row.label] > 1:
            row.label = f"{row.label} ({seen[row.label]})"
