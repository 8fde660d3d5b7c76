"""Thresholds that a person chose: saved with a detector, or for one use."""

import csv
import json
import math

import numpy as np
import pytest

from ad.core import load, recalibrate, train, write_report
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.jobs.inspect import inspect
from ad.core.saved.files import rewrite_config
from ad.core.thresholds.by_f1 import calibrate_by_f1
from ad.core.thresholds.verdicts import calibration_notes
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.by_rate import calibrate


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


@pytest.fixture
def uncalibrated(mean_picture, toy_root, tmp_path):
    run = tmp_path / "bare"
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, holdout=0)


def test_the_scale_stays_and_the_middle_moves():
    found = calibrate([1.0, 2.0, 7.0], [10.0, 30.0, 20.0], rate=0.25)
    chosen = found.by_hand(12.0)
    assert chosen.normalize(12.0) == 0.5
    # As far above the threshold as it was before, as much above 0.5.
    assert chosen.normalize(14.5) == pytest.approx(found.normalize(found.threshold + 2.5))
    assert (chosen.is_anomalous(12.0), chosen.is_anomalous(12.1)) == (False, True)
    assert (chosen.pixel_threshold, chosen.pixel_scale) == (
        found.pixel_threshold,
        found.pixel_scale,
    )
    assert chosen.by_hand(12.0, 25.0).normalize_map(np.float32([25.0])) == 0.5


@pytest.mark.parametrize("before", [calibrate([1.0, 2.0], [1.0, 2.0], rate=0.4),
                                    calibrate_by_f1([1.0, 2.0], [False, True])])  # fmt: skip
def test_nothing_is_promised_whatever_was_before(before):
    chosen = before.by_hand(np.float32(0.5))
    assert chosen.promise() == "chosen by hand; no rate of false alarms is promised"
    regions = chosen.promise_of_regions()
    more = "" if regions is None else f" R{regions[1:]}."
    assert calibration_notes(chosen) == [f"Threshold 0.5; {chosen.promise()}.{more}"]
    assert (chosen.rate, chosen.promised_rate, chosen.f1, chosen.needed, chosen.rank) == (None,) * 5
    assert (chosen.num_images, chosen.num_defective) == (0, 0)
    assert Calibration.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"rate": 0.1, "promised_rate": 0.1},
            "`num_images` must be a whole number from 1; it is 0",
        ),
        ({"promised_rate": 0.1}, "must both be numbers or both be null"),
        ({"f1": 0.5}, "`num_images` must be a whole number from 1; it is 0"),
        ({"num_defective": 3}, "`num_images` must be a whole number from 1; it is 0"),
        ({"num_images": 3}, "or `num_images` 0 if chosen by hand; they are None, None, 0 and 3"),
        ({"num_images": -1}, "`num_images` must be a whole number from 0; it is -1"),
        ({"num_images": False}, "`num_images` must be a number; it is False"),
        ({"threshold": None}, "`threshold` must be a number; it is None"),
        ({"scale": 0}, "`scale` must be positive; it is 0"),
    ],
)
def test_a_file_that_is_not_quite_by_hand_is_refused(changes, words):
    saved = calibrate([1.0, 2.0], rate=0.4).by_hand(0.5).to_json()
    with pytest.raises(ModelFileError, match=words):
        Calibration.from_json({**saved, **changes})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, "0.5", True])
def test_what_is_no_score_is_refused(trained, value):
    shown = repr(value).replace("+", r"\+")
    words = f"must be a score, a finite float32 number such as 0.5 or -12; got {shown}"
    before = load(trained.run).config
    with pytest.raises(SettingError, match=f"`threshold` {words}"):
        recalibrate(trained.run, threshold=value)
    with pytest.raises(SettingError, match=f"`pixel_threshold` {words}"):
        recalibrate(trained.run, threshold=0.5, pixel_threshold=value)
    with pytest.raises(SettingError, match=f"`threshold` {words}"):
        load(trained.run, threshold=value)
    assert load(trained.run).config == before


def test_it_is_saved_and_the_one_before_is_in_the_log(trained, toy_root):
    before = trained.detector.config
    result = recalibrate(trained.run, threshold=0.25, pixel_threshold=0.125)
    config = load(trained.run).config
    assert config.calibration == result.after == before.calibration.by_hand(0.25, 0.125)
    assert (config.precision, config.calibrated_on) == (before.precision, before.calibrated_on)
    assert (result.before, result.tested, result.notes) == (before.calibration, True, ())
    line = json.loads(result.log.read_text().splitlines()[-1])
    assert (line["event"], line["pictures"]) == ("calibrate", None)
    assert (line["before"], line["after"]) == (
        before.calibration.to_json(),
        result.after.to_json(),
    )
    assert recalibrate(trained.run / "model", threshold=0.5).before == result.after
    again = recalibrate(trained.run, normals=toy_root / "toy/test/good", false_alarms=0.5)
    assert again.before.num_images == 0 < again.after.num_images


def test_the_report_made_again_says_who_chose(trained):
    recalibrate(trained.run, threshold=0.25)
    text = write_report(trained.run).read_text()
    assert "Threshold 0.25; chosen by hand; no rate of false alarms is promised." in text
    assert "expected false alarms" not in text
    assert "none: it was chosen by hand" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"normals": "a"}, "given \\(0.5\\) is taken as it is .* got `normals` a beside it"),
        ({"validation": "b", "false_alarms": 0.1}, "got `validation` b, `false_alarms` 0.1 beside"),
        ({"device": "cpu", "precision": "fp32"}, "got `device` cpu, `precision` fp32 beside it"),
    ],
)
def test_nothing_else_is_given_beside_it(trained, given, words):
    with pytest.raises(SettingError, match=words):
        recalibrate(trained.run, threshold=0.5, **given)


def test_a_pixel_threshold_alone_or_without_maps_is_refused(trained):
    with pytest.raises(SettingError, match="`pixel_threshold` 0.5 goes with a `threshold`"):
        recalibrate(trained.run, pixel_threshold=0.5)
    with pytest.raises(SettingError, match="`pixel_threshold` 3.0 is for detectors that had maps"):
        calibrate([1.0, 2.0]).by_hand(1.0, 3.0)


def test_a_run_without_scale_says_how_to_get_one(uncalibrated):
    words = f"`{uncalibrated.run}` has no calibration.* First .*: ad calibrate .*bare --normals DIR"
    for use in (recalibrate, load):
        with pytest.raises(SettingError, match=words):
            use(uncalibrated.run, threshold=0.5)


def test_for_one_use_verdicts_and_scores_follow_and_nothing_is_saved(trained, toy_root):
    folder = toy_root / "toy/test"
    saved = {path: path.read_bytes() for path in trained.run.rglob("*") if path.is_file()}
    usual = load(trained.run)
    scores = [finding.score for finding in usual.predict(folder)]
    chosen = sorted(scores)[5]
    once = load(trained.run, threshold=chosen)
    assert once.threshold == chosen != usual.threshold
    findings = once.predict(folder)
    assert [finding.score for finding in findings] == scores
    assert [finding.anomalous for finding in findings] == [score > chosen for score in scores]
    assert [finding.normalized > 0.5 for finding in findings] == [
        score > chosen for score in scores
    ]
    assert {path: path.read_bytes() for path in saved} == saved
    assert load(trained.run).threshold == usual.threshold


def test_what_the_commands_write_follows_it(trained, toy_root, run_ad, tmp_path):
    folder = toy_root / "toy/test"
    status, out, _ = run_ad("predict", trained.run, folder, "--threshold", "-0.5", "--json",
                            "--output", tmp_path / "out")  # fmt: skip
    result = json.loads(out)
    assert (status, result["threshold"]) == (0, -0.5)
    assert {one["verdict"] for one in result["predictions"]} == {"defective"}
    with (tmp_path / "out/predictions.csv").open() as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {"defective"}
    assert all(row.verdict == "good" for row in inspect(trained.run, [folder], threshold=9).rows)


def test_the_command_sets_it_and_says_what_it_does_not_promise(trained, run_ad):
    status, out, err = run_ad("calibrate", trained.run, "--threshold", "0.25")
    assert status == 0
    pixels = f"{trained.detector.config.calibration.pixel_threshold:.4g} for pixels"
    regions = trained.detector.config.calibration.promise_of_regions()
    assert regions is not None
    assert out.splitlines()[3:] == [
        f"now     threshold 0.25, {pixels}",
        "        chosen by hand; no rate of false alarms is promised",
        f"        {regions}",  # the pixel threshold is as it was
    ]
    assert f"hint: the verdicts of the new one: ad evaluate {trained.run}" in err
    status, _, err = run_ad("calibrate", trained.run, "--threshold", "nan")
    assert status == 1
    assert "`threshold` must be a score" in err
    status, _, err = run_ad("calibrate", trained.run, "--threshold", "half")
    assert status == 2
    words = " ".join(err.replace("│", " ").split())  # in a frame
    assert "Invalid value for '--threshold': input should be a valid number; got 'half'." in words
    assert load(trained.run).threshold == 0.25


def test_a_threshold_for_one_use_is_not_warned_of(trained):
    config = json.loads((trained.run / "model/config.json").read_text())
    del config["schema"]
    rewrite_config(trained.run / "model", {**config, "precision": "fp32"})
    with pytest.warns(UserWarning, match="was set in fp32"):
        load(trained.run, precision="bf16")
    load(trained.run, precision="bf16", threshold=0.5)  # warnings are errors here


def test_pictures_that_score_no_number_have_no_verdict_by_hand_either():
    with pytest.raises(DataError, match="must be a number; got nan"):
        calibrate([1.0, 2.0]).by_hand(1.5).is_anomalous(math.nan)
