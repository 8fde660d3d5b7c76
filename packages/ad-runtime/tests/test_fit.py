"""Which pixel of a picture and of its maps goes where, for every fit; by closed forms."""

import re

import numpy as np
import pytest
from fits import FRAMINGS, TALL, WIDE, noise, place_in_picture
from tilings import tiling

from ad.runtime.errors import PictureError
from ad.runtime.framing import Framing, Size
from ad.runtime.framing.region import Crop


def test_a_padded_picture_lies_in_the_middle_and_its_edge_goes_on():
    framing = Framing(size=Size(12, 12), fit="pad")
    wide, tall = noise(7, 12), noise(12, 9)
    np.testing.assert_array_equal(
        framing.view(wide, "a"), np.pad(wide, ((2, 3), (0, 0), (0, 0)), mode="edge")
    )
    np.testing.assert_array_equal(
        framing.view(tall, "a"), np.pad(tall, ((0, 0), (1, 2), (0, 0)), mode="edge")
    )


def test_a_padded_picture_keeps_its_proportions():
    down, across = FRAMINGS["pad"].axes(Size(100, 100), "a")
    assert (down.scaled, across.scaled, down.first, across.first) == (24, 24, 0, 8)
    down, across = FRAMINGS["pad"].axes(Size(10, 1000), "a")
    assert (down.scaled, across.scaled, down.first) == (1, 40, 11)


@pytest.mark.parametrize(("resize", "first"), [(16, 3), (17, 3), (11, 0), (10, 0)])
def test_the_middle_is_cut_out_of_what_was_resized(resize, first):
    framing = Framing(size=Size(10, 10), fit="crop", resize=Size(resize, resize))
    picture = noise(resize, resize)
    np.testing.assert_array_equal(
        framing.view(picture, "a"), picture[first : first + 10, first : first + 10]
    )


def test_papers_protocol_stretches_before_it_cuts():
    framing = Framing(size=Size(14, 14), fit="crop", resize=Size(16, 16))
    picture = noise(32, 48)
    whole = Framing(size=Size(16, 16)).view(picture, "a")
    np.testing.assert_array_equal(framing.view(picture, "a"), whole[1:15, 1:15])


def test_a_rectangle_is_cut_before_the_fit():
    framing = Framing(size=Size(12, 12), fit="pad", crop=Crop(x=5, y=3, width=12, height=8))
    picture = noise(30, 20)
    expected = np.pad(picture[3:11, 5:17], ((2, 2), (0, 0), (0, 0)), mode="edge")
    np.testing.assert_array_equal(framing.view(picture, "a"), expected)


def test_a_crop_that_leaves_the_picture_is_refused_with_all_there_is_to_know():
    framing = Framing(size=Size(16, 16), crop=Crop(x=90, y=0, width=20, height=20))
    words = (
        "The picture `a.png` is 100 x 80 pixels (width x height): the crop 90,0,20,20 (x, y, "
        "width, height) ends at 110 x 20"
    )
    with pytest.raises(PictureError, match=re.escape(words)):
        framing.view(noise(80, 100), "The picture `a.png`")
    framing.view(noise(80, 110), "a")
    with pytest.raises(PictureError, match="does not lie within it"):
        Framing(size=Size(16, 16), crop=Crop(0, 61, 20, 20)).view(noise(80, 100), "a")


# --- the way back ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [WIDE, TALL, (480, 800)])
@pytest.mark.parametrize("name", FRAMINGS)
@pytest.mark.parametrize("at", [(12, 20), (5, 17), (19, 23)])
def test_a_hot_pixel_comes_back_to_where_it_was_taken_from(name, shape, at):
    framing = FRAMINGS[name]
    (v, u), cell = place_in_picture(framing, shape, *at)
    map_ = np.zeros(framing.size, np.float32)
    map_[at] = 1
    whole = framing.back(map_, shape)
    assert whole.shape == shape
    assert whole.dtype == np.float32
    weight = np.nan_to_num(whole)
    rows, columns = np.indices(shape) + 0.5
    middle = (np.average(rows, weights=weight), np.average(columns, weights=weight))
    assert abs(middle[0] - v) <= cell[0] / 2
    assert abs(middle[1] - u) <= cell[1] / 2


def test_what_was_not_seen_is_not_known():
    map_ = np.arange(100, dtype=np.float32).reshape(10, 10)
    middle = Framing(size=Size(10, 10), fit="crop", resize=Size(16, 16)).back(map_, (16, 16))
    np.testing.assert_array_equal(middle[3:13, 3:13], map_)
    assert np.isnan(middle).sum() == 16**2 - 10**2
    cut = Framing(size=Size(10, 10), crop=Crop(x=4, y=2, width=10, height=10)).back(map_, (20, 30))
    np.testing.assert_array_equal(cut[2:12, 4:14], map_)
    assert np.isnan(cut).sum() == 20 * 30 - 10**2
    padded = Framing(size=Size(10, 10), fit="pad").back(map_, (6, 10))
    np.testing.assert_array_equal(padded, map_[2:8])


def test_half_of_a_border_that_is_cut_in_two_counts_by_its_middle():
    framing = Framing(size=Size(10, 10), fit="crop", resize=Size(16, 16))
    whole = framing.back(np.ones((10, 10), np.float32), (24, 40))  # cells of 1.5 x 2.5
    seen = ~np.isnan(whole)
    # Rows whose middle lies from 3 x 1.5 = 4.5 to 13 x 1.5 = 19.5, columns from 7.5 to 32.5.
    assert np.flatnonzero(seen.any(1)).tolist() == list(range(4, 19))
    assert np.flatnonzero(seen.any(0)).tolist() == list(range(7, 32))


@pytest.mark.parametrize(
    ("have", "want"), [(1, 5), (7, 7), (8, 21), (21, 8), (31, 224), (448, 1999), (5, 1)]
)
def test_a_map_is_stretched_as_torch_does_it(have, want):
    torch = pytest.importorskip("torch", reason="torch, to which it must be equal, is missing")
    map_ = np.random.default_rng(have).normal(size=(have, 13)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(map_)[None, None], (want, 29), mode="bilinear", align_corners=False
    )
    found = Framing(size=Size(have, 13)).back(map_, (want, 29))
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, expected[0, 0].numpy(), rtol=0, atol=1e-6 * np.abs(map_).max()
    )


@pytest.mark.parametrize(("have", "want"), [(1, 5), (8, 21), (21, 8)])
def test_a_map_is_stretched_by_the_distance_to_the_two_middles_around(have, want):
    map_ = np.random.default_rng(have).normal(size=(have, 1)).astype(np.float32)
    found = Framing(size=Size(have, 1)).back(map_, (want, 3))
    middles = np.arange(have) + 0.5
    expected = np.interp((np.arange(want) + 0.5) * have / want, middles, map_[:, 0])
    np.testing.assert_allclose(found, expected[:, None].repeat(3, axis=1), rtol=1e-5, atol=1e-6)


class Finer(Framing):
    """As ad-core extends it."""


def test_what_is_made_of_a_framing_is_of_its_kind():
    one = Finer(size=Size(10, 10), fit="crop", resize=Size(16, 16))
    assert type(one.at((20, 30))) is type(one.of(Size(5, 5))) is Finer
    assert type(Finer.from_json(one.to_json())) is Finer
    cut = Finer(size=Size(64, 64), tiling=tiling())
    assert type(cut.of(Size(100, 200))) is type(cut.at((32, 32))) is Finer
