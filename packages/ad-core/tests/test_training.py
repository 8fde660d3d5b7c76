import io
import json
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_learning import StopsAfter, files

from ad.core import Callback, evaluate, load, train
from ad.core.callbacks import LoopState
from ad.core.cli import main
from ad.core.data.samples import Sample
from ad.core.errors import (
    AdError,
    DataError,
    ModelFileError,
    OutputError,
    PictureError,
    SettingError,
)
from ad.core.figures.measure import IMAGE_METRICS, PIXEL_METRICS
from ad.core.jobs.train import _ended_early
from ad.core.testing.pictures import make_picture, write_mvtec_tree
from ad.core.thresholds.held_out import hold_out


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


def test_a_run_directory_holds_everything(trained):
    names = sorted(str(p.relative_to(trained.run)) for p in trained.run.rglob("*") if p.is_file())
    assert names == [
        "log.jsonl",
        "metrics.json",
        "model/config.json",
        "model/manifest.json",
        "model/model.safetensors",
        "report.html",
        "run.json",
        "scores.jsonl",
    ]
    events = [
        json.loads(line)["event"] for line in (trained.run / "log.jsonl").read_text().splitlines()
    ]
    assert events == ["start", "fitted", "saved", "tested"]


def test_a_blatant_defect_is_found(trained):
    assert set(trained.metrics) == {*IMAGE_METRICS, *PIXEL_METRICS}
    assert trained.metrics["image_auroc"] == 1.0
    assert trained.metrics["pixel_auroc"] > 0.99
    assert trained.seconds["fit"] > 0
    assert trained.seconds["test_per_image"] > 0


def test_the_catalogues_numbers_hold_unless_told_otherwise(trained):
    settings = json.loads((trained.run / "run.json").read_text())["settings"]
    assert (settings["img_size"], settings["batch_size"], settings["normalize"]) == (32, 4, False)
    assert settings["options"] == {"gain": 1.0}


def test_keywords_change_them(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    result = train(
        "mvtec", "toy", mean_picture, 1, 2, 24, True, data_root=toy_root, output_dir=run,
        model={"gain": 2.0}, seed=3,
    )  # fmt: skip
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["batch_size"], settings["img_size"], settings["normalize"]) == (2, 24, True)
    assert (settings["options"], settings["seed"]) == ({"gain": 2.0}, 3)
    assert result.evaluation.resolution == 24


def test_equal_settings_give_equal_files(mean_picture, toy_root, tmp_path):
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, seed=1)
    first, again = map(files, runs)
    assert first.keys() >= {"run.json", "metrics.json", "scores.jsonl", "model/model.safetensors"}
    assert first == again


def test_the_saved_model_scores_as_the_run_said(trained, toy_root):
    lines = [json.loads(line) for line in (trained.run / "scores.jsonl").read_text().splitlines()]
    loaded = load(trained.run)
    findings = loaded.predict([line["path"] for line in lines])
    assert [finding.score for finding in findings] == [line["score"] for line in lines]
    assert evaluate(trained.run).metrics == trained.metrics
    assert loaded.threshold == trained.threshold


def test_the_threshold_separates_the_verdicts(trained, toy_root):
    home = toy_root / "toy" / "test"
    bad = trained.detector.predict(home / "square")
    assert len(bad) == 4
    assert all(f.anomalous and f.normalized > 0.5 and f.score > trained.threshold for f in bad)
    (picture,) = trained.detector.predict(toy_root / "toy/train/good/000.png")
    assert picture.normalized < 0.6


def test_predicting_takes_paths_folders_and_arrays_alike(trained, toy_root):
    folder = toy_root / "toy" / "test" / "square"
    paths = sorted(folder.iterdir())
    arrays = [make_picture(1000 + n, size=32, defect=True)[0] for n in range(4)]
    by_folder = trained.detector.predict(str(folder))
    by_paths = trained.detector.predict(paths, batch_size=3)
    by_arrays = trained.detector.predict(arrays, batch_size=1)
    by_stack = trained.detector.predict(np.stack(arrays))
    scores = [[f.score for f in found] for found in (by_folder, by_paths, by_arrays, by_stack)]
    assert scores[0] == scores[1] == scores[2] == scores[3]
    assert [f.path for f in by_folder] == paths
    assert by_arrays[0].path is None
    assert by_folder[0].map.shape == (32, 32)


def test_an_unreadable_picture_is_an_error_row_in_prediction(trained, toy_root):
    folder = toy_root / "toy" / "test" / "good"
    (folder / "001.png").write_bytes(b"")
    findings = trained.detector.predict(folder)
    assert [f.error is None for f in findings] == [True, False, True, True]
    assert "001.png` is empty" in findings[1].error
    assert findings[1].score is None


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ("nowhere.png", "no picture or folder `nowhere.png`"),
        ([], "no picture to score"),
        ([3], "path, a folder, a PIL image, the bytes of a picture's file or a NumPy .*; got int"),
        (io.BytesIO(b"a"), "the bytes of a picture's file or a NumPy array; got BytesIO"),
    ],
)
def test_inputs_that_are_no_pictures_are_refused(trained, inputs, words):
    with pytest.raises(DataError, match=words):
        trained.detector.predict(inputs)


def test_a_folder_without_pictures_is_refused(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty` holds no pictures"):
        trained.detector.predict(tmp_path / "empty")


def test_a_batch_size_of_zero_is_refused(trained):
    with pytest.raises(SettingError, match="`batch_size` must be a whole number from 1; got 0"):
        trained.detector.predict(np.zeros((8, 8), np.uint8), batch_size=0)


def test_an_unreadable_picture_stops_training_with_its_path(mean_picture, toy_root, tmp_path):
    path = toy_root / "toy/train/good/003.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PictureError, match=r"003\.png` cannot be read"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


def test_without_holdout_there_is_no_verdict_and_it_says_so(mean_picture, toy_root, tmp_path):
    result = train(
        "mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run", holdout=0
    )
    assert result.threshold is None
    assert "no threshold, no verdict" in result.notes[0]
    (finding, *_) = result.detector.predict(toy_root / "toy/test/good")
    assert finding.score is not None
    assert (finding.normalized, finding.anomalous) == (None, None)


def test_held_out_pictures_are_not_learnt_from(toy_root):
    from ad.core.data.finding import collect
    from ad.core.data.mvtec import DATASET

    samples = collect(DATASET, "toy", root=toy_root, seed=0)
    learning, held_out = hold_out(samples, 0.2, seed=0)
    assert (len(learning), len(held_out)) == (8, 2)
    assert not {s.path for s in learning} & {s.path for s in held_out}
    assert all(s.split == "train" for s in learning + held_out)


def test_validation_pictures_are_what_is_held_out_where_there_are_some():
    def some(split, count, category):
        return [Sample(Path(f"{split}{n}"), 0, split, category) for n in range(count)]

    own = [*some("train", 10, "a"), *some("validation", 3, "a"), *some("test", 2, "a")]
    learning, held_out = hold_out([*own, *some("train", 10, "b")], 0.2, seed=0)
    assert Counter((s.category, s.split) for s in learning) == {
        ("a", "train"): 10,
        ("b", "train"): 8,
    }
    assert Counter((s.category, s.split) for s in held_out) == {
        ("a", "validation"): 3,
        ("b", "train"): 2,
    }
    assert hold_out(own, 0, seed=0) == (own[:10], [])


def test_a_holdout_that_leaves_nothing_is_refused(mean_picture, toy_root, tmp_path):
    words = "keeps back 10 of the 10 good pictures of `toy` that are for training"
    with pytest.raises(SettingError, match=words):
        train("mvtec", "toy", mean_picture, data_root=toy_root, holdout=0.99)


def test_several_categories_share_one_detector_and_have_their_own_figures(
    mean_picture, toy_root, tmp_path
):
    write_mvtec_tree(toy_root, "other", size=32, seed=7)
    run = tmp_path / "run"
    result = train("mvtec", "all", mean_picture, data_root=toy_root, output_dir=run)
    by_category = result.evaluation.categories
    assert set(by_category) == {"toy", "other"}
    for key, value in result.metrics.items():
        assert value == pytest.approx(np.mean([m[key] for m in by_category.values()]))
    assert load(run).config.categories == ("other", "toy")


def test_pictures_without_masks_give_image_metrics_only(mean_picture, toy_root, tmp_path):
    for mask in (toy_root / "toy/ground_truth/square").iterdir():
        mask.unlink()
    run = tmp_path / "run"
    result = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run)
    assert result.metrics["image_auroc"] == 1.0
    assert all(result.metrics[key] is None for key in PIXEL_METRICS)
    assert "No defective picture has a mask: image metrics only." in result.notes


def test_some_missing_masks_are_left_out_and_counted(mean_picture, toy_root, tmp_path):
    (toy_root / "toy/ground_truth/square/000_mask.png").unlink()
    result = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    assert result.metrics["pixel_auroc"] > 0.99
    assert any("1 of 4 defective pictures have no mask" in note for note in result.notes)


def test_good_pictures_alone_train_a_detector_without_figures(mean_picture, tmp_path):
    (tmp_path / "parts").mkdir()
    for n in range(10):
        Image.fromarray(make_picture(n, size=32)[0]).save(tmp_path / "parts" / f"{n}.png")
    run = tmp_path / "run"
    result = train("folder", "all", mean_picture, data_root=tmp_path / "parts", output_dir=run)
    assert set(result.metrics.values()) == {None}
    assert "The data have no test pictures: there are no figures." in result.notes
    assert result.threshold is not None
    with pytest.raises(DataError, match="no test pictures: there is nothing to evaluate on"):
        evaluate(run)


def test_more_epochs_than_one_pass_are_refused(mean_picture, toy_root):
    with pytest.raises(SettingError, match="learns in one pass .* `num_epochs` must be 1; got 5"):
        train("mvtec", "toy", mean_picture, num_epochs=5, data_root=toy_root)


def test_a_refused_run_writes_nothing(mean_picture, toy_root, tmp_path):
    with pytest.raises(SettingError):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
              model={"gain": -1.0})  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_an_output_folder_in_use_is_refused(trained, mean_picture, toy_root):
    with pytest.raises(OutputError, match="is not empty"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=trained.run)


def test_runs_are_numbered_when_no_folder_is_named(mean_picture, toy_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [train("mvtec", "toy", mean_picture, data_root=toy_root).run for _ in range(2)]
    assert [str(run) for run in runs] == [
        os.path.join("runs", "mvtec-toy-mean-picture"),
        os.path.join("runs", "mvtec-toy-mean-picture-2"),
    ]


def test_data_that_moved_can_be_evaluated_by_their_new_root(trained, toy_root, tmp_path):
    toy_root.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        evaluate(trained.run)
    assert evaluate(trained.run, data_root=tmp_path / "moved").metrics == trained.metrics


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="is no run directory"):
        evaluate(tmp_path)
    with pytest.raises(ModelFileError, match="is no saved model"):
        load(tmp_path)


def test_a_model_folder_alone_is_enough_to_predict(trained, toy_root, tmp_path):
    (trained.run / "model").rename(tmp_path / "shipped")
    assert load(tmp_path / "shipped").predict(toy_root / "toy/test/good")


def test_a_saved_model_of_another_version_is_refused(trained, tmp_path):
    from ad.core.predict import ModelConfig
    from ad.core.saved.files import read_model

    _, values = read_model(trained.run / "model")
    for change in ({"extra": 1}, {"precision": "fp8"}, {"img_size": "32"}, {"img_size": -5}):
        with pytest.raises(ModelFileError, match="missing, unknown or malformed entry"):
            ModelConfig.from_json({**values, **change}, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no peak memory on Windows")
def test_peak_memory_is_known(trained):
    assert trained.peak_memory > 2**20


def test_the_threshold_is_counted_on_the_test_pictures(trained):
    verdicts = trained.evaluation.verdicts
    assert (verdicts.found, verdicts.defective, verdicts.good) == (4, 4, 4)
    assert 0 <= verdicts.false_alarms <= 4


def test_a_category_of_one_kind_only_has_no_image_figures(mean_picture, toy_root, tmp_path):
    write_mvtec_tree(toy_root, "bad", size=32, good=0, seed=7)
    result = train("mvtec", "all", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    figures = result.evaluation.categories["bad"]
    assert all(figures[key] is None for key in IMAGE_METRICS)
    assert figures["pixel_auroc"] is not None  # beside the defects there are normal pixels
    assert result.metrics["image_auroc"] == result.evaluation.categories["toy"]["image_auroc"]
    assert any("No test picture of `bad` is good: image metrics" in n for n in result.notes)
    assert "The mean of image metrics is over 1 of 2 categories." in result.notes


def test_more_good_pictures_than_were_trained_on_are_not_evaluated(mean_picture, tmp_path):
    for kind, count in (("good", 10), ("dent", 2)):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for n in range(count):
            picture, _ = make_picture(n, size=32, defect=kind == "dent")
            Image.fromarray(picture).save(tmp_path / "parts" / kind / f"{n}.png")
    run = tmp_path / "run"
    train("folder", "all", mean_picture, data_root=tmp_path / "parts", output_dir=run)
    evaluate(run)
    Image.fromarray(make_picture(20, size=32)[0]).save(tmp_path / "parts/good/new.png")
    with pytest.raises(DataError, match="are not those of the data now .8 then, 8 now, or others"):
        evaluate(run)


def test_a_renamed_single_category_is_evaluated(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    result = train("mvtec", "toy", mean_picture, data_root=toy_root / "toy", output_dir=run)
    (toy_root / "toy").rename(tmp_path / "renamed")
    assert evaluate(run, data_root=tmp_path / "renamed").metrics == result.metrics


def test_a_test_picture_or_mask_that_cannot_work_is_found_before_learning(
    mean_picture, toy_root, tmp_path
):
    Image.new("L", (7, 30)).save(toy_root / "toy/ground_truth/square/001_mask.png")
    with pytest.raises(PictureError, match="001_mask.png` is 7 x 30 pixels and its picture"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_came_to_nothing_can_be_tried_again(mean_picture, toy_root, tmp_path):
    path = toy_root / "toy/train/good/003.png"
    path.write_bytes(path.read_bytes()[:-40])  # its header is whole
    with pytest.raises(PictureError, match=r"003\.png` cannot be read"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_truncated_test_picture_leaves_the_model_and_says_how_to_go_on(
    mean_picture, toy_root, tmp_path
):
    path = toy_root / "toy/test/good/001.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PictureError, match="hint: the model is saved; repair the test pictures"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    path.unlink()
    assert evaluate(tmp_path / "run").num_images == 7


@pytest.mark.parametrize(
    "content", ["{", '{"settings": {}}', '{"settings": {"dataset": 5, "category": "", "seed": 0}}']
)
def test_a_malformed_record_is_no_run(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"is no run directory: its `run\.json` cannot"):
        evaluate(tmp_path)


def test_the_recorded_command_makes_the_same_run(trained, tmp_path, monkeypatch):
    command = shlex.split(json.loads((trained.run / "run.json").read_text())["command"])
    assert command[:2] == ["ad", "train"]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "again"), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    for name in ("run.json", "metrics.json", "model/manifest.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained.run / name).read_bytes()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"category": ["toy"]}, r"`category` takes a name, `all`, or .+; got \['toy'\]\."),
        ({"category": None}, r"`category` takes .+ such as `bottle,cable`; got None\."),
        ({"model_type": object}, r"`model_type` takes a name, such as `patchcore`; got <class"),
        ({"dataset_type": 3}, r"`dataset_type` takes a name, such as `mvtec`; got 3\."),
        ({"model": ["gain=2"]}, r"`model` takes .+`model={'coreset_ratio': 0\.01}`; got \['gain"),
        (
            {"track": "mlflow"},
            r"`track` takes a list of names, such as `\['mlflow'\]`; got 'mlflow'",
        ),
        (
            {"callbacks": print},
            r"`callbacks` takes a list of `ad\.core\.Callback`, .+; got <built-in",
        ),
        ({"callbacks": Callback()}, r"such as `callbacks=\[Watch\(\)\]`; got <ad\.core\.callbacks"),
        ({"callbacks": [print]}, r"A callback must be an `ad\.core\.Callback`; got `builtin"),
    ],
)
def test_from_python_what_is_of_another_kind_is_refused_before_a_run_is_made(
    mean_picture, toy_root, tmp_path, given, words
):
    usual = {"dataset_type": "mvtec", "category": "toy", "model_type": mean_picture}
    run = tmp_path / "run"
    with pytest.raises(AdError, match=words):
        train(**{**usual, **given}, data_root=toy_root, output_dir=run)
    assert not run.exists()


def test_learning_that_ended_early_says_so_where_its_figures_are(student, toy_root, tmp_path):
    given = {"data_root": toy_root, "num_epochs": 3, "report": False}
    result = train("mvtec", "toy", student, output_dir=tmp_path / "early",
                   callbacks=[StopsAfter(1)], **given)  # fmt: skip
    (note,) = (note for note in result.notes if "ended after" in note)
    assert re.match(r"Learning ended after step (\d+) of (?!\1)\d+, as a callback asked; ", note)
    assert note in json.loads((tmp_path / "early/metrics.json").read_text())["notes"]
    whole = train("mvtec", "toy", student, output_dir=tmp_path / "whole",
                  callbacks=[StopsAfter(3)], **given)  # fmt: skip
    assert not any("ended after" in note for note in whole.notes)
    assert _ended_early(LoopState(epoch=1, step=4, total_steps=9), 2) == [
        "Learning ended after step 4 of 9, since 2 epochs brought nothing (`patience`), or as a "
        "callback asked."
    ]
