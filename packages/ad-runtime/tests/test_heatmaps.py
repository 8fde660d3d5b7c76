import numpy as np

from ad.runtime.heatmaps import overlay


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
