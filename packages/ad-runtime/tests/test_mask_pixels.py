"""What the pixels of a mask say, and how they come to lie on their picture."""

import numpy as np
import pytest
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.drawn import (
    check_headers,
    mask_facts,
    read_mask,
    read_mask_values,
    shows_defect,
)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.fixture
def pair(tmp_path):
    """A picture and a mask with one defective corner."""
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:10, :15] = 1
    picture = save(tmp_path / "a.jpg", Image.new("RGB", (30, 20)))
    return save(tmp_path / "m.png", Image.fromarray(mask)), picture


def test_any_value_but_zero_is_defective(pair):
    expected = np.zeros((10, 10), dtype=bool)
    expected[:5, :5] = True
    np.testing.assert_array_equal(read_mask(*pair, 10), expected)


@pytest.mark.parametrize("size", [7, 10, 40])
def test_masks_are_resized_by_the_nearest_neighbour(tmp_path, size):
    """A cell is what the pixel under its middle is, whatever is around it."""
    mask = np.random.default_rng(0).random((20, 30)) < 0.5
    mask = save(tmp_path / "m.png", Image.fromarray(mask.astype(np.uint8)))
    picture = save(tmp_path / "p.png", Image.new("RGB", (30, 20)))
    stored = np.asarray(Image.open(mask))
    expected = np.empty((size, size), dtype=bool)
    for y, x in np.ndindex(size, size):
        expected[y, x] = stored[(2 * y + 1) * 20 // (2 * size), (2 * x + 1) * 30 // (2 * size)]
    np.testing.assert_array_equal(read_mask(mask, picture, size), expected)


def test_noise_of_a_jpeg_mask_is_not_defective(tmp_path, pair):
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:, 21:] = 255  # inside a block of 8: its zeros are not exact
    noisy = save(tmp_path / "m.jpg", Image.fromarray(mask), quality=60)
    with Image.open(noisy) as image:
        assert (np.asarray(image) > 0)[:, :21].any()
    np.testing.assert_array_equal(read_mask(noisy, pair[1], 30)[0], np.arange(30) >= 21)


def test_a_mask_of_another_shape_names_both_files(tmp_path, pair):
    wrong = save(tmp_path / "w.png", Image.new("L", (30, 30)))
    with pytest.raises(PictureError, match=r"w\.png` is 30 x 30.*a\.jpg` 30 x 20.*same shape"):
        read_mask(wrong, pair[1], 10)


def test_a_mask_drawn_on_the_stored_pixels_is_turned_with_its_picture(tmp_path, pair):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(tmp_path / "t.jpg", Image.new("RGB", (30, 20)), exif=exif)
    expected = np.zeros((10, 10), dtype=bool)
    expected[:5, 5:] = True  # the top left corner goes to the top right
    np.testing.assert_array_equal(read_mask(pair[0], turned, 10), expected)


def test_an_unreadable_mask_names_its_path(tmp_path, pair):
    (tmp_path / "e.png").touch()
    with pytest.raises(PictureError, match=r"mask `.*e\.png` is empty"):
        read_mask(tmp_path / "e.png", pair[1], 10)


def test_of_a_pair_the_file_that_is_damaged_is_named(tmp_path, pair):
    noise = np.random.default_rng(0).integers(0, 2, (20, 30), dtype=np.uint8)
    mask = save(tmp_path / "n.png", Image.fromarray(noise))
    mask.write_bytes(mask.read_bytes()[:-60])
    with pytest.raises(PictureError, match=r"The mask `.*n\.png` cannot be read.*truncated"):
        read_mask(mask, pair[1], 10)
    picture = tmp_path / "b.jpg"
    picture.write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"The picture `.*b\.jpg` cannot be read"):
        read_mask(pair[0], picture, 10)


def test_headers_are_checked_without_decoding(tmp_path, pair):
    mask, picture = pair
    check_headers(picture, (mask,))
    wrong = save(tmp_path / "w.png", Image.new("L", (30, 30)))
    with pytest.raises(PictureError, match=r"^The mask `.*w\.png` is 30 x 30 .* same shape"):
        check_headers(picture, (wrong,))
    (tmp_path / "e.png").touch()
    with pytest.raises(PictureError, match=r"^The picture `.*e\.png` is empty"):
        check_headers(tmp_path / "e.png", ())
    with pytest.raises(PictureError, match=r"^The mask `.*e\.png` is empty"):
        check_headers(picture, (tmp_path / "e.png",))


def drawn(tmp_path, name, mask, **options):
    return save(tmp_path / name, Image.fromarray(mask.astype(np.uint8) * 255), **options)


def test_a_mask_turned_by_its_own_tag_stays_on_its_picture(tmp_path):
    mask = np.zeros((20, 20), dtype=bool)
    mask[:5, :5] = True
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which keeps the shape
    picture = save(tmp_path / "p.jpg", Image.new("RGB", (20, 20)), exif=exif)
    turned = read_mask(drawn(tmp_path, "m.png", mask, exif=exif), picture, 20)
    np.testing.assert_array_equal(turned, mask[::-1, ::-1])
    upright = read_mask(drawn(tmp_path, "n.png", mask), picture, 20)
    np.testing.assert_array_equal(upright, mask)


def test_a_palette_with_black_is_read_by_its_colours(tmp_path):
    picture = save(tmp_path / "p.png", Image.new("RGB", (20, 20)))
    mask = np.zeros((20, 20), dtype=bool)
    mask[3:6, 3:6] = True
    for palette, defective in (([255] * 3 + [0] * 3, 0), ([0] * 3 + [9] * 3, 1)):
        image = Image.fromarray(np.where(mask, defective, 1 - defective).astype(np.uint8))
        image.putpalette(palette)
        np.testing.assert_array_equal(read_mask(save(tmp_path / "m.png", image), picture, 20), mask)


def test_a_palette_without_black_is_read_by_its_numbers(tmp_path):
    picture = save(tmp_path / "p.png", Image.new("RGB", (4, 4)))
    image = Image.new("P", (4, 4))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 1)
    assert np.argwhere(read_mask(save(tmp_path / "m.png", image), picture, 4)).tolist() == [[1, 3]]


def test_a_thin_defect_does_not_vanish(tmp_path):
    picture = save(tmp_path / "p.png", Image.new("RGB", (100, 100)))
    mask = np.zeros((100, 100), dtype=bool)
    mask[20:80, 50] = True  # nearest neighbour looks at columns 5, 15, ...
    small = read_mask(drawn(tmp_path, "m.png", mask), picture, 10)
    expected = np.zeros((10, 10), dtype=bool)
    expected[2:8, 5] = True
    np.testing.assert_array_equal(small, expected)


def test_an_empty_mask_stays_empty(tmp_path):
    picture = save(tmp_path / "p.png", Image.new("RGB", (40, 40)))
    assert not read_mask(drawn(tmp_path, "m.png", np.zeros((40, 40))), picture, 10).any()


def test_facts_of_a_mask(tmp_path):
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:5, :6] = 9
    facts = mask_facts(save(tmp_path / "m.png", Image.fromarray(mask)))
    assert facts.share == pytest.approx(30 / 600)
    assert facts.two_valued
    mask[0, 0] = 10
    facts = mask_facts(save(tmp_path / "n.png", Image.fromarray(mask)))
    assert facts == (pytest.approx(30 / 600), False)
    assert mask_facts(drawn(tmp_path, "o.png", mask * 0)) == (0, True)
    (tmp_path / "e.png").touch()
    with pytest.raises(PictureError, match=r"^The mask `.*e\.png` is empty"):
        mask_facts(tmp_path / "e.png")


def test_noise_of_a_jpeg_is_no_third_value_and_a_photograph_is_no_mask(tmp_path):
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[20:43, 11:50] = 255
    facts = mask_facts(save(tmp_path / "m.jpg", Image.fromarray(mask), quality=60))
    assert facts == (pytest.approx(23 * 39 / 10000, abs=0.002), True)
    ramp = np.tile(np.linspace(0, 255, 100).astype(np.uint8), (100, 1))
    assert not mask_facts(save(tmp_path / "n.jpg", Image.fromarray(ramp))).two_valued


def shown_through(tmp_path, name, colours, alpha, mode):
    """A mask file of a mode with transparency."""
    image = Image.fromarray(np.dstack([*([colours] * 3), alpha]).astype(np.uint8))
    path = tmp_path / name
    if mode == "P":  # a number for each pair of colour and opacity
        pairs, numbers = np.unique(
            np.stack([colours, alpha]).reshape(2, -1), axis=1, return_inverse=True
        )
        image = Image.fromarray(numbers.reshape(colours.shape).astype(np.uint8))
        image.putpalette(pairs[0].astype(np.uint8).repeat(3).tobytes())
        return save(path, image, transparency=pairs[1].astype(np.uint8).tobytes())
    return save(path, image.convert(mode))


TRANSPARENT = [
    ("png", "RGBA"),
    ("png", "LA"),
    ("png", "P"),
    ("tif", "RGBA"),
    ("tif", "LA"),
    ("webp", "RGBA"),
]


@pytest.mark.parametrize(("suffix", "mode"), TRANSPARENT)
@pytest.mark.parametrize("colour", [0, 90, 255])
def test_a_shape_that_is_only_in_the_alpha_channel_is_the_mask(tmp_path, suffix, mode, colour):
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:10] = True
    picture = save(tmp_path / "p.png", Image.new("RGB", (30, 20)))
    colours = np.full((20, 30), colour)
    if suffix == "webp":
        path = tmp_path / "m.webp"
        rgba = np.dstack([*([colours] * 3), mask * 255]).astype(np.uint8)
        Image.fromarray(rgba).save(path, lossless=True, exact=True)
    else:
        path = shown_through(tmp_path, f"m.{suffix}", colours, mask * 255, mode)
    assert mask_facts(path) == (pytest.approx(mask.mean()), True)
    assert shows_defect(path)
    np.testing.assert_array_equal(read_mask_values(path, picture) > 0, mask)


@pytest.mark.parametrize(("suffix", "mode"), TRANSPARENT[:5])
def test_constant_alpha_is_no_part_of_a_mask(tmp_path, suffix, mode):
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:10] = True
    for opacity in (0, 128, 255):
        path = shown_through(tmp_path, f"m.{suffix}", mask * 255, np.full((20, 30), opacity), mode)
        assert mask_facts(path).share == pytest.approx(mask.mean())


@pytest.mark.parametrize(("suffix", "mode"), TRANSPARENT[:5])
def test_colours_and_alpha_that_agree_are_a_mask(tmp_path, suffix, mode):
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:10] = True
    path = shown_through(tmp_path, f"m.{suffix}", mask * 200, mask * 255, mode)
    assert mask_facts(path).share == pytest.approx(mask.mean())


@pytest.mark.parametrize(("suffix", "mode"), TRANSPARENT[:5])
def test_colours_and_alpha_that_do_not_agree_are_refused(tmp_path, suffix, mode):
    picture = save(tmp_path / "p.png", Image.new("RGB", (30, 20)))
    mask, other = np.zeros((2, 20, 30), dtype=bool)
    mask[3:9, 4:10] = other[5:12, 15:20] = True
    for colours, alpha in ((mask * 255, other * 255), (np.full((20, 30), 255), 128 + mask * 127)):
        path = shown_through(tmp_path, f"m.{suffix}", colours, alpha, mode)
        for read in (mask_facts, shows_defect, lambda path: read_mask(path, picture, 10)):
            with pytest.raises(
                PictureError, match=r"m\.\w+` shows one thing by its colours and an"
            ):
                read(path)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_black_is_black_in_every_kind_of_colours(tmp_path, mode):
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:10] = True
    image = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").convert(mode)
    facts = mask_facts(save(tmp_path / "m.tif", image))
    assert facts == (pytest.approx(mask.mean()), True)
