"""The places where a map is above a threshold: connected pixels, each place with its box and peak.

Rows are cut into runs of pixels that are above, runs that touch are joined, and what is joined is
counted: work grows with the pixels and the runs, not with the places.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import SettingError

_Ints = NDArray[np.intp]


class Region(NamedTuple):
    """Connected pixels above a threshold."""

    x0: int
    """Leftmost column."""
    y0: int
    """Uppermost row."""
    x1: int
    """Column behind the rightmost one."""
    y1: int
    """Row below the lowest one."""
    area: int
    """Number of pixels."""
    peak: float
    """Highest value."""


def regions(map_: NDArray[np.floating], threshold: float, min_area: int = 1) -> list[Region]:
    """Find where a map is above a threshold.

    Pixels belong together if they touch by a side or a corner.

    Args:
        map_: ``[H, W]``; NaN is never above.
        threshold: Pixels above it count, those at it do not.
        min_area: Smaller places are left out, in pixels.

    Returns:
        Largest first; of equal ones the one that begins further up, then further left.

    Raises:
        SettingError: If the map has other axes, the threshold is NaN, or the area is below 1.
    """
    if map_.ndim != 2:
        msg = f"`map_` must be [H, W]; got {map_.shape}."
        raise SettingError(msg)
    if np.isnan(threshold):
        msg = "`threshold` must be a number; got nan, which nothing is above."
        raise SettingError(msg)
    if min_area < 1:
        msg = f"`min_area` must be 1 or more pixels; got {min_area}."
        raise SettingError(msg)
    above = map_ > threshold
    rows, starts, ends = _runs(above)
    if not len(rows):
        return []
    place = _joined(len(rows), *_touching(rows, starts, ends, map_.shape[1]))
    _, place = np.unique(place, return_inverse=True)
    count = int(place.max()) + 1
    lengths = ends - starts
    firsts = np.cumsum(lengths) - lengths  # of the runs among all pixels that are above
    highest = np.maximum.reduceat(map_[above], firsts)
    area = np.zeros(count, np.intp)
    np.add.at(area, place, lengths)
    x0, y0 = np.full(count, map_.shape[1]), np.full(count, map_.shape[0])
    x1, y1 = np.zeros(count, np.intp), np.zeros(count, np.intp)
    peak = np.full(count, -np.inf, map_.dtype)
    for least, values in ((x0, starts), (y0, rows)):
        np.minimum.at(least, place, values)
    for most, of_runs in ((x1, ends), (y1, rows + 1), (peak, highest)):
        np.maximum.at(most, place, of_runs)
    return [
        Region(int(x0[i]), int(y0[i]), int(x1[i]), int(y1[i]), int(area[i]), float(peak[i]))
        for i in np.lexsort((x0, y0, -area))
        if area[i] >= min_area
    ]


def _runs(above: NDArray[np.bool_]) -> tuple[_Ints, _Ints, _Ints]:
    """Runs of True in rows, in order: row, first column, column behind the last."""
    edges = np.zeros((above.shape[0], above.shape[1] + 2), np.int8)
    edges[:, 1:-1] = above
    change = np.diff(edges, axis=1)
    rows, starts = np.nonzero(change == 1)
    return rows, starts, np.nonzero(change == -1)[1]


def _touching(rows: _Ints, starts: _Ints, ends: _Ints, width: int) -> tuple[_Ints, _Ints]:
    """Pairs of runs that touch: one, and one in the row below."""
    stride = width + 2  # so that no run of one row reaches into the next one's numbers
    below = (rows + 1) * stride
    first = np.searchsorted(rows * stride + ends, below + starts, side="left")
    behind = np.searchsorted(rows * stride + starts, below + ends, side="right")
    counts = np.maximum(behind - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    offsets = np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts, counts)
    return upper, first[upper] + offsets


def _joined(count: int, one: _Ints, other: _Ints) -> _Ints:
    """For each of so many things the smallest that it is joined to, over pairs of neighbours."""
    root = np.arange(count)
    while True:
        a, b = root[one], root[other]
        apart = a != b
        if not apart.any():
            return root
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(root, above := root[root]):
            root = above
