import gc
import io

import numpy as np
import pytest
from PIL import Image, _imaging

from ad.runtime.pictures import memory
from ad.runtime.pictures.memory import three_channels
from ad.runtime.pictures.reading import glimpse, read_picture


def _encoded(suffix, shape=(70, 33), **options):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, suffix, **options)
    return buffer.getvalue()


def _by_pillow(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def small_pieces():
    before = _imaging.get_block_size()
    _imaging.set_block_size(4096)  # as large pictures are by default: several pieces of memory
    yield
    _imaging.set_block_size(before)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_glimpse_has_the_values_that_pillow_copies(suffix):
    content = _encoded(suffix)
    seen = glimpse(content)
    assert seen.shape == (70, 33, 4)  # its own memory
    np.testing.assert_array_equal(seen[..., :3], _by_pillow(content))
    np.testing.assert_array_equal(read_picture(content), _by_pillow(content))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(("suffix", "channels"), [("JPEG", 4), ("PNG", 4), ("BMP", 3), ("TIFF", 3)])
def test_a_picture_beyond_a_piece_of_memory_has_them_too(suffix, channels):
    content = _encoded(suffix)
    assert glimpse(content).shape == (70, 33, channels)
    np.testing.assert_array_equal(glimpse(content)[..., :3], _by_pillow(content))


def test_rows_with_gaps_between_them_are_not_taken_for_pixels():
    content = _encoded("JPEG")
    _imaging.set_alignment(64)
    try:
        np.testing.assert_array_equal(glimpse(content), _by_pillow(content))
    finally:
        _imaging.set_alignment(1)


def test_a_pillow_that_does_not_show_its_memory_is_copied_from(monkeypatch):
    monkeypatch.setattr(memory, "_SHOWS_MEMORY", False)
    content = _encoded("JPEG")
    assert glimpse(content).shape == (70, 33, 3)
    np.testing.assert_array_equal(glimpse(content), _by_pillow(content))


def test_a_glimpse_outlives_its_image():
    content = _encoded("JPEG", shape=(300, 200))
    seen = glimpse(content)
    others = [glimpse(_encoded("PNG", shape=(300, 200))) for _ in range(4)]  # of the same size
    gc.collect()
    np.testing.assert_array_equal(seen[..., :3], _by_pillow(content))
    assert not any(np.shares_memory(seen, other) for other in others)


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_glimpse_is_turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = _encoded("JPEG", exif=exif)
    turned = np.rot90(_by_pillow(content), {3: 2, 6: 3}[orientation])
    np.testing.assert_array_equal(glimpse(content)[..., :3], turned)


@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "TIFF"])
def test_grey_is_repeated_in_every_channel(suffix):
    grey = np.random.default_rng(0).integers(0, 256, (70, 33), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, suffix)
    np.testing.assert_array_equal(
        glimpse(buffer.getvalue())[..., :3], _by_pillow(buffer.getvalue())
    )


def test_what_is_decoded_already_keeps_its_pixels():
    content = _encoded("JPEG")
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        memory.in_one_piece(image)
        np.testing.assert_array_equal(memory.pixels_of(image)[..., :3], _by_pillow(content))


def test_an_image_that_a_caller_made_is_copied_from():
    # Of one that Pillow borrows from other memory it cannot show that, and would end the process.
    borrowed = Image.fromarrow(
        Image.fromarray(np.full((4, 5, 3), 7, dtype=np.uint8)), "RGB", (5, 4)
    )
    assert (glimpse(borrowed) == 7).all()


def test_what_is_read_is_the_callers_to_write():
    image = Image.fromarray(np.full((4, 5, 3), 7, dtype=np.uint8))
    read_picture(image)[:] = 0
    assert image.getpixel((0, 0)) == (7, 7, 7)


def test_pixels_of_three_channels_are_themselves_and_a_fourth_is_left_out():
    pixels = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(three_channels(pixels), pixels[:, :, [0, 1, 2]])
    own = np.zeros((2, 3, 3), dtype=np.uint8)
    assert three_channels(own) is own
