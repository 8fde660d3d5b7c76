"""Connected parts of a map, against a flood fill pixel by pixel."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import runtime_of

from ad.runtime.errors import SettingError
from ad.runtime.findings import Finding
from ad.runtime.framing import Framing, Size
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


# --- of pictures -------------------------------------------------------------------------------


def turned(pixels):
    """A file that is to be turned by a quarter before it is shown."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).rotate(90, expand=True).save(file, format="PNG", exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def runtime():
    """Maps are the pixels' brightness; those above 0.5 are defective."""
    return runtime_of(framing=Framing(size=Size(32, 32), fit="pad"))


def spotted(height=40, width=64):
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[3:9, 40:60] = 200
    pixels[30:38, 4:8] = 230
    return pixels


def test_findings_have_the_regions_of_the_upright_picture(runtime):
    pixels = spotted()
    for source in (pixels, Image.fromarray(pixels), turned(pixels)):
        (found,) = runtime.predict(source)
        own = runtime.config.framing.back(found.map, (40, 64))
        assert found.regions == tuple(flooded(own, 0.5))
        assert [one[:4] for one in found.regions] == [(40, 3, 60, 9), (4, 30, 8, 38)]
        assert found.num_regions == 2
    prepared = runtime.prepare(pixels)
    scored = runtime.score(prepared.frames)
    assert runtime.conclude(prepared, *scored).regions == found.regions
    assert runtime.conclude(prepared, *scored, min_area=None).regions is None
    (large,) = runtime.predict(pixels, min_area=60)
    assert large.regions == found.regions[:1]
    assert large.num_regions == 1


def test_each_of_a_batch_has_its_own_size(runtime):
    several = [spotted(), spotted(80, 64), np.zeros((5, 9, 3), np.uint8), b"no picture"]
    alone = [runtime.predict(one)[0] for one in several]
    found = runtime.predict(several, batch_size=4)
    assert [one.regions for one in found] == [one.regions for one in alone]
    assert [one.num_regions for one in found] == [2, 2, 0, None]
    assert found[2].regions == ()
    assert found[3].regions is None


def test_without_a_pixel_threshold_it_is_not_known_where(runtime):
    for blind in (
        runtime_of(calibration=None),
        runtime_of(lambda batch: (batch.mean(axis=(1, 2, 3)), None), localises=False),
    ):
        (found,) = blind.predict(spotted())
        assert isinstance(found, Finding)
        assert (found.regions, found.num_regions) == (None, None)


@pytest.mark.parametrize(
    ("changes", "min_area", "words"),
    [
        ({}, 0, "`min_area` must be 1 or more pixels; got 0: give a whole number"),
        ({}, 2.5, r"`min_area` must be 1 or more pixels; got 2\.5"),
        ({}, True, "`min_area` must be 1 or more pixels; got True"),
        ({"localises": False}, 9, "`min_area` 9: `.*` judges pictures as a whole"),
        ({"calibration": None}, 9, "`min_area` 9: `.*` has no pixel threshold.* Leave it out"),
    ],
)
def test_an_area_that_cannot_be_is_told(changes, min_area, words):
    with pytest.raises(SettingError, match=words):
        runtime_of(**changes).predict(spotted(), min_area=min_area)
