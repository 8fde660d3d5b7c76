"""One counting pass over scores, and the closed form of every metric in its counts.

The pass finds, for each distinct score of a positive, how many negatives lie above it and how
many tie with it. No curve is built, and the negatives, which are nearly all pixels, are sorted
once and never argsorted. Knows nothing of images.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ad.core.metrics.ties import group_ties
from ad.runtime.spill import Column

Scores = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]

_AT_ONCE = 1 << 20  # distinct scores whose counts are looked at together
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

    Where there are too many for memory, they are columns in temporary files: the figures are the
    same to the last bit.

    Attributes:
        thresholds: ``[K]``, the distinct scores.
        positives_at: ``[K]``, positives with exactly this score.
        negatives_above: ``[K]``, negatives with a higher score.
        negatives_from: ``[K]``, negatives with this or a higher score.
        weights: ``[K]``, float64, summed weights of the positives with this score.
        num_positives: All positives.
        num_negatives: All negatives.
    """

    thresholds: Scores | Column
    positives_at: Counts | Column
    negatives_above: Counts | Column
    negatives_from: Counts | Column
    weights: NDArray[np.float64] | Column
    num_positives: int
    num_negatives: int

    def auroc(self) -> float | None:
        """Chance that a positive outranks a negative, a tie counting one half.

        Returns:
            In [0, 1]; None without positives or without negatives.
        """
        if not self.num_positives or not self.num_negatives:
            return None

        def gained(part: slice) -> NDArray[np.float64]:
            above, at_or_above = self.negatives_above[part], self.negatives_from[part]
            outranked = (above + at_or_above) / (2 * self.num_negatives)
            gain: NDArray[np.float64] = self.positives_at[part] * (1 - outranked)
            return gain

        return float(summed(gained, self.thresholds.size) / self.num_positives)

    def average_precision(self) -> float | None:
        """Precision averaged over the steps of recall, as scikit-learn defines it.

        Returns:
            In (0, 1]; None without positives.
        """
        if not self.num_positives:
            return None

        def gained(part: slice, at: Counts, caught: Counts) -> NDArray[np.float64]:
            precision = caught / (caught + self.negatives_from[part])
            return at * precision

        return float(self._summed(gained) / self.num_positives)

    def precision_recall_area(self) -> float | None:
        """Area under the precision-recall curve by trapezoids, starting at precision 1.

        More optimistic than `average_precision`, which is what papers mostly mean.

        Returns:
            In (0, 1]; None without positives.
        """
        if not self.num_positives:
            return None

        def gained(part: slice, at: Counts, caught: Counts) -> NDArray[np.float64]:
            caught_before = caught - at
            # The point before t has met every negative above t, also those between two positives.
            alarms = caught_before + self.negatives_above[part]
            before = np.where(alarms == 0, 1.0, caught_before / np.maximum(alarms, 1))
            return at * (before + caught / (caught + self.negatives_from[part]))

        return float(self._summed(gained) / (2 * self.num_positives))

    def f1_max(self) -> F1Max | None:
        """The largest F1 score over all thresholds.

        Only scores of positives need to be tried: lowering the threshold to a score that only
        negatives have adds false alarms and nothing else.

        Returns:
            None without positives.
        """
        if not self.num_positives:
            return None
        best, threshold, caught_before = -1.0, 0.0, 0
        for part in parts(self.thresholds.size):
            caught = caught_before + np.cumsum(self.positives_at[part])
            f1 = 2 * caught / (caught + self.negatives_from[part] + self.num_positives)
            highest = int(np.argmax(f1))
            if f1[highest] > best:
                best, threshold = float(f1[highest]), float(self.thresholds[part][highest])
            caught_before = int(caught[-1])
        return F1Max(best, threshold)

    def _summed(self, gained: Callable[[slice, Counts, Counts], NDArray[np.float64]]) -> np.float64:
        """Sum what each score brings, by how many positives have it and how many are caught."""
        caught_before = 0

        def of(part: slice) -> NDArray[np.float64]:
            nonlocal caught_before  # parts come in their order
            at = self.positives_at[part]
            caught = caught_before + np.cumsum(at)
            caught_before = int(caught[-1])
            return gained(part, at, caught)

        return summed(of, self.thresholds.size)


def parts(size: int) -> Iterator[slice]:
    """So many places, as many together as are looked at together."""
    return (slice(at, min(at + _AT_ONCE, size)) for at in range(0, size, _AT_ONCE))


def summed(terms: Callable[[slice], NDArray[np.float64]], stop: int) -> np.float64:
    """What `np.sum` gives of so many terms, to the last bit, a part of them at a time.

    It adds pairwise, halving what is more than 128 terms to whole eights; so do parts here.

    Args:
        terms: Those of places from one to another, asked for in their order.
        stop: How many there are.
    """

    def between(first: int, last: int) -> np.float64:
        if last - first <= _AT_ONCE:
            part: np.float64 = np.sum(terms(slice(first, last))) if last > first else np.float64(0)
            return part
        half = (last - first) // 2
        half -= half % 8
        return between(first, first + half) + between(first + half, last)

    return between(0, stop)


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
    return count_in(sorted_blocks(negatives, floor), thresholds)


def sorted_blocks(negatives: Scores, floor: np.floating[Any] | None = None) -> list[Scores]:
    """Negatives in sorted blocks: counts of blocks add up, so that they need not be merged.

    Args:
        negatives: As for `count_negatives`.
        floor: As for it.
    """
    wanted = -(-negatives.size // _SCORES_PER_THREAD)
    num_blocks = max(1, min(wanted, _MAX_THREADS, _usable_cpus()))

    def in_order(block: Scores) -> Scores:
        block = block if floor is None else block[block >= floor]
        block.sort()
        return block

    with ThreadPoolExecutor(num_blocks) as pool:  # sorting releases the interpreter's lock
        return [*pool.map(in_order, np.array_split(negatives, num_blocks))]


def count_in(blocks: list[Scores], thresholds: Scores) -> tuple[Counts, Counts]:
    """As `count_negatives`, of what `sorted_blocks` gave."""
    above = np.zeros(thresholds.size, dtype=np.int64)
    at_or_above = np.zeros(thresholds.size, dtype=np.int64)

    def count(block: Scores) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        up_to, below = block.searchsorted(thresholds, "right"), block.searchsorted(thresholds)
        return np.subtract(block.size, up_to, out=up_to), np.subtract(block.size, below, out=below)

    with ThreadPoolExecutor(len(blocks)) as pool:
        for block_above, block_from in pool.map(count, blocks):
            above += block_above
            at_or_above += block_from
    return above, at_or_above


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # a job may be confined to fewer than the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
