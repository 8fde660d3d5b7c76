"""Between which pixels of a map those of a picture lie: what bilinear values of it are made of.

Each axis by itself, so that some rows and columns of a picture cost as little as they are.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ad.runtime.framing.fit import Axis, Indices


class Line(NamedTuple):
    """Pixels of one axis of a picture that are seen, and where their middles lie on a map."""

    at: Indices
    """Which pixels of the picture, ascending, ``[n]``."""
    before: Indices
    """The map's pixel before the middle of each, ``[n]``."""
    behind: Indices
    """The one behind it, ``[n]``; beyond the outermost ones the same one again."""
    far: NDArray[np.float32]
    """How far it lies from the one before to the one behind, from 0 to 1, ``[n]``."""

    @classmethod
    def of(cls, axis: Axis) -> Self:
        """All pixels of an axis that are seen."""
        before, behind, far = _between(axis.scaled, axis.part)
        seen = axis.from_seen()
        at = axis.start + np.arange(axis.part)
        return cls(at, seen[before], seen[behind], far).only(axis.cells(axis.whole)[at] >= 0)

    def only(self, wanted: NDArray[np.bool_]) -> Self:
        """Some of them, ``[n]``."""
        at, before, behind, far = self
        return type(self)(at[wanted], before[wanted], behind[wanted], far[wanted])

    def beside(self, some: NDArray[np.bool_]) -> Self:
        """Those that some pixels of the map, ``[seen]``, have a part in."""
        return self.only(some[self.before] | some[self.behind])

    @property
    def span(self) -> slice:
        """From the first to behind the last."""
        return slice(self.at[0], self.at[-1] + 1) if len(self.at) else slice(0)


def between(map_: NDArray[np.float32], down: Line, across: Line) -> NDArray[np.float32]:
    """Values of a map at some of a picture's pixels, bilinear between the middles of its own.

    Args:
        map_: ``[h, w]``.
        down: Rows, ``H`` of them.
        across: Columns, ``W`` of them.

    Returns:
        ``[H, W]``.
    """
    far = down.far[:, None]
    rows = map_[down.before] * (1 - far) + map_[down.behind] * far
    far = across.far
    return np.asarray(rows[:, across.before] * (1 - far) + rows[:, across.behind] * far)


def _between(have: int, want: int) -> tuple[Indices, Indices, NDArray[np.float32]]:
    """For each of so many places, the one before it, the one behind it and how far it lies.

    All in float32, as torch has it: in float64 large maps would differ by 0.0002 of their spread.
    """
    middles = np.arange(want, dtype=np.float32) + np.float32(0.5)
    at = np.maximum(middles * np.float32(have / want) - np.float32(0.5), np.float32(0))
    before = np.minimum(at.astype(np.intp), have - 1)
    behind = np.minimum(before + 1, have - 1)
    return before, behind, (at - before).astype(np.float32)
