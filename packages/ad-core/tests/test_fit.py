"""Which pixel of a picture's masks goes where, for every fit; by closed forms."""

from dataclasses import fields

import fits
import numpy as np
import pytest
from fits import TALL, WIDE, noise, place_in_picture
from PIL import Image

from ad.core import Size
from ad.core.data.samples import Sample
from ad.core.framing import Framing
from ad.runtime.framing.region import Crop
from ad.runtime.framing.tiles import Tiling

FRAMINGS = {
    name: Framing(**{field.name: getattr(one, field.name) for field in fields(one)})
    for name, one in fits.FRAMINGS.items()
}


def masked(tmp_path, shape, mask):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m.png")
    return Sample(path=tmp_path / "p.png", label=1, split="test", category="toy",
                  masks=(tmp_path / "m.png",))  # fmt: skip


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


@pytest.mark.parametrize("shape", [WIDE, TALL, (31, 17)])
@pytest.mark.parametrize("name", ["stretch", "pad", "crop"])
def test_pictures_are_seen_as_without_torch(name, shape):
    picture = noise(*shape)
    without = fits.FRAMINGS[name].view(picture, "a")
    assert without.dtype == np.uint8
    np.testing.assert_array_equal(FRAMINGS[name].view(picture, "a"), without)


@pytest.mark.parametrize("name", list(FRAMINGS))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_is_seen_as_the_pixels_that_pillow_gives(tmp_path, name, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise(*WIDE)).save(path)
    with Image.open(path) as image:
        pixels = np.array(image)
    without = fits.FRAMINGS[name].view(pixels, "a")
    (batch,) = FRAMINGS[name].pictures([path, path.read_bytes(), pixels]).batches(3)
    assert batch.pictures.shape[3] == 3
    for seen in batch.pictures.numpy():
        np.testing.assert_array_equal(seen, without)


def test_what_is_made_of_a_framing_reads_pictures_too():
    whole = FRAMINGS["crop"]
    cut = Framing(size=Size(64, 64), tiling=Tiling.of(Size(64, 64)))
    for one in (whole.at((48, 80)), whole.of(Size(5, 5)), cut.of(Size(99, 99)), cut.at((32, 32))):
        assert type(one) is Framing
