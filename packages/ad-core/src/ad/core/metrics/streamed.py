"""Counts of more pixels than fit into memory: those of positives are kept, normal ones go by.

What is kept is in memory up to a budget and in temporary files past it. Counts are whole numbers,
so that nothing depends on how many pixels are looked at together, and the figures are those of
`ad.core.metrics.regions` to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ad.core.metrics.counting import (
    RankCounts,
    Scores,
    count_in,
    count_negatives,
    parts,
    sorted_blocks,
)
from ad.core.metrics.ranking import score_type
from ad.core.metrics.regions import checked_pair, region_shares
from ad.core.metrics.ties import Weights, cuts_of, group_between, group_ties
from ad.runtime.spill import Column, memory_budget

Labelled = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_] | None]
"""Map, mask and what counts of a picture, as `ad.core.metrics.regions.count_pixels` takes them."""

_EACH = 80
"""Bytes that counting takes for each positive in memory."""

_WHAT = "metrics"  # what temporary files are for


def count_streamed_pixels(pictures: Callable[[bool], Iterable[Labelled]]) -> RankCounts:
    """Count all pixels as `ad.core.metrics.regions.count_pixels` does, a picture at a time.

    Args:
        pictures: Called twice: with True to go through those that may have defects, then with
            False to go through all, in the same order.

    Raises:
        DataError: If a map is not finite, a mask is not bool, or their shapes differ.
        OutputError: If a temporary file does not fit onto its disk.
    """
    positives = Positives()
    num_regions = 0
    for index, (scores, mask, counted) in enumerate(pictures(True)):
        scores, mask = checked_pair(index, scores, mask, counted)
        if mask.any():
            shares, regions = region_shares(mask)
            positives.add(scores[mask], shares)
            num_regions += regions

    def normals() -> Iterator[Scores]:
        for index, (scores, mask, counted) in enumerate(pictures(False)):
            scores, mask = checked_pair(index, scores, mask, counted)
            yield scores[~mask] if counted is None else scores[counted & ~mask]

    return positives.count(max(num_regions, 1), normals())


@final
class Positives:
    """Scores of positives with what each of them weighs."""

    def __init__(self) -> None:
        self.size = 0
        self._budget = memory_budget()
        self._held: list[tuple[Scores, Weights]] = []
        self._columns: tuple[Column, Column] | None = None

    def add(self, scores: Scores, weights: Weights) -> None:
        """Take in some.

        Raises:
            OutputError: If the disk is full.
        """
        self.size += scores.size
        self._held.append((scores, weights))
        if self._columns is None and self.size * _EACH <= self._budget:
            return
        if self._columns is None:
            kind = score_type(*(held for held, _ in self._held))
            self._columns = Column(kind, _WHAT), Column(np.float64, _WHAT)
        for some in self._held:
            for column, numbers in zip(self._columns, some, strict=True):
                column.append(numbers)
        self._held.clear()

    def count(self, divisor: int, normals: Iterable[Scores]) -> RankCounts:
        """Count them and the normal ones.

        Args:
            divisor: Of their weights.
            normals: Scores of normal pixels, some at a time; not gone through without a positive.

        Raises:
            DataError: If scores are no real numbers.
        """
        if not self.size:
            nothing = np.zeros(0, dtype=np.int64)
            empty = np.zeros(0)
            return RankCounts(empty, nothing, nothing, nothing, empty, 0, 0)
        if self._columns is not None:
            return _counted_on_disk(*self._columns, divisor, normals)
        scores, weights = zip(*self._held, strict=True)
        self._held.clear()
        positives = np.concatenate(scores, dtype=score_type(*scores))
        thresholds, at, weighing = group_ties(positives, np.concatenate(weights) / divisor)
        above = np.zeros(thresholds.size, dtype=np.int64)
        at_or_above = np.zeros(thresholds.size, dtype=np.int64)
        num_normal = 0
        for block in _together(normals):
            more_above, more_from = count_negatives(block, thresholds, floor=thresholds[0])
            above += more_above
            at_or_above += more_from
            num_normal += block.size
        return RankCounts(
            thresholds=thresholds[::-1],
            positives_at=at[::-1],
            negatives_above=above[::-1],
            negatives_from=at_or_above[::-1],
            weights=weighing[::-1],
            num_positives=self.size,
            num_negatives=num_normal,
        )


_PIXELS_AT_ONCE = 1 << 26  # normal pixels that are held and sorted together: 256 MiB


def _counted_on_disk(
    positives: Column, weights: Column, divisor: int, normals: Iterable[Scores]
) -> RankCounts:
    thresholds, at = Column(positives.dtype, _WHAT), Column(np.int64, _WHAT)
    weighing, above, at_or_above = (
        Column(kind, _WHAT) for kind in (np.float64, np.int64, np.int64)
    )
    for low, high in reversed(cuts_of(positives)):
        groups = group_between(positives, weights, low, high, divisor=divisor)
        for column, numbers in zip((thresholds, at, weighing), groups, strict=True):
            column.append(numbers[::-1])
    for part in parts(thresholds.size):
        for column in (above, at_or_above):
            column.append(np.zeros(part.stop - part.start, np.int64))
    floor = thresholds[thresholds.size - 1 : thresholds.size][0]
    num_normal = 0
    for block in _together(normals):
        num_normal += block.size
        blocks = sorted_blocks(block, floor)
        for part in parts(thresholds.size):
            found = count_in(blocks, thresholds[part][::-1])
            for column, more in zip((above, at_or_above), found, strict=True):
                column.put(part.start, column[part] + more[::-1])
    return RankCounts(
        thresholds=thresholds,
        positives_at=at,
        negatives_above=above,
        negatives_from=at_or_above,
        weights=weighing,
        num_positives=positives.size,
        num_negatives=num_normal,
    )


def _together(some: Iterable[Scores]) -> Iterator[Scores]:
    """Scores of as many pictures together as may be held at once."""
    held: list[Scores] = []
    for scores in some:
        held.append(scores)
        if sum(one.size for one in held) >= _PIXELS_AT_ONCE:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)
