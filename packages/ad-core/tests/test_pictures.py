import contextlib
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ad.core.data.resizing import resize
from ad.core.errors import PictureError
from ad.runtime.pictures.reading import read_picture, rgb_array


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_rgb_is_read_as_it_is(tmp_path, colours):
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    np.testing.assert_array_equal(read_picture(path), colours)


def test_grey_is_repeated(tmp_path, colours):
    grey = colours[..., 0]
    path = save(tmp_path / "a.png", Image.fromarray(grey))
    np.testing.assert_array_equal(read_picture(path), np.repeat(grey[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path, colours):
    alpha = np.full((20, 30, 1), 7, dtype=np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(np.concatenate([colours, alpha], axis=2)))
    np.testing.assert_array_equal(read_picture(path), colours)


@pytest.mark.parametrize("transparency", [None, 0])
def test_a_palette_becomes_its_colours(tmp_path, transparency):
    image = Image.new("P", (4, 2))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((3, 1), 1)
    options = {} if transparency is None else {"transparency": transparency}
    picture = read_picture(save(tmp_path / "a.png", image, **options))
    assert picture[0, 0].tolist() == [10, 20, 30]
    assert picture[1, 3].tolist() == [200, 100, 50]


def test_cmyk_becomes_rgb(tmp_path):
    path = save(tmp_path / "a.tif", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    assert read_picture(path)[0, 0].tolist() == [255, 0, 0]


def test_one_bit_pictures_use_the_full_range(tmp_path):
    image = Image.new("1", (4, 4))
    image.putpixel((1, 1), 1)
    picture = read_picture(save(tmp_path / "a.png", image))
    assert picture[1, 1].tolist() == [255, 255, 255]
    assert picture[0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    picture = read_picture(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    assert picture[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_floating_point_in_the_unit_interval_is_read(tmp_path):
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    picture = read_picture(save(tmp_path / "a.tif", Image.fromarray(values)))
    assert picture[0, :, 0].tolist() == [0, 128, 255]


def test_floating_point_beyond_it_is_refused_with_the_path(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[0.0, 300.0]], dtype=np.float32)))
    with pytest.raises(PictureError, match=r"a\.tif.*must lie in \[0, 1\]; got 0.0 to 300.0"):
        read_picture(path)


def test_wide_integers_beyond_sixteen_bits_are_refused(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray(np.array([[70000, 1]], dtype=np.int32)))
    with pytest.raises(PictureError, match="beyond 16 bits"):
        read_picture(path)


def test_exif_turns_the_picture_upright(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    path = save(tmp_path / "a.png", Image.fromarray(colours), exif=exif)
    np.testing.assert_array_equal(read_picture(path), np.rot90(colours, -1))


def test_a_truncated_picture_names_its_path(tmp_path, colours):
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(PictureError, match=r"`.*a\.png` cannot be read.*truncated"):
        read_picture(path)


def test_an_empty_file_says_so(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match=r"a\.png` is empty \(0 bytes\)"):
        read_picture(tmp_path / "a.png")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(PictureError, match=r"a\.png` does not exist"):
        read_picture(tmp_path / "a.png")


def test_a_text_file_is_no_picture(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(PictureError, match=r"a\.png` cannot be read"):
        read_picture(tmp_path / "a.png")


def test_a_folder_named_like_a_picture_is_refused(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PictureError, match=r"a\.png` cannot be read"):
        read_picture(tmp_path / "a.png")


def test_a_decompression_bomb_is_refused(tmp_path, colours, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # 600 pixels: a warning in Pillow
    with pytest.raises(PictureError, match=r"a.png` has more than 500 pixels, .*Cut it into tiles"):
        read_picture(path)


@pytest.mark.parametrize("shape", [(64, 64), (37, 91), (8, 8)])
def test_resizing_agrees_with_pillow(shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((24, 24), Image.Resampling.BILINEAR))
    assert np.abs(resize(picture, 24).numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_arrays_of_every_kind_become_rgb(dtype, channels):
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1.0}[dtype]
    array = np.zeros((5, 6, *channels), dtype=dtype)
    array[2, 3] = full
    picture = rgb_array(array)
    assert picture.shape == (5, 6, 3)
    assert picture[2, 3].tolist() == [255, 255, 255]
    assert picture.sum() == 3 * 255


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 20, 20), np.uint8), r"must be \[H, W\].*got \(3, 20, 20\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got \(0, 5, 3\)"),
        (np.zeros((5, 5, 3), np.int64), "uint8, uint16 or floating point in .*got int64"),
        (np.full((5, 5), np.nan), r"must lie in \[0, 1\]"),
        (np.full((5, 5), 255.0), r"Divide by 255"),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array, words):
    with pytest.raises(PictureError, match=words):
        rgb_array(array)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it can mend
def test_damage_of_every_kind_is_a_picture_error(tmp_path, colours):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    whole = save(tmp_path / "w.jpg", Image.fromarray(colours), exif=exif).read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "d.jpg"
    for _ in range(300):
        bad = bytearray(whole)
        for at in rng.integers(2, min(len(bad), 200), 3):
            bad[at] = rng.integers(256)
        path.write_bytes(bad)
        with contextlib.suppress(PictureError):
            read_picture(path)


def test_reading_leaves_the_filters_of_warnings_alone(tmp_path, colours):
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_picture, [path] * 200))
    assert warnings.filters == before


@pytest.mark.parametrize("size", [(20, 30), (7, 9), (31, 40)])
def test_resizing_leaves_out_a_fourth_channel(colours, size):
    four = np.dstack([colours, np.random.default_rng(1).integers(0, 256, (20, 30), dtype=np.uint8)])
    resized = resize(four, size)
    assert resized.shape == (*size, 3)
    np.testing.assert_array_equal(resized, resize(colours, size))
