"""Calibrations of before: kept, shown and taken back, whenever a process is killed."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import ad.core.jobs.calibrations
from ad.core import load, recalibrate, train
from ad.core.errors import ModelFileError, SettingError
from ad.core.report.run import read_calibrations
from ad.core.testing.pictures import make_picture


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
                 report=False).run  # fmt: skip


@pytest.fixture
def normals(tmp_path):
    folder = tmp_path / "normals"
    folder.mkdir()
    for index in range(300, 309):
        Image.fromarray(make_picture(index, size=32)[0]).save(folder / f"{index}.png")
    return folder


def of(run):
    return json.loads((run / "model/config.json").read_text())


def kept(run):
    return json.loads((run / "calibrations.json").read_text())


def test_each_undo_goes_one_back_with_its_conditions(trained, normals, monkeypatch):
    first = of(trained)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    recalibrate(trained, normals=normals, precision="bf16")
    monkeypatch.undo()
    second = of(trained)
    assert second["calibrated_on"]["threads"] == 7
    recalibrate(trained / "model", threshold=0.25)
    third = of(trained)
    assert [one["calibration"] for one in kept(trained)] == [
        first["calibration"],
        second["calibration"],
    ]
    result = recalibrate(trained, undo=True)
    assert of(trained) == second  # in bf16, by seven threads
    assert result.before.to_json() == third["calibration"]
    assert result.after.to_json() == second["calibration"]
    assert (result.checked, result.notes, result.tested) == (True, (), True)
    recalibrate(trained, undo=True)
    assert of(trained) == first
    assert kept(trained) == []
    last = json.loads((trained / "log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["after"]) == ("undo", first["calibration"])
    with pytest.raises(SettingError, match="has its first calibration, so that there is nothing"):
        recalibrate(trained, undo=True)
    assert of(trained) == first
    load(trained)


def test_a_run_without_threshold_goes_back_to_none(
    mean_picture, toy_root, tmp_path, normals, run_ad
):
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "none",
                holdout=0, report=False).run  # fmt: skip
    recalibrate(run, normals=normals)
    status, out, err = run_ad("calibrate", run, "--undo")
    assert (status, out.splitlines()[-1]) == (0, "now     no threshold")
    assert "--undo" not in err  # there is nothing more to take back
    assert load(run).threshold is None
    recalibrate(run, normals=normals)
    _, out, _ = run_ad("calibrate", run, "--undo", "--json")
    assert json.loads(out)["after"] is None


def test_a_model_alone_keeps_its_own(trained, tmp_path):
    alone = tmp_path / "alone"
    shutil.copytree(trained / "model", alone)
    before = (alone / "config.json").read_bytes()
    recalibrate(alone, threshold=1.0)
    assert len(json.loads((alone / "calibrations.json").read_text())) == 1
    load(alone)
    recalibrate(alone, undo=True)
    assert (alone / "config.json").read_bytes() == before


def test_the_latest_ones_are_kept(trained, monkeypatch):
    monkeypatch.setattr(ad.core.jobs.calibrations, "_KEPT", 3)
    for threshold in range(6):
        recalibrate(trained, threshold=threshold)
    assert [one["calibration"]["threshold"] for one in kept(trained)] == [2, 3, 4]


@pytest.mark.parametrize("undo", [False, True])
def test_a_kill_between_the_two_files_loses_and_repeats_nothing(trained, monkeypatch, undo):
    recalibrate(trained, threshold=1.0)
    recalibrate(trained, threshold=2.0)

    def dies(*args):
        raise KeyboardInterrupt

    name = "_keep" if undo else "rewrite_config"
    given = {"undo": True} if undo else {"threshold": 3.0}
    with monkeypatch.context() as patch:
        patch.setattr(ad.core.jobs.calibrations, name, dies)
        with pytest.raises(KeyboardInterrupt):
            recalibrate(trained, **given)
    now = 1.0 if undo else 2.0
    assert of(trained)["calibration"]["threshold"] == now
    recalibrate(trained, undo=True)
    assert of(trained)["calibration"]["threshold"] != now
    assert len(kept(trained)) == (0 if undo else 1)


def test_nothing_goes_beside_it(trained, normals):
    for beside, words in (
        ({"normals": normals}, "`normals` .*normals"),
        ({"threshold": 1.0, "pixel_threshold": 2.0}, "`threshold` 1.0, `pixel_threshold` 2.0"),
        ({"precision": "fp32"}, "`precision` fp32"),
        ({"false_alarms": 0.1}, "`false_alarms` 0.1"),
    ):
        with pytest.raises(SettingError, match=f"takes back .*; got {words} beside it"):
            recalibrate(trained, undo=True, **beside)


@pytest.mark.parametrize(
    "content",
    ["{", "3", '[{"calibration": null}]', '[{"calibration": {}, "calibrated_on": null, '
     '"precision": "fp32"}]', '[{"calibration": null, "calibrated_on": {"threads": "a"}, '
     '"precision": "fp32"}]', '[{"calibration": null, "calibrated_on": null, "precision": "int8"}]',
     "[" * 100_000],
)  # fmt: skip
def test_what_was_changed_is_refused(trained, content):
    before = of(trained)
    (trained / "calibrations.json").write_text(content)
    for given in ({"undo": True}, {"threshold": 1.0}):
        with pytest.raises(ModelFileError, match="does not hold the calibrations of before"):
            recalibrate(trained, **given)
    assert of(trained) == before
    assert load(trained).threshold == before["calibration"]["threshold"]


def test_ad_show_tells_them(trained, run_ad, monkeypatch, mean_picture):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = run_ad("show", trained)
    assert (status, "before" in out, "--undo" in err) == (0, False, False)
    assert "about 1 in 11 good pictures (each of 10" in out
    assert "mean-picture" in out
    recalibrate(trained, threshold=0.25)
    recalibrate(trained, threshold=0.75)
    _, out, err = run_ad("show", trained)
    rows = [line for line in out.splitlines() if "threshold 0." in line]
    assert ["0.75" in rows[0], "1 before" in rows[1], "2 before" in rows[2]] == [True] * 3
    assert "threshold 0.25" in rows[1]
    assert f"hint: to take back the one before: ad calibrate {trained} --undo" in err
    status, out, _ = run_ad("show", mean_picture)
    assert (status, "trainer" in out) == (0, True)
    status, _, err = run_ad("show", trained.parent / "nothing")
    assert (status, "is no saved model" in err) == (1, True)
    status, _, err = run_ad("show", "nothing")
    assert (status, "`nothing`" in err) == (1, True)


def test_what_was_taken_back_is_no_part_of_what_makes_the_run(trained, normals):
    lines = []
    for given in ({"threshold": 0.25}, {"threshold": 0.75}, {"threshold": 0.75}, {"undo": True}):
        recalibrate(trained, **given)
        lines.append([line.split()[-3] for line in read_calibrations(trained)])
    assert lines == [["0.25"], ["0.25", "0.75"], ["0.25", "0.75", "0.75"], ["0.25"]]
    recalibrate(trained, undo=True)
    assert read_calibrations(trained) == []


def test_the_scores_do_not_change(trained, toy_root):
    folder = toy_root / "toy/test/good"
    before = [finding.score for finding in load(trained).predict(folder)]
    recalibrate(trained, threshold=0.1)
    recalibrate(trained, undo=True)
    np.testing.assert_array_equal([f.score for f in load(trained).predict(folder)], before)
