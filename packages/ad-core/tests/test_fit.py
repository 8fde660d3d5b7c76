"""Which pixel of a picture, its masks and its maps goes where, for every fit; by closed forms."""

import re

import numpy as np
import pytest
from PIL import Image

from ad.core import Size
from ad.core.data.samples import Sample
from ad.core.errors import PictureError
from ad.core.framing import Framing
from ad.runtime.framing.region import Crop

FRAMINGS = {
    "stretch": Framing(size=Size(24, 40)),
    "pad": Framing(size=Size(24, 40), fit="pad"),
    "crop": Framing(size=Size(24, 40), fit="crop", resize=Size(32, 46)),
    "cut": Framing(size=Size(24, 40), crop=Crop(20, 12, 70, 50)),
    "cut and pad": Framing(size=Size(24, 40), fit="pad", crop=Crop(30, 12, 40, 50)),
    "cut and crop": Framing(
        size=Size(24, 40), fit="crop", resize=Size(32, 46), crop=Crop(6, 12, 90, 50)
    ),
}
WIDE, TALL = (96, 160), (160, 96)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def masked(tmp_path, shape, mask):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    return Sample(path=tmp_path / "p.png", label=1, split="test", category="toy",
                  masks=(tmp_path / "m.png",))  # fmt: skip


def place_in_picture(framing, shape, row, column):
    """The middle of what a pixel of the map stands for, and the sides of that; in real numbers.

    Written from the definition of the fits, not from the code.
    """
    x, y, width, height = framing.crop or (0, 0, shape[1], shape[0])
    places, cells = [], []
    for at, start, part, seen, side in (
        (row, y, height, framing.size[0], 0),
        (column, x, width, framing.size[1], 1),
    ):
        scaled = seen if framing.resize is None else framing.resize[side]
        if framing.fit == "pad":
            scaled = round(part * min(framing.size[0] / height, framing.size[1] / width))
        # The middle of the part is the middle of what is seen; what is odd is at the end.
        spare = seen - scaled
        lost = spare % 2 * (1 if spare > 0 else -1) / 2
        cells.append(part / scaled)
        places.append(start + part / 2 + (at + 0.5 - seen / 2 + lost) * part / scaled)
    return tuple(places), tuple(cells)


# --- pictures and masks ------------------------------------------------------------------------


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


def test_masks_are_padded_with_nothing(tmp_path):
    mask = np.ones((7, 12), bool)
    found = Framing(size=Size(12, 12), fit="pad").truth(masked(tmp_path, (7, 12), mask))
    np.testing.assert_array_equal(found, np.pad(mask, ((2, 3), (0, 0))))


@pytest.mark.parametrize("finer", [1, 3])
def test_masks_are_cut_as_pictures_are_whatever_their_own_size(tmp_path, finer):
    coarse = np.random.default_rng(1).random((20, 30)) < 0.4
    mask = np.kron(coarse, np.ones((finer, finer))) > 0
    sample = masked(tmp_path, (20, 30), mask)
    cut = Framing(size=Size(8, 12), crop=Crop(x=5, y=3, width=12, height=8))
    np.testing.assert_array_equal(cut.truth(sample), coarse[3:11, 5:17])
    middle = Framing(size=Size(8, 12), fit="crop", resize=Size(20, 30))
    np.testing.assert_array_equal(middle.truth(sample), coarse[6:14, 9:21])


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("name", FRAMINGS)
def test_masks_are_sampled_where_pixels_lie(tmp_path, name, shape):
    framing = FRAMINGS[name]
    mask = np.random.default_rng(2).random(shape) < 0.5
    found = framing.truth(masked(tmp_path, shape, mask))
    x, y, width, height = framing.crop or (0, 0, shape[1], shape[0])
    for row in range(24):
        for column in range(40):
            (v, u), cell = place_in_picture(framing, shape, row, column)
            inside = y <= v < y + height and x <= u < x + width
            near = mask[max(0, int(v - 0.51)) : int(v + 0.51) + 1,
                        max(0, int(u - 0.51)) : int(u + 0.51) + 1]  # fmt: skip
            if framing.fit == "pad":  # sides are rounded, so what is near the border is not known
                edges = (v - y, y + height - v, u - x, x + width - u)
                if min(map(abs, edges)) < max(cell):
                    continue
                assert inside or not found[row, column]
            elif near.all() or not near.any():
                assert found[row, column] == near.any()


def test_a_thin_defect_stays_where_it_is_seen_and_is_nowhere_where_not(tmp_path):
    framing = Framing(size=Size(10, 10), fit="crop", resize=Size(16, 16))
    mask = np.zeros((160, 160), bool)
    mask[81, 42] = True  # of cells of 10 pixels the one in row 8, column 4; 3 are cut off
    assert np.argwhere(framing.truth(masked(tmp_path, mask.shape, mask))).tolist() == [[5, 1]]
    mask[:] = False
    mask[81, 12] = True
    assert not framing.truth(masked(tmp_path, mask.shape, mask)).any()


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


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", FRAMINGS)
def test_what_is_seen_comes_back_to_where_it_is_in_a_turned_file_too(tmp_path, name, turned):
    framing = FRAMINGS[name]
    picture = np.zeros((*WIDE, 3), np.uint8)
    picture[36:40, 60:64] = 255  # its middle is at 38, 62
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1  # seen after a quarter turn clockwise
    stored = np.rot90(picture, 1) if turned else picture
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    (batch,) = framing.pictures([tmp_path / "a.png"]).batches(1)
    light = batch.pictures[0, :, :, 0].numpy().astype(np.float32)
    weight = np.nan_to_num(framing.back(light, WIDE))
    rows, columns = np.indices(WIDE) + 0.5
    _, cell = place_in_picture(framing, WIDE, 0, 0)
    assert abs(np.average(rows, weights=weight) - 38) <= cell[0] / 2
    assert abs(np.average(columns, weights=weight) - 62) <= cell[1] / 2


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
