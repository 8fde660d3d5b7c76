"""One counting pass over scores, and the closed form of every metric in its counts.

The pass finds, for each distinct score of a positive, how many negatives lie above it and how
many tie with it. No curve is built, and the negatives, which are nearly all pixels, are sorted
once and never argsorted. Knows nothing of images.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

_MAX_THREADS = 8
_SAMPLE = 100_000  # enough to know a quantile to a fraction of a percent
_SCORES_PER_THREAD = 1 << 20  # below this, starting a thread costs more than it saves


class F1Max(NamedTuple):
    """The best balance of precision and recall that any threshold reaches."""

    value: float
    """F1 score, in (0, 1]."""
    threshold: float
    """Call a score positive if it is at least this; the highest one if several do as well."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class RankCounts:
    """Counts at the K distinct scores of the positives, from the highest down.

    Attributes:
        thresholds: ``[K]``, the distinct scores.
        positives_at: ``[K]``, positives with exactly this score.
        negatives_above: ``[K]``, negatives with a higher score.
        negatives_from: ``[K]``, negatives with this or a higher score.
        weights: ``[K]``, float64, summed weights of the positives with this score.
        num_positives: All positives.
        num_negatives: All negatives.
    """

    thresholds: Scores
    positives_at: Counts
    negatives_above: Counts
    negatives_from: Counts
    weights: NDArray[np.float64]
    num_positives: int
    num_negatives: int

    def auroc(self) -> float | None:
        """Chance that a positive outranks a negative, a tie counting one half.

        Returns:
            In [0, 1]; None without positives or without negatives.
        """
        if not self.num_positives or not self.num_negatives:
            return None
        outranked = (self.negatives_above + self.negatives_from) / (2 * self.num_negatives)
        return float(np.sum(self.positives_at * (1 - outranked)) / self.num_positives)

    def average_precision(self) -> float | None:
        """Precision averaged over the steps of recall, as scikit-learn defines it.

        Returns:
            In (0, 1]; None without positives.
        """
        if not self.num_positives:
            return None
        caught = np.cumsum(self.positives_at)
        precision = caught / (caught + self.negatives_from)
        return float(np.sum(self.positives_at * precision) / self.num_positives)

    def precision_recall_area(self) -> float | None:
        """Area under the precision-recall curve by trapezoids, starting at precision 1.

        More optimistic than `average_precision`, which is what papers mostly mean.

        Returns:
            In (0, 1]; None without positives.
        """
        if not self.num_positives:
            return None
        caught = np.cumsum(self.positives_at)
        caught_before = caught - self.positives_at
        # The point before t has met every negative above t, also those between two positives.
        alarms = caught_before + self.negatives_above
        before = np.where(alarms == 0, 1.0, caught_before / np.maximum(alarms, 1))
        at = caught / (caught + self.negatives_from)
        return float(np.sum(self.positives_at * (before + at)) / (2 * self.num_positives))

    def f1_max(self) -> F1Max | None:
        """The largest F1 score over all thresholds.

        Only scores of positives need to be tried: lowering the threshold to a score that only
        negatives have adds false alarms and nothing else.

        Returns:
            None without positives.
        """
        if not self.num_positives:
            return None
        caught = np.cumsum(self.positives_at)
        f1 = 2 * caught / (caught + self.negatives_from + self.num_positives)
        best = int(np.argmax(f1))
        return F1Max(float(f1[best]), float(self.thresholds[best]))


def count_ranks(
    positives: Scores,
    negatives: Scores,
    weights: NDArray[np.float64] | None = None,
    *,
    limit: float = 1.0,
) -> RankCounts:
    """Count, at each distinct score of a positive, the positives and negatives.

    Args:
        positives: ``[P]``, finite.
        negatives: ``[N]``, finite, of the same type. Its order is lost: it is sorted in place,
            in blocks, so that no second copy of nearly all pixels is needed.
        weights: ``[P]``, float64, what each positive counts in `RankCounts.weights`; 1 if None.
        limit: False-positive rate, in (0, 1], up to which the counts will be used. Where more
            negatives lie above, counts below 1 are merely some number beyond the limit.
    """
    thresholds, positives_at, summed = group_ties(positives, weights)
    floor = _floor(negatives, limit) if limit < 1 and negatives.size else None
    above, at_or_above = count_negatives(negatives, thresholds, floor)
    return RankCounts(
        thresholds=thresholds[::-1],
        positives_at=positives_at[::-1],
        negatives_above=above[::-1],
        negatives_from=at_or_above[::-1],
        weights=summed[::-1],
        num_positives=positives.size,
        num_negatives=negatives.size,
    )


def group_ties(
    positives: Scores, weights: NDArray[np.float64] | None
) -> tuple[Scores, Counts, NDArray[np.float64]]:
    """Distinct scores, rising, with how many positives have each and what these weigh.

    Args:
        positives: ``[P]``, finite.
        weights: ``[P]``, float64; 1 if None.
    """
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


def _floor(negatives: Scores, limit: float) -> np.floating[Any] | None:
    """A score that at least the share `limit` of the negatives reach, and few more; or None."""
    sample = np.sort(negatives[:: max(1, negatives.size // _SAMPLE)])
    # The margin makes a sample that misses by chance rare; the count below makes it harmless.
    floor: np.floating[Any] = sample[max(0, int((1 - limit - 0.02) * sample.size))]
    return floor if np.count_nonzero(negatives >= floor) >= limit * negatives.size else None


def count_negatives(
    negatives: Scores, thresholds: Scores, floor: np.floating[Any] | None = None
) -> tuple[Counts, Counts]:
    """Count negatives above, and at or above, each threshold.

    Args:
        negatives: ``[N]``, finite; sorted in place, in blocks.
        thresholds: ``[K]``, rising.
        floor: Negatives below it are left out: they count only for thresholds below it.
    """
    # Counts of blocks add up, so blocks are sorted side by side and never merged.
    wanted = -(-negatives.size // _SCORES_PER_THREAD)
    num_blocks = max(1, min(wanted, _MAX_THREADS, _usable_cpus()))
    above = np.zeros(thresholds.size, dtype=np.int64)
    at_or_above = np.zeros(thresholds.size, dtype=np.int64)

    def count(block: Scores) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        block = block if floor is None else block[block >= floor]
        block.sort()
        up_to, below = block.searchsorted(thresholds, "right"), block.searchsorted(thresholds)
        return np.subtract(block.size, up_to, out=up_to), np.subtract(block.size, below, out=below)

    with ThreadPoolExecutor(num_blocks) as pool:  # sorting releases the interpreter's lock
        for block_above, block_from in pool.map(count, np.array_split(negatives, num_blocks)):
            above += block_above
            at_or_above += block_from
    return above, at_or_above


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # a job may be confined to fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
