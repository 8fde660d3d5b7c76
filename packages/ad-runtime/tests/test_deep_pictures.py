"""White in pictures of more than 8 bits: known, found, or refused."""

import numpy as np
import pytest
from deep_files import random_values, save, write_png, write_tiff
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.drawn import mask_facts
from ad.runtime.pictures.levels import WHITE_LEVELS, find_white_level
from ad.runtime.pictures.reading import read_picture, rgb_array


@pytest.mark.parametrize("white", WHITE_LEVELS)
def test_white_becomes_255_and_the_rest_in_proportion(white):
    values = np.linspace(0, white, 50).astype(np.uint16).reshape(5, 10)
    picture = rgb_array(values, white=white)
    exact = values[..., None] * (255 / white)
    assert np.abs(picture - exact).max() < 1
    assert (picture[0, 0, 0], picture[-1, -1, 0]) == (0, 255)


@pytest.mark.parametrize("largest", [1, 255, 4095, 16383])
def test_values_whose_white_nobody_knows_are_refused(tmp_path, largest):
    values = random_values(largest, 1)
    words = (
        rf"holds 16-bit values up to {largest}, and it is not known which value is white.*"
        "Scale the values to 8 bits or to the full 16, or train with such pictures"
    )
    with pytest.raises(PictureError, match=f"^The array {words}"):
        rgb_array(values)
    with pytest.raises(PictureError, match=rf"^The picture `.*a\.png` {words}"):
        read_picture(save(tmp_path / "a.png", values[..., 0]))
    with pytest.raises(PictureError, match=rf"^The picture `.*c\.png` {words}"):
        read_picture(write_png(tmp_path / "c.png", random_values(largest, 3)))


def test_values_that_need_all_bits_tell_their_white(tmp_path):
    values = random_values(16384, 1)
    np.testing.assert_array_equal(rgb_array(values)[..., 0], values[..., 0] >> 8)
    found = read_picture(save(tmp_path / "a.png", values[..., 0]))
    np.testing.assert_array_equal(found[..., 0], values[..., 0] >> 8)


def test_values_above_white_are_refused(tmp_path):
    words = r"has values up to 4096, but white is 4095 \(12 bits\) in the pictures that were learnt"
    with pytest.raises(PictureError, match=f"^The array {words}"):
        rgb_array(random_values(4096, 3), white=4095)
    with pytest.raises(PictureError, match=rf"a\.png` {words}.*or train again"):
        read_picture(save(tmp_path / "a.png", random_values(4096, 1)[..., 0]), white=4095)


def test_a_picture_that_is_nearly_black_beside_the_others_is_told_of(tmp_path):
    path = save(tmp_path / "a.png", random_values(255, 1)[..., 0])
    with pytest.warns(UserWarning, match=r"^No value of the picture `.*a\.png` is above 255, and"):
        read_picture(path, white=4095)
    save(path, random_values(256, 1)[..., 0])
    read_picture(path, white=4095)  # and without a warning


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_all_bits_of_a_png_count(tmp_path, channels):
    values = random_values(4095, channels)
    values[..., 3:] = 65535  # alpha is no colour
    if channels == 2:
        values[..., 1] = 65535
    path = write_png(tmp_path / "a.png", values)
    assert find_white_level([path]).value == 4095
    colours = values[..., :3] if channels > 2 else values[..., :1]
    np.testing.assert_array_equal(
        read_picture(path, white=4095), np.broadcast_to(colours >> 4, (9, 6, 3))
    )


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_bits_of_a_tiff_count(tmp_path, channels, order, deflated):
    values = random_values(4095, channels)
    values[..., 3:] = 65535
    path = write_tiff(tmp_path / "a.tif", values, order=order, deflated=deflated)
    assert find_white_level([path]).value == 4095
    expected = np.broadcast_to(values[..., :3] >> 4, (9, 6, 3))
    np.testing.assert_array_equal(read_picture(path, white=4095), expected)


def test_deep_colours_are_upright(tmp_path):
    values = random_values(65535, 3)
    turned = (values >> 8).swapaxes(0, 1)[:, ::-1]  # a quarter clockwise
    path = write_tiff(tmp_path / "a.tif", values, tags=[(274, [6])])
    np.testing.assert_array_equal(read_picture(path), turned)
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    path = write_png(tmp_path / "a.png", values, chunks=[(b"eXIf", tag[6:])])
    np.testing.assert_array_equal(read_picture(path), turned)


def test_planes_that_pillow_decodes_wrongly_are_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(65535, 3), planar=True)
    for read in (read_picture, lambda path: find_white_level([path])):
        with pytest.raises(PictureError, match=r"a\.tif.*in planes, uncompressed.*interleaved"):
            read(path)
    values = random_values(65535, 3)
    path = write_tiff(tmp_path / "b.tif", values, planar=True, deflated=True)
    np.testing.assert_array_equal(read_picture(path), values >> 8)


def test_a_file_that_says_its_bits_is_taken_at_its_word(tmp_path):
    values = random_values(1000, 1)
    packed = write_tiff(tmp_path / "packed.tif", values, bits=12)
    np.testing.assert_array_equal(read_picture(packed)[..., 0], values[..., 0] >> 4)
    tagged = write_tiff(tmp_path / "tagged.tif", values, tags=[(281, [4095])])
    np.testing.assert_array_equal(read_picture(tagged, white=1023)[..., 0], values[..., 0] >> 4)
    colours = random_values(1000, 3)
    tagged = write_tiff(tmp_path / "rgb.tif", colours, tags=[(281, [4095] * 3)])
    np.testing.assert_array_equal(read_picture(tagged), colours >> 4)
    grey = tmp_path / "a.pgm"
    grey.write_bytes(b"P5 2 1 1000\n" + np.array([500, 1000], ">u2").tobytes())
    np.testing.assert_allclose(read_picture(grey)[0, :, 0], [127, 255], atol=1)


def test_a_file_whose_values_belie_it_is_refused(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(5000, 1), tags=[(281, [4095])])
    with pytest.raises(
        PictureError, match=r"up to 5000, but white is 4095 .* the file itself says"
    ):
        read_picture(path)


def test_the_largest_value_of_one_picture_is_not_its_white(tmp_path):
    path = write_tiff(tmp_path / "a.tif", random_values(1000, 1), tags=[(281, [1000])])
    assert find_white_level([path]).value == 1023
    # By its specification, a PNG's values are scaled to all 16 bits whatever its sBIT says.
    path = write_png(tmp_path / "a.png", random_values(60000, 1), chunks=[(b"sBIT", b"\x0c")])
    assert find_white_level([path]).value == 65535


def ppm(path, values):
    path.write_bytes(b"P6 6 9 65535\n" + values.astype(">u2").tobytes())
    return path


def test_colours_of_which_only_the_upper_bits_can_be_had_must_need_all(tmp_path):
    dark = ppm(tmp_path / "dark.ppm", random_values(4095, 3))
    words = r"dark\.ppm` cannot be used.*only the upper 8 can be read, which are at most 16 of 255"
    for read in (read_picture, lambda path: find_white_level([path])):
        with pytest.raises(PictureError, match=words):
            read(dark)
    values = random_values(65535, 3)
    bright = ppm(tmp_path / "bright.ppm", values)
    np.testing.assert_allclose(read_picture(bright), values / 257, atol=1)
    assert find_white_level([dark, bright]).value == 65535
    assert read_picture(dark, white=65535).max() == 16


@pytest.mark.parametrize(
    ("largest", "white"),
    [(0, 255), (255, 255), (256, 1023), (1023, 1023), (1024, 4095), (4096, 16383), (16384, 65535)],
)
def test_the_level_of_a_run_holds_its_largest_value(tmp_path, largest, white):
    paths = [save(tmp_path / f"{i}.png", random_values(i, 1)[..., 0]) for i in (0, largest)]
    found = find_white_level(paths)
    assert found.value == white
    assert len(found.notes) == 1
    assert f"is {largest}: {white} ({white.bit_length()} bits) is taken as white" in found.notes[0]


def test_pictures_of_eight_bits_are_not_decoded(tmp_path, monkeypatch):
    paths = [save(tmp_path / "a.png", np.zeros((4, 4), np.uint8))]
    Image.new("CMYK", (4, 4)).save(tmp_path / "a.jpg")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    monkeypatch.setattr(Image.Image, "load", None)
    paths += [tmp_path / "a.jpg", tmp_path / "a.tif"]
    assert find_white_level(paths) == (None, ())


def test_a_run_of_both_kinds_is_told_of(tmp_path):
    deep = save(tmp_path / "a.png", random_values(4095, 1)[..., 0])
    plain = save(tmp_path / "b.png", np.zeros((4, 4), np.uint8))
    found = find_white_level([deep, plain, plain])
    assert found.value == 4095
    assert found.notes[0].startswith("1 of 3 pictures have 16 bits a channel")
    assert found.notes[1].startswith("The other 2 pictures have a white of their own")


def test_what_all_files_say_is_the_level_for_those_that_do_not(tmp_path):
    twelve = write_tiff(tmp_path / "a.tif", random_values(1000, 1), tags=[(281, [4095])])
    ten = write_tiff(tmp_path / "b.tif", random_values(1000, 1), tags=[(281, [1023])])
    assert find_white_level([twelve, twelve]) == (4095, ())
    assert find_white_level([twelve, ten]) == (None, ())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_mask_of_small_values_in_a_deep_file_is_not_black(tmp_path, channels):
    values = np.zeros((9, 6, channels), np.uint16)
    values[2:5, 1:3] = 200
    values[..., 3:] = 65535
    if channels == 2:
        values[..., 1] = 65535
    assert mask_facts(write_png(tmp_path / "m.png", values)) == (pytest.approx(6 / 54), True)
    path = write_tiff(tmp_path / "m.tif", values[..., :1].repeat(3, axis=2), tags=[(274, [6])])
    assert mask_facts(path) == (pytest.approx(6 / 54), True)
    with pytest.raises(PictureError, match=r"m\.ppm` cannot be used"):
        mask_facts(ppm(tmp_path / "m.ppm", values[..., :1].repeat(3, axis=2)))
