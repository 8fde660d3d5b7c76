"""Pictures and masks that lie turned in their files, against the table of the EXIF standard."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.drawn import check_headers, mask_facts, read_mask, read_mask_values
from ad.runtime.pictures.reading import read_picture, upright_size

# EXIF 2.3, Orientation: where the 0th row and the 0th column of what is stored are seen.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
FORMATS = ["tif", "png", "jpg", "webp"]


def seen(stored, orientation):
    """What is seen, pixel by pixel."""
    rows, columns = SIDES[orientation]
    height, width = stored.shape[:2]
    across = rows in ("left", "right")
    size = (width, height) if across else (height, width)
    upright = np.empty((*size, *stored.shape[2:]), stored.dtype)
    for row, column in itertools.product(range(height), range(width)):
        place = {}
        for side, at in ((rows, row), (columns, column)):
            axis = 1 if side in ("left", "right") else 0
            place[axis] = at if side in ("left", "top") else size[axis] - 1 - at
        upright[place[0], place[1]] = stored[row, column]
    return upright


def put(path, pixels, orientation=None):
    options = {"lossless": True} if path.suffix == ".webp" else {}
    if path.suffix == ".jpg":
        options = {"quality": 100, "subsampling": 0}
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    Image.fromarray(pixels).save(path, **options)
    return path


def drawn(height, width):
    """Blocks of 8 that have no symmetry, so that a JPEG keeps them."""
    blocks = np.zeros((height // 8, width // 8), dtype=np.uint8)
    blocks[0, 0] = blocks[0, 1] = blocks[1, 0] = blocks[2, -1] = 255
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


SHAPES = [(24, 40), (40, 24), (32, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright_once(tmp_path, suffix, orientation, shape):
    stored = np.repeat(drawn(*shape)[..., None], 3, axis=2)
    path = put(tmp_path / f"p.{suffix}", stored, orientation)
    expected = seen(stored, orientation)
    np.testing.assert_allclose(read_picture(path).astype(int), expected, atol=3)
    assert upright_size(path) == expected.shape[1::-1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("of_mask", ["tif", "png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_on_its_picture(tmp_path, suffix, of_mask, orientation, shape):
    stored = drawn(*shape)
    picture = put(tmp_path / f"p.{suffix}", np.zeros((*shape, 3), np.uint8), orientation)
    expected = seen(stored, orientation) > 0
    masks = {
        "drawn upright": put(tmp_path / f"u.{of_mask}", seen(stored, orientation)),
        "with the same tag": put(tmp_path / f"t.{of_mask}", stored, orientation),
    }
    if shape[0] != shape[1] and orientation >= 5:
        masks["drawn on the stored pixels"] = put(tmp_path / f"s.{of_mask}", stored)
    for how, mask in masks.items():
        check_headers(picture, (mask,))
        size = expected.shape[0]
        columns = (np.arange(size) * 2 + 1) * expected.shape[1] // (2 * size)  # nearest neighbour
        np.testing.assert_array_equal(read_mask(mask, picture, size), expected[:, columns], how)
        np.testing.assert_array_equal(read_mask_values(mask, picture) > 127, expected, how)
        assert mask_facts(mask) == (pytest.approx(expected.mean()), True)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_untagged_mask_of_a_square_picture_was_drawn_upright(tmp_path, orientation):
    mask = drawn(32, 32)
    picture = put(tmp_path / "p.tif", np.zeros((32, 32, 3), np.uint8), orientation)
    found = read_mask(put(tmp_path / "m.png", mask), picture, 32)
    np.testing.assert_array_equal(found, mask > 0)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_smaller_mask_of_the_stored_pixels_is_turned_with_its_picture(tmp_path, suffix):
    picture = put(tmp_path / f"p.{suffix}", np.zeros((48, 80, 3), np.uint8), 6)
    mask = drawn(24, 40)
    expected = seen(mask, 6) > 0
    columns = (np.arange(40) * 2 + 1) * 24 // 80
    found = read_mask(put(tmp_path / "m.png", mask), picture, 40)
    np.testing.assert_array_equal(found, expected[:, columns])


def test_a_mask_that_its_own_tag_turns_away_is_refused(tmp_path):
    picture = put(tmp_path / "p.jpg", np.zeros((24, 40, 3), np.uint8), 6)
    mask = put(tmp_path / "m.png", drawn(40, 24), 6)  # upright already, and the tag was copied
    words = r"m\.png` is 40 x 24 pixels when turned as its EXIF orientation says.*p\.jpg` 24 x 40"
    with pytest.raises(PictureError, match=words):
        check_headers(picture, (mask,))
    with pytest.raises(PictureError, match=words):
        read_mask(mask, picture, 8)


def test_a_tag_of_the_mask_counts_more_than_that_of_the_picture(tmp_path):
    picture = put(tmp_path / "p.jpg", np.zeros((24, 40, 3), np.uint8), 6)
    mask = put(tmp_path / "m.png", drawn(24, 40), 3)  # it stays across, upside down
    with pytest.raises(PictureError, match=r"m\.png` is 40 x 24 .*p\.jpg` 24 x 40"):
        read_mask(mask, picture, 8)


def test_of_a_nearly_square_picture_the_exact_size_decides(tmp_path):
    stored = np.zeros((64, 65), np.uint8)
    stored[:9, :20] = 255
    picture = put(tmp_path / "p.jpg", np.zeros((64, 65, 3), np.uint8), 6)
    mask = put(tmp_path / "m.png", stored)
    np.testing.assert_array_equal(read_mask_values(mask, picture), seen(stored, 6))
    upright = put(tmp_path / "u.png", seen(stored, 6))
    np.testing.assert_array_equal(read_mask_values(upright, picture), seen(stored, 6))


def test_a_mask_that_lies_across_an_unturned_picture_is_found_by_headers(tmp_path):
    picture = put(tmp_path / "p.png", np.zeros((24, 40, 3), np.uint8))
    with pytest.raises(PictureError, match="must have the same shape"):
        check_headers(picture, (put(tmp_path / "m.png", drawn(40, 24)),))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_of_any_kind_is_upright_once(tmp_path, compression, mode, orientation):
    stored = drawn(24, 40)
    image = Image.fromarray(stored)
    image = Image.fromarray(stored * np.uint16(257)) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "p.tif", exif=exif, compression=compression)
    found = read_picture(tmp_path / "p.tif")
    np.testing.assert_array_equal(found, seen(stored, orientation)[..., None].repeat(3, axis=2))


def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path):
    stored = drawn(24, 40)
    put(tmp_path / "p.png", stored, 6)
    whole = (tmp_path / "p.png").read_bytes()
    start = whole.index(b"eXIf") - 4
    length = int.from_bytes(whole[start : start + 4], "big") + 12
    chunk, end = whole[start : start + length], whole.index(b"IEND") - 4
    late = whole[:start] + whole[start + length : end] + chunk + whole[end:]
    (tmp_path / "p.png").write_bytes(late)
    picture = tmp_path / "p.png"
    np.testing.assert_array_equal(read_picture(picture)[..., 0], seen(stored, 6))
    mask = put(tmp_path / "m.png", seen(stored, 6))
    check_headers(picture, (mask,))
    np.testing.assert_array_equal(read_mask_values(mask, picture), seen(stored, 6))
