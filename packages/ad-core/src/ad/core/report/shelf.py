"""What has the highest ranks, of all that goes by."""

from __future__ import annotations

import heapq
from typing import final


@final
class Shelf:
    """The indices of the highest ranks, as many as it has places."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.heap: list[tuple[float, int]] = []  # the lowest rank first; of equal ones the latest

    def __contains__(self, index: int) -> bool:
        return any(-negative == index for _, negative in self.heap)

    def wants(self, rank: float, index: int) -> bool:
        """Whether there is a place for an index of a rank."""
        return len(self.heap) < self.places or (rank, -index) > self.heap[0]

    def put(self, rank: float, index: int) -> int | None:
        """Put an index in its place if there is one; say which index has none now."""
        if len(self.heap) < self.places:
            heapq.heappush(self.heap, (rank, -index))
            return None
        return -heapq.heappushpop(self.heap, (rank, -index))[1]
