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
    F1Max,
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
from ad.runtime.budget import memory_budget
from ad.runtime.spill import Column

Labelled = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.bool_] | None]
"""Map, mask and what counts of a picture, as `ad.core.metrics.regions.count_pixels` takes them."""

_EACH = 80
"""Bytes that counting takes for each positive in memory."""

_COPIES = 3
"""How often scores and truth are in memory when a threshold is found from them, about."""

_FEWEST_AT_ONCE, _MOST_AT_ONCE = 1 << 24, 1 << 26
"""Normal pixels that are held and sorted together: 64 to 256 MiB. Fewer would take longer where
there are more scores of positives to look for among them each time."""

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
class LabelledPixels:
    """Pixels whose truth is known, one after another: in memory up to a budget, on disk past it."""

    def __init__(self) -> None:
        self._room = memory_budget() // _COPIES
        self._held: list[tuple[Scores, NDArray[np.bool_]]] = []
        self.columns: tuple[Column, Column] | None = None
        """Scores and truth, if they are on disk."""
        self.defective = 0
        """How many of them are."""

    def add(self, scores: Scores, truth: NDArray[np.bool_]) -> None:
        """Take in some.

        Args:
            scores: ``[n]``, finite.
            truth: ``[n]``, True where defective.

        Raises:
            OutputError: If the disk is full.
        """
        self.defective += int(np.count_nonzero(truth))
        self._room -= scores.nbytes + truth.nbytes
        self._held.append((scores, truth))
        if self.columns is None and self._room >= 0:
            return
        if self.columns is None:
            self.columns = Column(scores.dtype, _WHAT), Column(np.bool_, _WHAT)
        for some in self._held:
            for column, numbers in zip(self.columns, some, strict=True):
                column.append(numbers)
        self._held.clear()

    def held(self) -> tuple[Scores, NDArray[np.bool_]]:
        """Scores and truth, if they are in memory."""
        scores, truths = zip(*self._held, strict=True)
        return np.concatenate(scores), np.concatenate(truths)

    def f1_max(self) -> F1Max | None:
        """As `ad.core.metrics.f1_max`, of what is on disk."""
        assert self.columns is not None
        scores, truth = self.columns
        positives = Positives()
        for part in parts(scores.size):
            found = scores[part][truth[part]]
            positives.add(found, np.ones(found.size))
        return positives.count(
            1, (scores[part][~truth[part]] for part in parts(scores.size))
        ).f1_max()


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
        for block in _together(normals, thresholds.size):
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
    for block in _together(normals, thresholds.size):
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


def _together(some: Iterable[Scores], wanted: int) -> Iterator[Scores]:
    """Scores of several pictures together: as many as wanted, if that is neither few nor many."""
    held: list[Scores] = []
    size, enough = 0, min(max(wanted, _FEWEST_AT_ONCE), _MOST_AT_ONCE)
    for scores in some:
        held.append(scores)
        size += scores.size
        if size >= enough:
            together = np.concatenate(held)
            held.clear()
            size = 0
            yield together
    if held:
        yield np.concatenate(held)
