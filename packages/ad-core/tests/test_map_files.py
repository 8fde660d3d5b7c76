"""Maps in the pictures' own pixels, as files for other programs."""

import json
import re

import numpy as np
import pytest

from ad.core import evaluate, train
from ad.core.errors import SettingError
from ad.core.jobs.inspect import inspect
from ad.core.testing.pictures import write_mvtec_tree


def test_maps_are_saved_in_the_pictures_own_pixels(mean_picture, tmp_path, run_ad):
    root = write_mvtec_tree(tmp_path / "data", size=(40, 90))
    run = train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "run",
                fit="crop", resize=40).run  # fmt: skip
    status, out, _ = run_ad("predict", run, root / "toy/test", "--save-maps", tmp_path / "maps",
                            "--output", tmp_path / "out", "--json")  # fmt: skip
    assert status == 0
    rows = json.loads(out)["predictions"]
    files = sorted((tmp_path / "maps").iterdir())
    assert [file.name for file in files][:2] == ["0001-good-000.npz", "0002-good-001.npz"]
    for file, row in zip(files, rows, strict=True):
        with np.load(file) as saved:
            assert set(saved) == {"map", "score", "threshold", "path"}
            assert (saved["map"].shape, saved["map"].dtype) == ((40, 90), np.float32)
            seen = ~np.isnan(saved["map"])
            assert seen[4:36, 9:81].all()  # 32 of 40, of 40 and of 90 pixels
            assert seen.sum() == 32 * 72
            assert str(saved["path"]) == row["path"]
            assert saved["score"] == pytest.approx(row["score"])
            assert float(saved["threshold"]) == json.loads(out)["threshold"]
    status, _, _ = run_ad("evaluate", run, "--save-maps", tmp_path / "again", "--no-report")
    assert status == 0
    again = {}
    for file in sorted((tmp_path / "again").iterdir()):
        with np.load(file) as saved:
            again[str(saved["path"])] = saved["map"]
    with np.load(files[0]) as saved:
        np.testing.assert_allclose(again[str(saved["path"])], saved["map"], rtol=1e-6)
    assert len(again) == len(files)


def test_maps_that_cannot_be_saved_are_told_of_first(
    whole, mean_picture, toy_root, tmp_path, run_ad
):
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run
    made = train("mvtec", "toy", whole, data_root=toy_root, output_dir=tmp_path / "whole").run
    words = "`whole` judges pictures as a whole and has no maps to save"
    with pytest.raises(SettingError, match=words):
        inspect(made, [toy_root / "toy/test"], save_maps=tmp_path / "maps")
    with pytest.raises(SettingError, match=words):
        evaluate(made, save_maps=tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
    status, _, err = run_ad("predict", run, toy_root / "toy/test", "--save-maps", toy_root)
    assert status == 1
    assert re.search("is not empty", " ".join(err.split()))
    assert not (run / "predictions").exists()
