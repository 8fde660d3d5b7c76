import numpy as np
import pytest
from PIL import Image

from ad.runtime.findings import finding_of
from ad.runtime.framing import Framing, Size
from ad.runtime.framing.region import Crop, Region
from ad.runtime.heatmaps import FIRST, colour_table, overlay
from ad.runtime.overlays import overlay_of


def test_what_is_normal_stays_as_it_is_and_what_is_not_is_coloured():
    picture = np.full((256, 256, 3), 90, dtype=np.uint8)
    heat = np.full((64, 64), 0.1)
    heat[16:32, 16:32] = 0.95
    sheet = np.asarray(overlay(picture, heat, "defective"))
    left, right = sheet[:256, :256], sheet[:256, -256:]
    assert (left == 90).all()
    assert (right[150:, 150:] == 90).all()
    red, green, blue = right[96, 96].astype(int)
    assert red > 150 > max(green, blue)


def test_small_pictures_are_enlarged_and_keep_their_shape():
    sheet = overlay(np.zeros((32, 64, 3), dtype=np.uint8), np.zeros((16, 16)), "good")
    assert sheet.width == 2 * 512 + 8
    assert sheet.height > 256


def test_large_and_thin_pictures_are_reduced():
    large = overlay(np.zeros((3000, 4500, 3), dtype=np.uint8), np.zeros((16, 16)), "good")
    assert large.width == 2 * 1024 + 8
    thin = overlay(np.zeros((1, 4000, 3), dtype=np.uint8), np.zeros((16, 16)), "good")
    assert thin.size[0] == 2 * 1024 + 8
    assert thin.size[1] < 40


def test_without_a_threshold_nothing_is_outlined():
    heat = np.zeros((64, 64))
    heat[16:48, 16:48] = 0.8
    picture = np.full((256, 256, 3), 90, dtype=np.uint8)
    for outline in (True, False):
        sheet = np.asarray(overlay(picture, heat, "", outline=outline))
        assert (sheet[:256, -256:] == (255, 0, 60)).all(axis=2).any() == outline


@pytest.mark.parametrize(("height", "width"), [(256, 512), (64, 300), (2500, 1700)])
def test_what_is_outlined_is_where_it_is_in_the_picture(height, width):
    mask = np.zeros((height, width), dtype=bool)
    mask[height // 4, width // 2] = True  # a pixel alone, which no reduction may lose
    mask[height // 2 : height * 3 // 4, : width // 5] = True
    heat = np.ones((16, 16))  # says otherwise
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    sheet = np.asarray(overlay(picture, heat, "", outline=mask))
    shown = sheet.shape[1] // 2 - 4
    right = (sheet[:-22, -shown:] == FIRST).all(axis=2)
    scale = shown / width
    rows, columns = np.nonzero(right[:, shown // 3 :])
    assert rows.mean() == pytest.approx((height // 4 + 0.5) * scale - 0.5, abs=1)
    assert columns.mean() + shown // 3 == pytest.approx((width // 2 + 0.5) * scale - 0.5, abs=1)
    rows, columns = np.nonzero(right[:, : shown // 3])
    assert rows.min() == pytest.approx(height // 2 * scale, abs=1)
    assert rows.max() == pytest.approx(height * 3 // 4 * scale - 1, abs=1)
    assert columns.max() == pytest.approx(width // 5 * scale - 1, abs=1)


def test_colours_are_mixed_by_the_table_in_floating_point():
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    heat = random.random((300, 400)).astype(np.float32)
    sheet = np.asarray(overlay(picture, heat, "", outline=False))
    stops, alphas = [0.0, 0.35, 0.5, 0.75, 1.0], [0.0, 0.0, 0.35, 0.6, 0.75]
    level = np.rint(heat * 255) / 255
    alpha = np.interp(level, stops, alphas)[..., None]
    colours = colour_table()[np.rint(heat * 255).astype(int), :3]  # rounded, so within a level
    expected = picture * (1 - alpha) + colours * alpha
    assert abs(sheet[:300, -400:] - expected).max() <= 1.01
    np.testing.assert_array_equal(sheet[:300, :400], picture)


def test_a_fourth_channel_means_nothing():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (300, 1400, 4), dtype=np.uint8)
    heat = random.random((30, 40)).astype(np.float32)
    with_three, with_four = (
        np.asarray(overlay(one, heat, ""))
        for one in (np.ascontiguousarray(pixels[..., :3]), pixels)
    )
    np.testing.assert_array_equal(with_three, with_four)


@pytest.mark.parametrize(
    "framing",
    [
        Framing(size=Size(8, 64)),
        Framing(size=Size(8, 64), fit="pad"),
        Framing(size=Size(8, 64), fit="crop", resize=Size(10, 80)),
        Framing(size=Size(8, 64), crop=Crop(200, 20, 900, 70)),
    ],
    ids=["stretch", "pad", "fit crop", "crop"],
)
def test_heat_of_a_picture_that_is_shown_reduced_lies_where_it_is_in_the_picture(framing):
    random = np.random.default_rng(0)
    picture = random.integers(0, 256, (140, 1500, 3), dtype=np.uint8)
    coarse = Image.fromarray(random.random((3, 9)).astype(np.float32))
    map_ = np.asarray(coarse.resize((64, 8), Image.Resampling.BICUBIC))
    size = Size(140, 1500)
    finding = finding_of("a", 1.0, map_, None, size=size, framing=framing)
    sheet = np.asarray(overlay_of(finding, picture, framing, None)).astype(int)
    heat = (map_ - map_.min()) / (map_.max() - map_.min())
    label = "score 1   colours: this picture's own range"
    whole = framing.back(heat, size)  # in all of the picture's pixels
    expected = np.asarray(overlay(picture, whole, label, outline=False)).astype(int)
    edge = np.isnan(np.asarray(Image.fromarray(whole).resize((1024, 96))))  # reaches a pixel out
    differs = abs(sheet - expected)[:96, -1024:].max(axis=2)
    assert differs[~edge].max() <= 3
    assert (differs[edge] > 3).mean() < 0.02 if edge.any() else True


def test_a_region_of_a_long_picture_is_no_hindrance_to_its_heat_map():
    inside = np.ones((100, 5000), dtype=bool)  # 20 x 1024 where it is shown: no longer its shape
    framing = Framing(size=Size(8, 64), region=Region(inside))
    picture = np.zeros((100, 5000, 3), dtype=np.uint8)
    map_ = np.random.default_rng(0).random((8, 64)).astype(np.float32)
    finding = finding_of("a", 1.0, map_, None, size=Size(100, 5000), framing=framing)
    assert overlay_of(finding, picture, framing, None).width == 2 * 1024 + 8
