import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ad.core import evaluate, load, recalibrate, train
from ad.core.cli import main
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.predict import ModelConfig
from ad.core.saved.files import read_model, rewrite_config
from ad.core.testing.pictures import make_picture
from ad.runtime.calibration.by_rate import calibrate


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
                 holdout=0.1)  # fmt: skip


def write(folder, indices, *, defect=False):
    folder.mkdir(parents=True)
    for index in indices:
        picture, mask = make_picture(index, size=32, defect=defect)
        Image.fromarray(picture).save(folder / f"{index}.png")
        if defect:
            masks = folder.parent / "masks" / folder.name
            masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(masks / f"{index}.png")
    return folder


@pytest.fixture
def normals(tmp_path):
    return write(tmp_path / "normals", range(300, 319))


@pytest.fixture
def validation(tmp_path):
    write(tmp_path / "validation/good", range(400, 406))
    write(tmp_path / "validation/dent", range(500, 504), defect=True)
    return tmp_path / "validation"


def test_the_threshold_is_that_of_the_new_pictures_and_scores_stay(trained, normals, toy_root):
    folder = toy_root / "toy/test"
    before = trained.detector.predict(folder)
    result = recalibrate(trained.run, normals=normals, false_alarms=0.1)
    detector = load(trained.run)
    findings = detector.predict(normals)
    expected = calibrate([f.score for f in findings], [f.map.max() for f in findings], rate=0.1)
    assert detector.config.calibration == result.after
    assert result.after.false_regions.pictures == 19
    assert replace(result.after, false_regions=None) == expected
    assert result.before == trained.detector.config.calibration != result.after
    assert [f.score for f in detector.predict(folder)] == [f.score for f in before]
    assert sum(f.anomalous for f in findings) <= 1


def test_sub_folders_are_searched_and_one_percent_is_the_default(trained, normals):
    result = recalibrate(trained.run, normals=normals.parent / "normals")
    assert (result.after.rate, result.after.num_images) == (0.01, 19)


def test_by_f1_good_and_defective_pictures_and_pixels_are_told_apart(trained, validation):
    calibration = recalibrate(trained.run, validation=validation).after
    assert (calibration.num_images, calibration.num_defective, calibration.f1) == (6, 4, 1.0)
    findings = load(trained.run).predict([validation / "good", validation / "dent"])
    assert [f.anomalous for f in findings] == [False] * 6 + [True] * 4
    lowest = min(f.score for f in findings[6:])
    highest = max(f.score for f in findings[:6])
    assert calibration.threshold == pytest.approx((lowest + highest) / 2)
    for finding in findings[6:]:
        truth = np.asarray(Image.open(validation / "masks/dent" / finding.path.name)) > 0
        assert ((finding.map > calibration.pixel_threshold) == truth).all()


def test_the_model_folder_alone_is_enough(trained, normals, tmp_path):
    shutil.copytree(trained.run / "model", tmp_path / "shipped")
    result = recalibrate(tmp_path / "shipped", normals=normals)
    assert load(tmp_path / "shipped").config.calibration == result.after
    assert result.log == tmp_path / "shipped/log.jsonl"
    assert not result.tested
    assert not result.checked
    assert result.notes == (
        "Without the run directory around the model it could not be checked that these pictures "
        "are new to it.",
    )


def test_the_calibration_before_is_in_the_log(trained, normals):
    old = trained.detector.config.calibration.to_json()
    new = recalibrate(trained.run, normals=normals).after.to_json()
    recalibrate(trained.run, normals=normals, false_alarms=0.3)
    lines = [json.loads(line) for line in (trained.run / "log.jsonl").read_text().splitlines()]
    entries = [line for line in lines if line["event"] == "calibrate"]
    assert [entry["before"] for entry in entries] == [old, new]
    assert entries[0]["after"] == new
    assert entries[0]["pictures"] == str(normals)


def test_figures_of_the_training_stay_and_evaluate_tells_the_new_verdicts(trained, normals):
    files = {name: (trained.run / name).read_bytes() for name in ("run.json", "metrics.json")}
    result = recalibrate(trained.run, normals=normals)
    assert result.tested
    assert all((trained.run / name).read_bytes() == content for name, content in files.items())
    again = evaluate(trained.run)
    assert again.metrics == trained.metrics
    assert again.verdicts.false_alarms < trained.evaluation.verdicts.false_alarms


def test_a_run_without_threshold_gets_one(mean_picture, toy_root, tmp_path, normals):
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, holdout=0)
    result = recalibrate(run, normals=normals)
    assert result.before is None
    assert load(run).threshold == result.after.threshold


def test_pictures_that_were_learnt_from_are_refused_and_held_out_ones_are_not(trained, toy_root):
    with pytest.raises(DataError, match="9 of 10 pictures are among those that .* has learnt from"):
        recalibrate(trained.run, normals=toy_root / "toy/train/good")
    with pytest.raises(DataError, match="such as .*000.png"):
        recalibrate(trained.run, normals=toy_root / "toy/train")
    assert recalibrate(trained.run, normals=toy_root / "toy/test/good").after.num_images == 4


def test_where_the_run_s_data_are_gone_or_changed_it_says_that_nothing_was_checked(
    run_ad, trained, normals, toy_root, tmp_path
):
    def notes():
        status, out, err = run_ad("calibrate", trained.run, "--normals", normals, "--json")
        assert status == 0
        result = json.loads(out)
        assert [f"note: {note}" in err for note in result["notes"]] == [True] * len(result["notes"])
        last = json.loads((trained.run / "log.jsonl").read_text().splitlines()[-1])
        assert last["checked"] == result["checked"] == (not result["notes"])
        return result["notes"]

    words = "so it could not be checked that these pictures are new to it."
    assert notes() == []
    (toy_root / "toy/train/good/000.png").unlink()
    there = f"The run's data have changed (then 10 good training pictures, now 9), {words}"
    assert notes() == [there]
    toy_root.rename(tmp_path / "moved")
    assert notes() == [f"The run's data are not where they were, {words}"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "either good pictures .* got none of them"),
        ({"normals": "a", "validation": "b"}, "got the first two"),
        ({"validation": "b", "false_alarms": 0.1}, "`false_alarms` 0.1 is for good pictures alone"),
    ],
)
def test_what_cannot_be_meant_is_refused(trained, given, words):
    with pytest.raises(SettingError, match=words):
        recalibrate(trained.run, **given)


def test_folders_that_cannot_work_are_refused(trained, validation, tmp_path, normals):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no folder .*nowhere"):
        recalibrate(trained.run, normals=tmp_path / "nowhere")
    with pytest.raises(DataError, match="empty` holds no pictures"):
        recalibrate(trained.run, normals=tmp_path / "empty")
    with pytest.raises(DataError, match="holds no defective pictures: choosing a threshold by F1"):
        recalibrate(trained.run, validation=normals)
    with pytest.raises(SettingError, match="`--false-alarms` .*above 0 and below 1; got 1. For"):
        recalibrate(trained.run, normals=normals, false_alarms=1.0)
    assert load(trained.run).config == trained.detector.config


def test_the_share_of_false_alarms_is_a_setting_of_training(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, false_alarms=0.4,
          holdout=0.5)  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    assert record["settings"]["false_alarms"] == 0.4
    assert "--false-alarms 0.4" in record["command"]
    calibration = load(run).config.calibration
    assert (calibration.rate, calibration.num_images) == (0.4, 5)
    with pytest.raises(SettingError, match="`false_alarms` in .* below 1; got 1. For 1 %"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, false_alarms=1.0)


@pytest.mark.parametrize("masked", [False, True])
def test_a_whole_tree_is_not_taken_as_good_pictures(trained, tmp_path, masked):
    write(tmp_path / "tree/good", range(300, 304))
    write(tmp_path / "tree/dent", [9], defect=masked)
    before = load(trained.run).threshold
    words = r"does not hold good pictures alone: `dent/9\.png` lies in it.*`--validation`"
    with pytest.raises(DataError, match=words):
        recalibrate(trained.run, normals=tmp_path / "tree")
    assert load(trained.run).threshold == before
    shutil.rmtree(tmp_path / "tree/dent")  # masks that may be left are not used
    assert recalibrate(trained.run, normals=tmp_path / "tree").after.num_images == 4


@pytest.mark.parametrize("name", ["bad/0.png", "day1/ng/0.png", "nearly_good/0.png"])
def test_folders_that_say_they_are_not_good_are_refused(trained, normals, name):
    write((normals / name).parent, [9])
    with pytest.raises(DataError, match="does not hold good pictures alone"):
        recalibrate(trained.run, normals=normals)


def test_good_pictures_may_lie_in_folders_that_say_so_or_nothing(trained, tmp_path):
    write(tmp_path / "a/good/day1", range(300, 304))
    write(tmp_path / "a/test_good", range(310, 312))
    assert recalibrate(trained.run, normals=tmp_path / "a").after.num_images == 6
    write(tmp_path / "b/day1", range(300, 304))
    write(tmp_path / "b/day2", range(310, 313))
    assert recalibrate(trained.run, normals=tmp_path / "b").after.num_images == 7


def test_masks_among_good_pictures_do_not_set_a_threshold(trained, normals):
    _, mask = make_picture(300, size=32, defect=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(normals / "300_mask.png")
    with pytest.raises(DataError, match="alone: `300_mask.png` lies in it"):
        recalibrate(trained.run, normals=normals)


@pytest.mark.parametrize(("name", "role"), [("NG", "defective pictures"), ("gt_masks", "masks")])
def test_a_folder_that_is_itself_called_otherwise_is_refused(trained, normals, name, role):
    folder = normals.rename(normals.parent / name)
    with pytest.raises(DataError, match=f"is called like a folder of {role}, and the threshold"):
        recalibrate(trained.run, normals=folder)


def test_what_is_odd_about_the_pictures_is_told(trained, normals, run_ad):
    assert recalibrate(trained.run, normals=normals).notes == ()
    for number in range(6):
        _, mask = make_picture(600 + number, size=32, defect=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(normals / f"{number}.png")
    words = "6 of 25 pictures look like masks, not like parts"
    assert any(words in note for note in recalibrate(trained.run, normals=normals).notes)
    assert words in run_ad("calibrate", trained.run, "--normals", normals)[2]


def test_where_it_was_calibrated_is_recorded(trained, normals):
    def recorded():
        return json.loads((trained.run / "model/config.json").read_text())

    here = {"device": "cpu", "threads": torch.get_num_threads()}
    assert recorded()["calibrated_on"] == here
    recalibrate(trained.run, normals=normals, precision="bf16")
    assert (recorded()["precision"], recorded()["calibrated_on"]) == ("bf16", here)


def set_config(run, **changes):
    config = json.loads((run / "model/config.json").read_text())
    del config["schema"]
    rewrite_config(run / "model", {**config, **changes})


def test_other_conditions_are_warned_of_where_there_is_a_threshold(trained, normals):
    set_config(trained.run, precision="fp32")
    load(trained.run)
    with pytest.warns(UserWarning, match="was set in fp32 on `cpu`; .* now computed in bf16 on"):
        load(trained.run, precision="bf16")
    set_config(trained.run, calibrated_on={"device": "cpu", "threads": 999})
    with pytest.warns(UserWarning, match="on `cpu` by 999 threads; .* on `cpu` by \\d+ thread"):
        load(trained.run)
    set_config(trained.run, calibrated_on={"device": "cuda", "threads": 999})
    with pytest.warns(UserWarning, match="in fp32 on `cuda`; .* in fp32 on `cpu` and differ"):
        load(trained.run)
    set_config(trained.run, calibration=None)
    load(trained.run, precision="bf16")


def test_a_threshold_set_in_the_precision_of_use_is_not_warned_of(trained, normals):
    set_config(trained.run, precision="fp32")
    recalibrate(trained.run, normals=normals, precision="bf16")
    load(trained.run)
    with pytest.warns(UserWarning, match="was set in bf16"):
        load(trained.run, precision="fp32")


def test_a_configuration_from_before_this_was_recorded_still_loads(trained, toy_root):
    config = json.loads((trained.run / "model/config.json").read_text())
    for key in ("num_defective", "f1"):
        del config["calibration"][key]
    del config["calibrated_on"], config["schema"]
    rewrite_config(trained.run / "model", config)
    loaded = load(trained.run)
    assert loaded.config.calibration == trained.detector.config.calibration
    assert loaded.config.calibrated_on is None


@pytest.mark.parametrize(
    "where", [{"device": "cpu"}, {"device": 1, "threads": 2}, {"device": "cpu", "threads": True}]
)
def test_malformed_conditions_are_refused(trained, tmp_path, where):
    _, values = read_model(trained.run / "model")
    with pytest.raises(ModelFileError, match="malformed entry `calibrated_on`"):
        ModelConfig.from_json({**values, "calibrated_on": where}, tmp_path)


@pytest.fixture
def run_ad(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ad", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return run


def test_the_command_tells_before_and_now(run_ad, trained, normals):
    status, out, err = run_ad("calibrate", trained.run, "--normals", normals)
    assert status == 0
    assert out.splitlines()[0].startswith("before  threshold ")
    assert "at most 1 in 20 good pictures (19 held out; 1 in 100 was asked for" in out
    assert f"kept in {trained.run / 'log.jsonl'}" in err
    assert f"hint: the verdicts of the new one: ad evaluate {trained.run}" in err


def test_the_command_prints_json_and_takes_labelled_pictures(run_ad, trained, validation):
    status, out, _ = run_ad("calibrate", trained.run, "--validation", validation, "--json")
    assert status == 0
    assert json.loads(out)["after"]["num_defective"] == 4
    _, out, _ = run_ad("calibrate", trained.run, "--validation", validation)
    assert "F1 1.000 on the 6 good and 4 defective pictures it was chosen on" in out


def test_the_command_shows_a_warning_without_code(trained, toy_root, tmp_path):
    set_config(trained.run, precision="fp32")
    code = """
import sys
from ad.core import ModelRegistry
from ad.core.cli import main
ModelRegistry.register("mean-picture", "ad.core.testing.mean_picture:MeanPictureTrainer", {},
                       {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False})
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", trained.run, toy_root / "toy/test/good",
         "--precision", "bf16", "--device", "cpu"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert lines[0].startswith("warning: The threshold of ")
    assert "stacklevel" not in done.stderr


def test_a_folder_beside_loose_pictures_may_be_of_defects_and_is_refused(trained, normals):
    folder = normals.rename(normals.parent / "new")  # whose name does not say that all are good
    write(folder / "dent", range(600, 603))
    with pytest.raises(DataError, match="does not hold good pictures alone: `dent/600.png`"):
        recalibrate(trained.run, normals=folder)


def test_defective_pictures_and_masks_of_the_run_are_refused_as_good_ones(trained, toy_root):
    before = load(trained.run).threshold
    for folder in (toy_root / "toy/test/square", toy_root / "toy/ground_truth/square"):
        with pytest.raises(DataError, match="4 of 4 pictures are defective parts or masks in the"):
            recalibrate(trained.run, normals=folder)
    assert load(trained.run).threshold == before


def test_copies_of_pictures_that_were_learnt_from_are_refused(trained, toy_root, normals):
    for number, path in enumerate(sorted((toy_root / "toy/train/good").iterdir())[:3]):
        shutil.copy(path, normals / f"copy{number}.png")
    with pytest.raises(DataError, match=r"[23] of 22 pictures are among those that .* has learnt"):
        recalibrate(trained.run, normals=normals)


def test_what_pictures_to_calibrate_with_show_is_told_and_a_file_counts_once(trained, normals):
    Image.new("RGB", (32, 32)).save(normals / "black.png")
    note, apart = recalibrate(trained.run, normals=normals).notes
    assert apart.startswith("Apart: 1 good picture lies far above the other")
    assert "1 of 20 pictures are the same all over" in note
    (normals / "link.png").symlink_to(normals / "300.png")
    with pytest.raises(DataError, match="are the same file"):
        recalibrate(trained.run, normals=normals)
