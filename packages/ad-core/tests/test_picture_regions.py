"""Regions in the pictures' own pixels, against scipy's labels of the whole map brought to them."""

import numpy as np
import pytest
from scipy import ndimage

from ad.runtime.framing import Crop, Framing, Region, Size, Tiling
from ad.runtime.regions import MOST, mask_of, regions_in

TILES = Tiling.of(Size(64, 64), 32, 0.5)


def roi(height, width):
    inside = np.zeros((height, width), dtype=bool)
    inside[height // 4 :, width // 3 :] = True
    return Region(inside)


FRAMINGS = [
    (Framing(size=Size(12, 20)), (40, 90)),
    (Framing(size=Size(12, 20)), (7, 5)),  # fewer pixels than the map has
    (Framing(size=Size(16, 16)), (16, 16)),
    (Framing(size=Size(17, 13), fit="pad"), (30, 71)),
    (Framing(size=Size(17, 13), fit="pad"), (71, 9)),
    (Framing(size=Size(12, 12), fit="crop", resize=Size(16, 21)), (50, 33)),
    (Framing(size=Size(12, 12), crop=Crop(7, 3, 31, 22)), (40, 60)),
    (Framing(size=Size(24, 16), region=roi(30, 40)), (60, 80)),
    (Framing(size=Size(24, 16), region=roi(60, 80), crop=Crop(2, 1, 70, 50)), (60, 80)),
    (Framing(size=Size(16, 16), region=roi(30, 40), fit="pad"), (45, 60)),
    (Framing(size=TILES.tile, tiling=TILES), (150, 90)),
    (Framing(size=TILES.tile, tiling=TILES, region=roi(60, 80)), (150, 200)),
]


def maps_of(framing, size, count=12):
    """From nothing hot over a few spots far apart to much of it."""
    own, generator = framing.of(Size(*size)), np.random.default_rng(0)
    for number in range(count):
        map_ = generator.normal(size=own.size).astype(np.float32)
        map_ = np.where(generator.random(own.size) < (number / count) ** 3, map_ + 3, map_ / 9 - 1)
        looked_at = own.looked_at
        yield map_ if looked_at is None else np.where(looked_at, map_, np.float32(np.nan))


def labelled(above, values, min_area):
    """By scipy: first largest, of equal ones the upper, then the left one."""
    labels, count = ndimage.label(above, structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        own = labels == number
        if own.sum() >= min_area:
            box = (columns.start, rows.start, columns.stop, rows.stop)
            found.append((*box, int(own.sum()), float(values[own].max())))
        else:
            above = above & ~own
    assert count == len(ndimage.find_objects(labels))
    return sorted(found, key=lambda one: (-one[4], one[1], one[0])), above


@pytest.mark.parametrize("min_area", [1, 3])
@pytest.mark.parametrize(("framing", "size"), FRAMINGS)
def test_they_are_those_of_the_map_in_the_pictures_pixels(framing, size, min_area):
    several = 0
    for map_ in maps_of(framing, size):
        values = framing.back(map_, size)
        expected, above = labelled(values > 0.5, values, min_area)
        found = regions_in(map_, Size(*size), framing, 0.5, min_area)
        assert [tuple(one) for one in found.regions] == expected[:MOST]
        assert found.number == len(expected)
        np.testing.assert_array_equal(mask_of(map_, Size(*size), framing, 0.5, min_area), above)
        several += len(expected) > 1
    assert several > 1


def test_values_at_the_threshold_are_not_above_whatever_their_mean_comes_to():
    # 0.1 is no sum of halves: means of it alone may come out above it by their last digit.
    framing, size = Framing(size=Size(8, 8), region=roi(37, 53)), Size(37, 53)
    map_ = np.where(framing.looked_at, np.float32(0.1), np.float32(np.nan))
    threshold = float(np.float32(0.1))
    values = framing.back(map_, size)
    expected, _ = labelled(values > threshold, values, 1)
    found = regions_in(map_, size, framing, threshold)
    assert [tuple(one) for one in found.regions] == expected


def test_of_very_many_the_largest_are_kept_and_all_are_counted():
    map_ = np.zeros((64, 64), np.float32)
    map_[::2, ::2] = 1
    map_[40, 40:43] = 1
    found = regions_in(map_, Size(64, 64), Framing(size=Size(64, 64)), 0.5)
    assert found.number == 32 * 32 - 1
    assert len(found.regions) == MOST
    assert found.regions[0][:5] == (40, 40, 43, 41, 3)
