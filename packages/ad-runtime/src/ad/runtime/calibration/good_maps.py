"""How many regions good pictures have above a pixel threshold that they had no part in.

The threshold that n pictures set together is mostly that of the hottest of them, so that nothing in
them lies above it: their own count would say that there are no false regions. So each is judged by
the threshold of the n - 1 others, as a new picture is by that of n. Only few can be above that; the
maps of no others are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration import FalseRegions
from ad.runtime.calibration.by_rate import above_quantile
from ad.runtime.calibration.conformal import exact, rank_of
from ad.runtime.framing import Framing
from ad.runtime.framing.framing import size_of_picture
from ad.runtime.pictures.reading import Source
from ad.runtime.regions import regions_in

_ROOM = 2**30
"""Bytes of maps that are kept; if there are more, regions are not counted."""


@final
class GoodMaps:
    """The maps of those good pictures whose regions may have to be counted.

    Args:
        groups: Numbers of the pictures that set a threshold together; a picture may be in several.
        rate: Share of good pictures that may be called anomalous.
    """

    def __init__(self, groups: Sequence[Sequence[int]], rate: float) -> None:
        self._rate = rate
        self._of: dict[int, list[int]] = {}
        for group, numbers in enumerate(groups):
            for number in numbers:
                self._of.setdefault(number, []).append(group)
        self._places = [_above(len(numbers), rate) for numbers in groups]
        self._hottest: list[list[tuple[float, int]]] = [[] for _ in groups]
        self._maps: dict[int, NDArray[np.float32]] | None = {}

    def see(self, number: int, peak: float, map_: NDArray[np.float32]) -> None:
        """Take in a map.

        Args:
            number: Of its picture.
            peak: Its largest value where it shows what counts of the picture.
            map_: ``[h, w]``.
        """
        if self._maps is None:
            return
        for group in self._of.get(number, ()):
            hottest = self._hottest[group]
            heapq.heappush(hottest, (peak, number))
            if len(hottest) > self._places[group]:
                heapq.heappop(hottest)
        wanted = {one for hottest in self._hottest for _, one in hottest}
        if number in wanted:
            self._maps[number] = map_.copy()
        self._maps = {one: kept for one, kept in self._maps.items() if one in wanted}
        if sum(kept.nbytes for kept in self._maps.values()) > _ROOM:
            self._maps = None

    def count(
        self,
        group: int,
        peaks: NDArray[np.float32],
        pictures: Sequence[Source],
        framing: Framing,
    ) -> FalseRegions | None:
        """Count the regions of a group's pictures.

        Args:
            group: Which one.
            peaks: ``[n]``, of its pictures.
            pictures: All that there are.
            framing: How they became what was scored.

        Returns:
            None if it has a single picture, which has no others, or there was no room for maps.

        Raises:
            PictureError: If the size of one cannot be read any more.
        """
        if self._maps is None or len(peaks) < 2:
            return None
        found = []
        for peak, number in self._hottest[group]:
            others = peaks.astype(np.float64).tolist()
            others.remove(peak)
            threshold, _ = above_quantile(np.array(others), self._rate)
            if peak > threshold:
                size = size_of_picture(pictures[number])
                found.append(regions_in(self._maps[number], size, framing, threshold))
        areas = [one.regions[0].area for one in found if one.number]
        return FalseRegions(
            pictures=len(peaks),
            regions=sum(one.number for one in found),
            largest=tuple(sorted(areas, reverse=True)),
        )


def _above(count: int, rate: float) -> int:
    """How many of so many pictures, at most, lie above the threshold that all others set."""
    return 0 if count < 2 else count - rank_of(count - 1, exact(rate))
