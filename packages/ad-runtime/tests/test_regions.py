"""Connected parts of a map, against a flood fill pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ad.runtime.errors import SettingError
from ad.runtime.regions import Region, regions


def flooded(map_, threshold):
    """The same by a flood fill from pixel to pixel."""
    height, width = map_.shape
    left = {(y, x) for y in range(height) for x in range(width) if map_[y, x] > threshold}
    found = []
    while left:
        todo, part = [left.pop()], []
        while todo:
            y, x = todo.pop()
            part.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        ys, xs = zip(*part, strict=True)
        peak = float(max(map_[at] for at in part))
        found.append(Region(min(xs), min(ys), max(xs) + 1, max(ys) + 1, len(part), peak))
    return sorted(found, key=lambda one: (-one.area, one.y0, one.x0))


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.floats(0.05, 0.95))
def test_parts_are_those_of_a_flood_fill(seed, height, width, share):
    rng = np.random.default_rng(seed)
    map_ = rng.random((height, width), dtype=np.float32)
    map_[rng.random((height, width)) < 0.05] = np.nan
    assert sorted(regions(map_, share)) == sorted(flooded(map_, share))


def spiral(side):
    """One line, a pixel wide, that winds inwards with a gap of a pixel: one part."""
    map_ = np.zeros((side, side), np.float32)
    y, x, dy, dx = 0, 0, 0, 1
    free = lambda y, x: 0 <= y < side and 0 <= x < side and not map_[y, x]  # noqa: E731
    while True:
        map_[y, x] = 1
        for _ in range(2):
            ahead, further = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            inside = 0 <= further[0] < side and 0 <= further[1] < side
            if free(*ahead) and (not inside or free(*further)):
                y, x = ahead
                break
            dy, dx = dx, -dy
        else:
            return map_


def test_what_winds_is_one_part():
    map_ = spiral(33)
    (one,) = regions(map_, 0.5)
    assert one == Region(0, 0, 33, 33, int(map_.sum()), 1.0)
    comb = np.zeros((20, 41), np.float32)
    comb[:, ::2] = 1
    assert len(regions(comb, 0.5)) == 21
    comb[-1] = 1
    assert len(regions(comb, 0.5)) == 1


def test_corners_touch_and_the_ends_of_rows_do_not():
    map_ = np.zeros((4, 4), np.float32)
    map_[0, 0] = map_[1, 1] = 2
    map_[2, 3], map_[3, 0] = 3, 4
    assert regions(map_, 1) == [
        Region(0, 0, 2, 2, 2, 2.0),
        Region(3, 2, 4, 3, 1, 3.0),
        Region(0, 3, 1, 4, 1, 4.0),
    ]
    assert regions(map_, 1, min_area=2) == [Region(0, 0, 2, 2, 2, 2.0)]


def test_what_is_at_the_threshold_or_not_looked_at_is_not_above():
    map_ = np.array([[0.5, np.nan, 0.5]], np.float32)
    assert regions(map_, 0.5) == []
    assert regions(map_, 0.25) == [Region(0, 0, 1, 1, 1, 0.5), Region(2, 0, 3, 1, 1, 0.5)]
    assert regions(np.empty((0, 5), np.float32), 0.0) == []


def test_the_peak_is_of_the_whole_part_and_may_be_infinite():
    map_ = np.array([[1, 0, 1], [1, 1, np.inf]], np.float32)
    assert regions(map_, 0.5) == [Region(0, 0, 3, 2, 5, np.inf)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros(3), 0.5), r"must be \[H, W\]; got \(3,\)"),
        ((np.zeros((2, 2)), float("nan")), "`threshold` must be a number; got nan"),
        ((np.zeros((2, 2)), 0.5, 0), "`min_area` must be 1 or more pixels; got 0"),
    ],
)
def test_what_cannot_be_is_said(arguments, words):
    with pytest.raises(SettingError, match=words):
        regions(*arguments)
