"""Messages name what was given and what to type, in the words of the interface in use."""

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from ad.core import evaluate, load, recalibrate, train, write_report
from ad.core.__about__ import __version__
from ad.core.data.finding import locate
from ad.core.data.inventory import Inventory, LeftOut
from ad.core.errors import DataError, ModelFileError, SettingError, UnknownNameError
from ad.core.registry import get_dataset, get_tracker
from ad.core.report.run import read_calibrations
from ad.core.synth.preview import _recipe
from ad.core.testing.pictures import make_picture
from ad.core.thresholds.verdicts import calibration_notes


@pytest.fixture
def run(mean_picture, toy_root, tmp_path):
    path = tmp_path / "a run"
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=path)
    return path


@pytest.fixture
def normals(tmp_path):
    folder = tmp_path / "new normals"
    folder.mkdir()
    for index in range(300, 319):
        Image.fromarray(make_picture(index, size=32)[0]).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def stopped(run):
    (run / "model").rename(run.parent / "elsewhere")
    (run / "metrics.json").unlink()
    return run


def test_a_model_folder_stands_for_its_run(run):
    assert evaluate(run / "model").num_images == evaluate(run).num_images
    (run / "report.html").unlink()
    assert write_report(run / "model") == run / "report.html"


def test_the_hint_after_a_calibration_names_the_run_and_no_training(run, normals, run_ad):
    status, _, said = run_ad("calibrate", run / "model", "--normals", normals)
    assert status == 0
    assert f"ad evaluate '{run}'\n" in said  # it has a blank
    assert "were made before this, with verdicts of an earlier threshold" in said
    assert "of the training" not in said


@pytest.mark.parametrize(
    "use", [evaluate, load, write_report, lambda run: recalibrate(run, normals=run)]
)
def test_a_run_that_was_stopped_says_how_to_go_on(stopped, use):
    command = json.loads((stopped / "run.json").read_text())["command"]
    with pytest.raises(ModelFileError) as caught:
        use(stopped)
    assert f"The training of `{stopped}` has not ended" in str(caught.value)
    assert str(caught.value).endswith(f"{command} --resume {shlex.quote(str(stopped))}")


def test_a_finished_run_without_its_model_is_not_called_stopped(run):
    (run / "model").rename(run.parent / "elsewhere")
    with pytest.raises(ModelFileError, match="is no saved model"):
        load(run)


def test_what_to_calibrate_with_is_named_as_it_is_typed(run):
    with pytest.raises(SettingError, match=r"`--normals DIR`.*`--validation .*got none of them"):
        recalibrate(run)


def test_notes_name_options_as_they_are_typed():
    assert "`--textures DIR`" in _recipe("draem", "")[1][0]
    assert "`--holdout 0.1`" in calibration_notes(None)[0]


def test_a_folder_that_is_not_there_is_not_said_to_lack_a_manifest(run_ad, tmp_path):
    status, _, said = run_ad("data", "verify", tmp_path / "nothere")
    assert status == 1
    assert "There is no folder" in said
    assert "--write" not in said


def test_a_table_as_category_says_where_it_belongs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my p.csv").write_text("image,label\n")
    with pytest.raises(DataError, match="type `all --data-root 'my p.csv'`"):
        locate(get_dataset("csv"), "my p.csv", None)
    with pytest.raises(DataError) as caught:
        locate(get_dataset("csv"), "nothere.csv", None)
    assert "is a path" not in str(caught.value)


def test_an_unknown_tracker_says_how_to_add_one():
    with pytest.raises(UnknownNameError, match=r"wandb(.|\n)*entry point of `ad\.trackers`"):
        get_tracker("wandb")


def test_a_report_names_all_that_made_its_threshold(run, normals):
    assert read_calibrations(run) == []
    recalibrate(run, normals=normals, false_alarms=0.1)
    recalibrate(run, threshold=0.5)
    first, second = map(shlex.split, read_calibrations(run))
    assert first[:7] == ["ad", "calibrate", str(run), "--normals", str(normals),
                         "--false-alarms", "0.1"]  # fmt: skip
    assert second[3:5] == ["--threshold", "0.5"]
    page = write_report(run).read_text()
    assert "--false-alarms 0.1" in page


def test_a_training_names_the_largest_folders_that_are_left_out_and_counts_the_rest():
    sizes = [9, 7, 5, 3, 1]
    left_out = tuple(LeftOut(folder=f"f{n}", files=n, why="why", example="x") for n in sizes)
    found = Inventory(parts=(), left_out=left_out)
    head = "25: 9 in `f9` (why); 7 in `f7` (why); 5 in `f5` (why)"
    assert found.not_read(3) == f"{head}; 4 in 2 more"
    assert found.not_read() == found.not_read(5) == f"{head}; 3 in `f3` (why); 1 in `f1` (why)"
    assert len(found.to_json()["left_out"]) == 5


def test_the_version_and_help_are_asked_for_as_anywhere(run_ad):
    assert run_ad("--version")[:2] == (0, f"ad {__version__}\n")
    for words in (["-h"], ["train", "-h"], ["data", "verify", "-h"]):
        status, said, _ = run_ad(*words)
        assert status == 0
        assert "Usage" in said
