"""The sheet that shows what synthetic anomalies look like."""

import numpy as np
import pytest
from PIL import Image

from ad.core.errors import OutputError, SettingError
from ad.core.synth.preview import preview


def test_a_sheet_shows_normal_picture_mask_and_broken_one(toy_root, tmp_path):
    result = preview(
        "mvtec", "toy", data_root=toy_root, output=tmp_path / "out", count=3, img_size=32
    )
    assert result.sheet == tmp_path / "out/synth.png"
    assert len(result.paths) == len(set(result.paths)) == 3
    assert min(result.shares) > 0
    assert all(path.parent == toy_root / "toy/train/good" for path in result.paths)
    with Image.open(result.sheet) as sheet:
        pixels = np.asarray(sheet)
    # Two examples in a row, pictures enlarged five times to 160 pixels, 2 apart.
    assert pixels.shape == (2 * (160 + 22), 2 * (3 * 160 + 24) + 8, 3)
    good, mask, broken = (
        pixels[2:160:5, left + 2 : left + 160 : 5].astype(int) for left in (8, 170, 332)
    )
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask > 0).mean() == pytest.approx(result.shares[0], abs=1e-6)
    assert np.array_equal(good[mask == 0], broken[mask == 0])
    assert (good != broken).any()


def test_a_sheet_is_the_same_for_the_same_seed(toy_root, tmp_path):
    def sheet(name, **settings):
        where = tmp_path / name
        settings = {"count": 2, "img_size": 16, **settings}
        made = preview("mvtec", "toy", data_root=toy_root, output=where, **settings)
        return made.sheet.read_bytes()

    assert sheet("a") == sheet("b")
    assert sheet("c", seed=1) != sheet("d", recipe="cut-paste") != sheet("a2", count=1)


def test_what_cannot_be_shown_is_refused_before_anything_is_written(toy_root, tmp_path):
    def refused(kind, words, **settings):
        with pytest.raises(kind, match=words):
            preview("mvtec", "toy", data_root=toy_root, output=tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()

    refused(SettingError, "`count` must be a whole number from 1; got 0", count=0)
    refused(SettingError, "`img_size` must be at least 16 pixels; got 8", img_size=8)
    refused(SettingError, "is not a folder", textures=str(tmp_path / "nowhere"))
    words = "`textures` is of no use to `cut-paste`, .* Leave it out, or use the recipe `draem`"
    refused(SettingError, words, textures=str(tmp_path), recipe="cut-paste")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match="is not empty"):
        preview("mvtec", "toy", data_root=toy_root, output=tmp_path / "full")
