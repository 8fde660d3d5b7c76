"""What a reader of figures side by side must know, from what the runs have recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ad.core.report.finished import Finished
from ad.core.report.standings import Row

_FEW = 6
"""So many counts are told one by one."""

_MOST = 10
"""Notes on the data that are told; the runs have all."""


def caveats(runs: Sequence[Finished], rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Why figures may not be comparable, or not mean what they seem to.

    Args:
        runs: All of them.
        rows: The same as models with their settings.
        columns: Their categories.
    """
    return [
        *_other_pictures(rows, columns),
        *_other_circumstances(runs, rows),
        *_data(runs, columns),
    ]


def _other_pictures(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Where figures of one column are not of the same pictures, and so cannot be compared.

    Data that are divided by the seed differ from seed to seed, and may where all rows have them.
    """
    notes = []
    for column in columns:
        tested = [
            (row.label, run.seed, {(one.name, one.defective) for one in run.scored[name]})
            for row in rows
            for run, name in row.of(column)
            if run.scored.get(name)
        ]
        first_of: dict[int, set[tuple[str, bool]]] = {}
        for _, seed, own in tested:
            first_of.setdefault(seed, own)
        seeds: dict[str, set[int]] = {}
        for label, seed, _ in tested:
            seeds.setdefault(label, set()).add(seed)
        one_seed_differs = any(own != first_of[seed] for _, seed, own in tested)
        seeds_differ = any(own != tested[0][2] for _, _, own in tested)
        if one_seed_differs or (seeds_differ and len(set(map(frozenset, seeds.values()))) > 1):
            counts = [len(own) for _, _, own in tested]
            told = ", ".join(map(str, counts))
            if len(counts) > _FEW:
                told = f"{min(counts)} to {max(counts)}"
            notes.append(
                f"The runs were not tested on the same pictures of {column} ({told} pictures): "
                "their figures there cannot be compared."
            )
    return notes


def _other_circumstances(runs: Sequence[Finished], rows: Sequence[Row]) -> list[str]:
    """What the runs were made with, where that is not the same for all: figures may differ by it.

    Precision is a model's own, unless runs of the same model have several.
    """
    parts = []
    for group in ("versions", "machine"):
        names = dict.fromkeys(name for run in runs for name in run.record.get(group, {}))
        for name in names:
            found = [run.record[group][name] for run in runs if name in run.record.get(group, {})]
            parts.append(_several(name, found))
    for name in ("device", "threads"):
        parts.append(_several(name, [run.record[name] for run in runs if name in run.record]))
    for row in rows:
        found = [run.record["precision"] for run in row.runs if "precision" in run.record]
        parts.append(_several(f"precision of {row.label}", found))
    told = [part for part in parts if part]
    if not told:
        return []
    return [
        f"Not all runs were made alike: {'; '.join(told)}. Their figures may differ by that, and "
        "their times. To have them alike, do all again into another folder."
    ]


def _several(name: str, values: Sequence[object]) -> str:
    """Each value and how many runs have it; empty if it is one."""
    counts: dict[str, int] = {}
    for value in map(str, values):
        counts[value] = counts.get(value, 0) + 1
    if len(counts) < 2:
        return ""
    return f"{name} {', '.join(f'{value} ({count})' for value, count in counts.items())}"


def _data(runs: Sequence[Finished], columns: Sequence[str]) -> list[str]:
    """What the runs found odd about the pictures of each category, with its first seed."""
    told: dict[str, None] = {}
    for column in columns:
        own = [run for run in runs if column in map(run.column, run.metrics["categories"])]
        seed = min(run.seed for run in own)
        notes = [note for run in own if run.seed == seed for note in run.data_notes]
        told |= dict.fromkeys(f"{column}: {note}" for note in notes)
    lines = list(told)
    if len(lines) > _MOST:
        more = f"{len(lines) - _MOST + 1} more notes on the data are in the runs' reports."
        lines = [*lines[: _MOST - 1], more]
    return lines
