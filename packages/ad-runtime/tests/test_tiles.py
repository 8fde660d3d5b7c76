"""Where tiles lie, and how their maps are joined."""

import numpy as np
import pytest
from tilings import tiling

from ad.runtime.framing import Size
from ad.runtime.framing.tiles import Joined, Place, Tiling


@pytest.mark.parametrize(
    ("side", "starts"),
    [(1, [0]), (64, [0]), (65, [0, 32]), (96, [0, 32]), (97, [0, 32, 64]), (160, [0, 32, 64, 96])],
)
def test_as_many_tiles_as_cover_a_picture(side, starts):
    assert tiling().places(Size(side, side)) == [Place(y, x) for y in starts for x in starts]


def test_neighbours_lie_a_stride_apart_down_and_across():
    places = tiling((64, 128), 32).places(Size(65, 129))
    assert places == [(0, 0), (0, 96), (32, 0), (32, 96)]


@pytest.mark.parametrize(
    ("tile", "overlap", "margin"), [(256, 128, 64), (256, None, 64), (256, 64, 32), (64, 0, 0)]
)
def test_the_margin_is_what_the_overlap_allows(tile, overlap, margin):
    assert Tiling.of(Size(tile, tile), overlap).margin == margin


def test_half_of_the_shorter_side_overlaps_by_default():
    assert Tiling.of(Size(96, 256)).overlap == 32
    assert Tiling.of(Size(256, 256)).overlap == 128


def test_beyond_a_picture_its_edge_goes_on():
    picture = np.arange(70 * 65 * 3).reshape(70, 65, 3).astype(np.uint8)
    tile = tiling().cut(picture, Place(32, 32))
    assert tile.shape == (64, 64, 3)
    assert np.array_equal(tile[:38, :33], picture[32:, 32:])
    assert np.array_equal(tile[50, :33], picture[69, 32:])
    assert (tile[:38, 40] == picture[32:, 64]).all()


@pytest.mark.parametrize("size", [(50, 40), (64, 64), (64, 150), (131, 70)])
def test_each_tile_is_cut_where_it_lies(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    how = tiling()
    for place in how.places(Size(*size)):
        rows, columns = (
            [min(at + step, whole - 1) for step in range(64)]
            for at, whole in zip(place, size, strict=True)
        )
        np.testing.assert_array_equal(
            how.cut(picture, place), picture[np.array(rows)[:, None], columns]
        )


def joined(how, size, maps_of):
    whole = Joined(how, Size(*size))
    for place in how.places(Size(*size)):
        whole.add(place, maps_of(place))
    return whole.map()


GRID = [
    (how, size)
    for how in (tiling(), tiling(64, 0), tiling(96, 64), tiling(128, 64, 8), tiling((64, 96), 32))
    for size in ((64, 64), (65, 200), (129, 97), (1, 300), (31, 33))
]


@pytest.mark.parametrize(("how", "size"), GRID)
def test_a_constant_has_no_seams(how, size):
    found = joined(how, size, lambda place: np.full(how.tile, 3.5, np.float32))
    assert found.shape == size
    assert np.allclose(found, 3.5, rtol=1e-6)


@pytest.mark.parametrize(("how", "size"), GRID)
def test_what_each_pixel_says_by_itself_is_said_of_the_whole(how, size):
    picture = np.random.default_rng(0).random(size).astype(np.float32)
    padded = np.pad(picture, ((0, 512), (0, 512)))
    height, width = how.tile

    def of(place):
        return padded[place.y : place.y + height, place.x : place.x + width]

    assert np.allclose(joined(how, size, of), picture, rtol=1e-5)


def test_the_margin_counts_for_nothing_but_at_the_pictures_own_border():
    how, size = tiling(128, 64), (320, 320)
    places = how.places(Size(*size))
    last = max(places)

    def of(place):
        map_ = np.zeros(how.tile, np.float32)
        for axis, (at, end) in enumerate(zip(place, last, strict=True)):
            map_ = np.moveaxis(map_, axis, 0)
            map_[:32] += 1e6 if at else 5  # at the first border there is no other tile
            map_[-32:] += 1e6 if at != end else 5
            map_ = np.moveaxis(map_, 0, axis)
        return map_

    found = joined(how, size, of)
    assert found[32:-32, 32:-32].max() == 0
    assert found[0, 0] == 10
    assert found[0, 100] == 5
    assert found[319, 319] == 10


def test_beyond_the_margin_neighbours_fade_into_each_other():
    how = tiling(128, 64, margin=16)
    found = joined(how, (64, 192), lambda place: np.full(how.tile, float(place.x), np.float32))
    # The tiles start at 0 and 64; both count from 80 to 112, by shares that rise in a line.
    share = (np.arange(32) + 0.5) / 32
    assert np.allclose(found[0, 80:112], 64 * share, atol=1e-4)
    assert (found[0, :80] == 0).all()
    assert np.allclose(found[0, 112:], 64)
