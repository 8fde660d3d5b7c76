"""The places where a map is above a threshold: connected pixels, each place with its box and peak.

Rows are cut into runs of pixels that are above, runs that touch are joined, and what is joined is
counted: work grows with the pixels and the runs, not with the places.

Those of a picture are in its own pixels, where its map is brought to them by `Framing.back`; only
rows and columns that a pixel of the map above the threshold has a part in are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import SettingError
from ad.runtime.framing import Framing, Size

_Ints = NDArray[np.intp]
_EPS = float(np.finfo(np.float32).eps)

MOST = 100
"""Regions of a picture that are kept, the largest; how many there are is told beside them."""


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
    return _Places.of(map_, threshold, min_area).listed()


class Found(NamedTuple):
    """The regions of a picture."""

    regions: tuple[Region, ...]
    """Largest first, at most `MOST`."""
    number: int
    """How many there are."""


def regions_in(
    map_: NDArray[np.float32],
    picture: Size,
    framing: Framing,
    threshold: float,
    min_area: int = 1,
) -> Found:
    """Find where a picture is above a threshold: `regions` of what `Framing.back` gives.

    Args:
        map_: ``[h, w]``, of the picture.
        picture: Its size.
        framing: How it became what was scored.
        threshold: Of pixels.
        min_area: Smaller regions are left out, in pixels of the picture.

    Raises:
        PictureError: If the picture cannot be of that size; see `Framing.view`.
        SettingError: As of `regions`.
    """
    part = _Part.of(map_, picture, framing, threshold)
    places = _Places.of(part.values, threshold, min_area)
    found = [
        one._replace(
            x0=int(part.columns[one.x0]),
            y0=int(part.rows[one.y0]),
            x1=int(part.columns[one.x1 - 1]) + 1,
            y1=int(part.rows[one.y1 - 1]) + 1,
        )
        for one in places.listed(MOST)
    ]
    return Found((*found,), len(places.area))


def mask_of(
    map_: NDArray[np.float32],
    picture: Size,
    framing: Framing,
    threshold: float,
    min_area: int = 1,
) -> NDArray[np.bool_]:
    """Which pixels of a picture lie in a region, ``[H, W]``; all of them, also beyond `MOST`.

    Takes what `regions_in` takes, and raises what it raises.
    """
    part = _Part.of(map_, picture, framing, threshold)
    inside = _Places.of(part.values, threshold, min_area).inside
    rows, columns = part.rows >= 0, part.columns >= 0
    mask = np.zeros(picture, dtype=bool)
    mask[np.ix_(part.rows[rows], part.columns[columns])] = inside[rows][:, columns]
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Rows and columns of a picture, with an empty one wherever some are left out between them."""

    values: NDArray[np.float32]
    """``[H, W]``; NaN in empty ones."""
    rows: _Ints
    """Of the picture, ``[H]``; -1 for empty ones."""
    columns: _Ints
    """``[W]``, as the rows."""

    @classmethod
    def of(
        cls, map_: NDArray[np.float32], picture: Size, framing: Framing, threshold: float
    ) -> _Part:
        """All that may be above a threshold."""
        extremes = (op.reduce(map_, axis=None) for op in (np.fmin, np.fmax))
        # A mean of numbers at the threshold may come out a hair above it.
        slack = 8 * _EPS * max(abs(threshold), *(abs(float(one)) for one in extremes))
        near = map_ > threshold - slack
        own = framing.of(picture)
        down, across = own.lines(picture)
        rows, columns = np.asarray(near.any(axis=1)), np.asarray(near.any(axis=0))
        down, across = down.beside(rows), across.beside(columns)
        values = own.back_at(map_, picture, down, across)
        below, right = (np.flatnonzero(np.diff(line.at) > 1) + 1 for line in (down, across))
        values = np.insert(values, below, np.nan, axis=0)
        return cls(
            values=np.insert(values, right, np.nan, axis=1),
            rows=np.insert(down.at, below, -1),
            columns=np.insert(across.at, right, -1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """All places of a map that are above, ``[n]`` each, largest first."""

    inside: NDArray[np.bool_]
    """Which pixels of the map lie in one, ``[H, W]``."""
    x0: _Ints
    y0: _Ints
    x1: _Ints
    y1: _Ints
    area: _Ints
    peak: NDArray[np.floating]

    @classmethod
    def of(cls, map_: NDArray[np.floating], threshold: float, min_area: int) -> _Places:
        if np.isnan(threshold):
            msg = "`threshold` must be a number; got nan, which nothing is above."
            raise SettingError(msg)
        check_min_area(min_area)
        above = map_ > threshold
        rows, starts, ends = _runs(above)
        place = _joined(len(rows), *_touching(rows, starts, ends, map_.shape[1]))
        names, place = np.unique(place, return_inverse=True)
        count = len(names)
        lengths = ends - starts
        firsts = np.cumsum(lengths) - lengths  # of the runs among all pixels that are above
        highest = np.maximum.reduceat(map_[above], firsts) if count else np.empty(0, map_.dtype)
        area = np.zeros(count, np.intp)
        np.add.at(area, place, lengths)
        x0, y0 = np.full(count, map_.shape[1]), np.full(count, map_.shape[0])
        x1, y1 = np.zeros(count, np.intp), np.zeros(count, np.intp)
        peak = np.full(count, -np.inf, map_.dtype)
        for least, values in ((x0, starts), (y0, rows)):
            np.minimum.at(least, place, values)
        for most, of_runs in ((x1, ends), (y1, rows + 1), (peak, highest)):
            np.maximum.at(most, place, of_runs)
        if min_area > 1:
            above[above] = np.repeat(area[place] >= min_area, lengths)
        kept = np.lexsort((x0, y0, -area))
        kept = kept[area[kept] >= min_area]
        return cls(
            inside=above,
            x0=x0[kept],
            y0=y0[kept],
            x1=x1[kept],
            y1=y1[kept],
            area=area[kept],
            peak=peak[kept],
        )

    def listed(self, most: int | None = None) -> list[Region]:
        """The largest ones, or all."""
        columns = (self.x0, self.y0, self.x1, self.y1, self.area, self.peak)
        return [Region(*one) for one in zip(*(c[:most].tolist() for c in columns), strict=True)]


def check_min_area(min_area: int) -> None:
    """Check that an area can be the least one of a region.

    Raises:
        SettingError: If it is no whole number of pixels from 1.
    """
    if type(min_area) is not int or min_area < 1:
        msg = f"`min_area` must be 1 or more pixels; got {min_area!r}: give a whole number from 1."
        raise SettingError(msg)


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
