import numpy as np
import pytest

from ad.runtime.heatmaps import FIRST, overlay


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
