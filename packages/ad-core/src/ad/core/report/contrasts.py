"""Which of the differences between models are more than chance, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.core.metrics.differences import (
    CONFIDENCE,
    Interval,
    Signs,
    interval,
    resampled_auroc,
    sign_test,
)
from ad.core.report.finished import Scored
from ad.core.report.standings import Row, grid

_ALL_PAIRS = 6
"""Up to so many models each is compared with each; of more, the first with each other."""

_KEY = "image_auroc"

_PERCENT = f"{100 * CONFIDENCE:.0f} %"

Draws = NDArray[np.float64]
"""``[1 + draws]``: AUROC on the pictures as they are, then on each draw."""


class _Tested(NamedTuple):
    """A run on a category."""

    pictures: frozenset[tuple[str, bool]]
    """Name, and whether it is defective."""
    aurocs: Draws


class Contrast(NamedTuple):
    """Two models on the pictures that both were tested on."""

    first: str
    """Label of the one with the higher mean."""
    second: str
    """Label of the other."""
    overall: Interval
    """How far the first is ahead in image AUROC, mean over the categories."""
    categories: dict[str, Interval]
    """The same in each category."""
    signs: Signs | None
    """In how many categories it is; None for one category."""
    seeds: tuple[float, ...]
    """How far it is ahead with each seed that all these categories have."""
    left_out: int
    """Categories of either that cannot be compared."""

    def words(self) -> str:
        """In a line."""
        low, high = _three(self.overall.low), _three(self.overall.high)
        parts = [
            f"{self.first} over {self.second}: {_signed(self.overall.difference)} ({_PERCENT}: "
            f"{low} to {high}) on these pictures"
        ]
        if self.signs is not None:
            ahead, behind, equal, p = self.signs
            ties = f", equal in {equal}" if equal else ""
            parts.append(f"better in {ahead} of {ahead + behind + equal} categories{ties}, {_p(p)}")
        if len(self.seeds) > 1:
            least, most = _signed(min(self.seeds)), _signed(max(self.seeds))
            parts.append(f"{least} to {most} by seed")
        if self.left_out:
            noun = "category" if self.left_out == 1 else "categories"
            parts.append(f"{self.left_out} {noun} left out")
        chance = "more than chance of the pictures" if self.overall.differs else "may be chance"
        return f"{'; '.join([*parts, chance])}."

    def to_json(self) -> dict[str, Any]:
        """As ``ad bench --json`` has it."""
        return {
            "first": self.first,
            "second": self.second,
            **self.overall._asdict(),
            "categories": {name: one._asdict() for name, one in self.categories.items()},
            "signs": None if self.signs is None else self.signs._asdict(),
            "seeds": list(self.seeds),
        }


class Contrasts(NamedTuple):
    """What can be said of all models."""

    pairs: list[Contrast]
    """Those with the highest means first."""
    notes: list[str]
    """What is not known."""


def contrast(rows: Sequence[Row], columns: Sequence[str]) -> Contrasts:
    """Compare models by image AUROC: bootstrap over pictures, sign test over categories.

    Of up to six models each with each, of more the one with the highest mean with each other. Two
    are compared where they were tested on the same pictures with the same seed.

    Args:
        rows: The models.
        columns: The categories.
    """
    means = grid(rows, columns, _KEY).means
    ranked = sorted(
        (place for place, cell in enumerate(means) if cell.mean is not None),
        key=lambda place: -(means[place].mean or 0),
    )
    if len(ranked) < 2:
        why = "Fewer than two models have an image AUROC: there is nothing to compare."
        return Contrasts([], [why])
    drawn = {column: _drawn(rows, column, at) for at, column in enumerate(columns)}
    firsts = ranked if len(ranked) <= _ALL_PAIRS else ranked[:1]
    wanted = [(one, other) for at, one in enumerate(firsts) for other in ranked[at + 1 :]]
    pairs = []
    for one, other in wanted:
        own = {
            column: (_seeds(tested, one), _seeds(tested, other)) for column, tested in drawn.items()
        }
        if (found := _pair((rows[one].label, rows[other].label), own)) is not None:
            pairs.append(found)
    return Contrasts(pairs, _notes(pairs, len(wanted)))


def _seeds(tested: Mapping[tuple[int, int], _Tested], row: int) -> dict[int, _Tested]:
    return {seed: one for (place, seed), one in tested.items() if place == row}


def _drawn(rows: Sequence[Row], column: str, number: int) -> dict[tuple[int, int], _Tested]:
    """Row and seed to what was tested and its AUROC, on draws that are the same for all."""
    found = {
        (place, run.seed): run.scored[name]
        for place, row in enumerate(rows)
        for run, name in row.of(column)
        if run.scored.get(name)
    }
    names = dict.fromkeys(_picture(one) for own in found.values() for one in own)
    pictures = {name: at for at, name in enumerate(names)}
    scores = np.full((len(found), len(pictures)), np.nan)
    for at, own in enumerate(found.values()):
        scores[at, [pictures[_picture(one)] for one in own]] = [one.score for one in own]
    labels = np.array([defective for _, defective in pictures], dtype=bool)
    aurocs = resampled_auroc(scores, labels, seed=number)
    return {
        key: _Tested(frozenset(map(_picture, own)), aurocs[at])
        for at, (key, own) in enumerate(found.items())
    }


def _picture(one: Scored) -> tuple[str, bool]:
    return one.name, one.defective


def _pair(
    labels: tuple[str, str], drawn: dict[str, tuple[dict[int, _Tested], dict[int, _Tested]]]
) -> Contrast | None:
    """Two models, by what each was tested on in each category; None if that is never the same."""
    columns: dict[str, tuple[Draws, Draws]] = {}
    by_seed: list[dict[int, float]] = []
    for column, (first, second) in drawn.items():
        seeds = [s for s in first if s in second and first[s].pictures == second[s].pictures]
        known = [s for s in seeds if np.isfinite(first[s].aurocs[0])]
        if known:
            one, other = (
                np.mean([own[seed].aurocs for seed in known], axis=0) for own in (first, second)
            )
            columns[column] = (one, other)
            gaps = {s: float(first[s].aurocs[0] - second[s].aurocs[0]) for s in known}
            by_seed.append(gaps)
    if not columns:
        return None
    one, other = (np.mean(own, axis=0) for own in zip(*columns.values(), strict=True))
    overall = interval(one, other)
    if overall is None:
        return None
    each = {column: interval(*own) for column, own in columns.items()}
    seeds = sorted(set.intersection(*map(set, by_seed)))
    now = np.array([[own[0] for own in pair] for pair in columns.values()])
    return Contrast(
        first=labels[0],
        second=labels[1],
        overall=overall,
        categories={column: one for column, one in each.items() if one is not None},
        signs=sign_test(now[:, 0], now[:, 1]),
        seeds=tuple(float(np.mean([gaps[seed] for gaps in by_seed])) for seed in seeds),
        left_out=sum(bool(first or second) for first, second in drawn.values()) - len(columns),
    )


def _notes(pairs: Sequence[Contrast], wanted: int) -> list[str]:
    """What is not known."""
    notes = []
    if len(pairs) < wanted:
        notes.append(
            f"{wanted - len(pairs)} of {wanted} pairs were never tested on the same pictures with "
            "the same seed, or their scores were not kept: nothing is known of them."
        )
    if not pairs:
        return notes
    notes.append(
        f"An interval has the difference on all pictures like these in it {_PERCENT} of the time, "
        "by drawing the test pictures again (2,000 paired bootstraps). Of several intervals, about "
        "one in 20 misses; and the first of many owes part of its lead to luck."
    )
    if all(one.signs is None for one in pairs):
        notes.append("One category: whether a model is better in most is not known (no sign test).")
    else:
        notes.append(
            "p is the chance of so uneven a count of categories, or a more uneven one, if both "
            "were as good (sign test); with fewer than 6 categories it is always above 0.05."
        )
    if all(len(one.seeds) < 2 for one in pairs):
        notes.append(
            "One seed: what learning again with another one would change is not known. "
            "`--seeds 3` tries three."
        )
    else:
        notes.append(
            "The intervals are of the mean over the seeds; what another seed may change is what "
            "stands there by seed, and not in the interval."
        )
    return notes


def _three(value: float) -> str:
    return f"{value:.3f}".replace("-0.000", "0.000")


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-0.000", "+0.000")


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"
