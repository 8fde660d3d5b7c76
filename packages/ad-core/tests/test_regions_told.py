"""Regions and how many good pictures have: the same in the API, every file and what is said."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from ad.core import ModelRegistry, load, train
from ad.core.errors import SettingError
from ad.core.jobs.inspect import inspect
from ad.core.testing.pictures import write_mvtec_tree
from ad.runtime.heatmaps import FIRST


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_mvtec_tree(tmp_path_factory.mktemp("data"), size=(48, 80))


@pytest.fixture(scope="module")
def trained(root):
    ModelRegistry.register(
        "mean-picture",
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield train("mvtec", "toy", "mean-picture", data_root=root, output_dir=root / "run",
                holdout="cross", report=False)  # fmt: skip
    ModelRegistry.unregister("mean-picture")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("min_area", [None, 40])
def test_all_that_is_written_has_the_same_regions(trained, root, run_ad, tmp_path, min_area):
    options = () if min_area is None else ("--min-area", min_area)
    status, out, err = run_ad("predict", trained.run, root / "toy/test", "--json", *options,
                              "--output", tmp_path / "out",
                              "--save-maps", tmp_path / "maps")  # fmt: skip
    assert status == 0
    told, counts = json.loads(out), trained.detector.config.calibration.false_regions
    assert told["false_regions"] == counts.to_json()
    assert told["min_area"] == (min_area or 1)
    table, places = (read(tmp_path / "out" / f"{name}.csv") for name in ("predictions", "regions"))
    findings = trained.detector.predict(root / "toy/test", min_area=min_area)
    threshold = trained.detector.config.calibration.pixel_threshold
    some = 0
    for finding, one, row, file in zip(
        findings, told["predictions"], table, sorted((tmp_path / "maps").iterdir()), strict=True
    ):
        with np.load(file) as saved:
            labels, _ = ndimage.label(saved["map"] > threshold, structure=np.ones((3, 3)))
        areas = sorted(np.bincount(labels.ravel())[1:].tolist(), reverse=True)
        areas = [area for area in areas if area >= (min_area or 1)]
        assert [region.area for region in finding.regions] == areas
        assert one["num_regions"] == finding.num_regions == int(row["num_regions"]) == len(areas)
        assert one["regions"] == [region._asdict() for region in finding.regions]
        own = [place for place in places if place["path"] == row["path"]]
        assert [{name: float(place[name]) for name in one} for place, one in
                zip(own, one["regions"], strict=True)] == one["regions"]  # fmt: skip
        sheet = np.asarray(Image.open(tmp_path / "out" / row["heatmap"])).astype(int)
        assert (abs(sheet - FIRST) < 40).all(axis=2).any() == bool(areas)  # it is lossy
        some += bool(areas)
    assert 0 < some < len(findings) or min_area is None


def test_false_alarms_are_told_wherever_regions_are(trained, root, run_ad, tmp_path):
    calibration = trained.detector.config.calibration
    counts = calibration.false_regions
    assert counts.pictures == calibration.num_images == 10  # cross-fitted: all that it learnt from
    assert counts.largest
    said = calibration.promise_of_regions()
    assert f"{len(counts.largest)} of 10 had any ({counts.regions} in all" in said
    (note,) = (note for note in trained.notes if note.startswith("Threshold"))
    assert note.endswith(f". R{said[1:]}.")
    flat = lambda text: " ".join(text.replace("│", "").split())  # noqa: E731
    _, out, _ = run_ad("show", trained.run)
    assert said in flat(out)
    _, out, _ = run_ad("show", trained.run, "--json")
    assert json.loads(out)["calibration"]["false_regions"] == counts.to_json()
    _, _, err = run_ad("predict", trained.run, root / "toy/test/good", "--output", tmp_path / "a")
    assert said in flat(err)
    _, _, err = run_ad("predict", trained.run, root / "toy/test/good", "--min-area", 5000,
                       "--output", tmp_path / "b")  # fmt: skip
    assert "regions in good pictures: none of 10 had any of 5000 pixels or more" in flat(err)


def test_a_run_from_before_does_not_know(trained, root, run_ad, tmp_path):
    config = trained.run / "model/config.json"
    manifest = trained.run / "model/manifest.json"
    before = config.read_bytes(), manifest.read_bytes()
    from ad.core.saved.files import read_config, rewrite_config

    values = read_config(trained.run / "model")
    del values["calibration"]["false_regions"]
    rewrite_config(trained.run / "model", values)
    try:
        assert load(trained.run).config.calibration.false_regions is None
        _, _, err = run_ad("predict", trained.run, root / "toy/test/good", "--output", tmp_path)
        assert "regions in good pictures: not known, as none were counted" in " ".join(err.split())
    finally:
        config.write_bytes(before[0])
        manifest.write_bytes(before[1])


def test_an_area_that_cannot_be_is_told_before_anything_is_written(
    trained, root, whole, run_ad, tmp_path
):
    status, _, err = run_ad("predict", trained.run, root / "toy/test", "--min-area", 0)
    assert status == 2
    assert "--min-area" in err
    made = train("mvtec", "toy", whole, data_root=root, output_dir=tmp_path / "whole",
                 report=False)  # fmt: skip
    for blind, words in (
        (made.run, "`min_area` 5: `whole` judges pictures as a whole and has no regions"),
        (trained.run, "`min_area` must be 1 or more pixels; got -1"),
    ):
        with pytest.raises(SettingError, match=words):
            inspect(blind, [root / "toy/test"], min_area=5 if blind == made.run else -1)
        assert not (blind / "predictions").exists()
    assert inspect(made.run, [root / "toy/test/good"]).rows[0].regions is None
