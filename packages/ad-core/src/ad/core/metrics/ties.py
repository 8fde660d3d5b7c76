"""Groups equal scores of positives, with how many there are and what they weigh.

Positives are sorted some millions at a time, cut apart by score, so that what weighs little memory
where there are few takes no more where there are many. How they are cut follows from the scores
alone: the sums, whose last digits are of the order in which they are added, are the same whether
the scores are in memory or on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.runtime.spill import Column

Scores = NDArray[np.floating[Any]]
Weights = NDArray[np.float64]
Ties = tuple[Scores, NDArray[np.int64], Weights]
"""Distinct scores ``[K]``, rising; how many positives have each; what these weigh."""

Cut = np.floating[Any] | None
"""A score that is above all before it; None for no end."""

_SORTED_AT_ONCE = 1 << 23  # positives, about: some 400 MiB
_READ_AT_ONCE = 1 << 20
_SAMPLE = 100_000


def group_ties(positives: Scores, weights: Weights | None) -> Ties:
    """Group all at once.

    Args:
        positives: ``[P]``, finite.
        weights: ``[P]``; 1 if None.
    """
    cuts = cuts_of(positives)
    if len(cuts) == 1:
        return _group(positives, weights)
    groups = [group_between(positives, weights, low, high) for low, high in cuts]
    scores, counts, sums = (np.concatenate(some) for some in zip(*groups, strict=True))
    return scores, counts, sums


def cuts_of(positives: Scores | Column) -> list[tuple[Cut, Cut]]:
    """Where to cut, from the lowest to the highest: from one score on to below another.

    A score that very many positives have is apart from all others.
    """
    number = -(-positives.size // _SORTED_AT_ONCE)
    if number <= 1:
        return [(None, None)]
    step = max(1, positives.size // _SAMPLE)
    sample = np.sort(
        np.concatenate([positives[part][-part.start % step :: step] for part in _parts(positives)])
    )
    quantiles = sample[np.arange(1, number) * sample.size // number]
    beyond = np.nextafter(quantiles, quantiles.dtype.type(np.inf))
    heavy = beyond[1:][quantiles[1:] == quantiles[:-1]]
    ends: list[Cut] = [None, *np.unique(np.concatenate([quantiles, heavy])), None]
    return [*zip(ends[:-1], ends[1:], strict=True)]


def group_between(
    positives: Scores | Column,
    weights: Weights | Column | None,
    low: Cut,
    high: Cut,
    *,
    divisor: int = 1,
) -> Ties:
    """Group those from a score on to below another.

    Args:
        positives: ``[P]``, finite.
        weights: ``[P]``; 1 if None.
        low: The first score; None for the lowest.
        high: The score that is not among them any more; None for none.
        divisor: Of the weights.
    """
    if low is not None and high is not None and high == np.nextafter(low, high):
        return _of_one_score(positives, weights, low, divisor)
    scores: list[Scores] = []
    weighing: list[Weights] = []
    for part in _parts(positives):
        some = positives[part]
        inside = np.ones(some.size, np.bool_) if low is None else some >= low
        if high is not None:
            inside &= some < high
        scores.append(some[inside])
        if weights is not None:
            weighing.append(_divided(weights[part][inside], divisor))
    return _group(np.concatenate(scores), np.concatenate(weighing) if weighing else None)


def median_of(numbers: Column) -> float:
    """What `np.median` gives of numbers on disk, of which there is at least one."""
    ranks = (numbers.size - 1) // 2, numbers.size // 2
    middle, before = [], 0
    for low, high in cuts_of(numbers):
        values, counts, _ = group_between(numbers, None, low, high)
        ends = before + np.cumsum(counts)
        end = before + int(counts.sum())
        inside = [rank for rank in ranks if before <= rank < end]
        middle += [values[np.searchsorted(ends, rank, side="right")] for rank in inside]
        before = end
    return float(np.mean(np.array(middle)))


def _of_one_score(
    positives: Scores | Column,
    weights: Weights | Column | None,
    score: np.floating[Any],
    divisor: int,
) -> Ties:
    """Those that have one score, of which there may be more than can be held."""
    count, weight = 0, 0.0
    for part in _parts(positives):
        inside = positives[part] == score
        found = int(np.count_nonzero(inside))
        count += found
        own = found if weights is None else np.sum(_divided(weights[part][inside], divisor))
        weight += float(own)
    return np.array([score][:count]), np.array([count][:count]), np.array([weight][:count])


def _group(positives: Scores, weights: Weights | None) -> Ties:
    if weights is None:
        ranked = np.sort(positives)
    else:
        order = np.argsort(positives)
        ranked, weights = positives[order], weights[order]
    is_first = np.ones(ranked.size, dtype=np.bool_)
    is_first[1:] = ranked[1:] != ranked[:-1]
    firsts = np.flatnonzero(is_first)
    positives_at = np.diff(firsts, append=ranked.size)
    if weights is None or not firsts.size:  # `reduceat` cannot take nothing at all
        return ranked[firsts], positives_at, positives_at.astype(np.float64)
    return ranked[firsts], positives_at, np.add.reduceat(weights, firsts)


def _divided(weights: Weights, divisor: int) -> Weights:
    return weights if divisor == 1 else weights / divisor


def _parts(positives: Scores | Column) -> list[slice]:
    size = positives.size
    return [slice(at, min(at + _READ_AT_ONCE, size)) for at in range(0, size, _READ_AT_ONCE)] or [
        slice(0, 0)
    ]
