"""Drift by another library, and of runs: what a calibration keeps, and what predicting tells."""

import json
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from ad.core import load, recalibrate, train
from ad.core.cli import main
from ad.core.jobs.inspect import inspect
from ad.core.thresholds.by_f1 import calibrate_by_f1
from ad.runtime.calibration import MOST_SCORES, Calibration
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.drift import compare
from ad.runtime.drift.two_samples import compare_samples


@pytest.mark.parametrize("steps", [None, 4, 1], ids=["no ties", "ties", "many ties"])
@pytest.mark.parametrize(("n", "m", "shift"), [(10, 20, 1), (99, 300, 0.4), (150, 150, -0.5)])
def test_two_samples_differ_as_scipy_says(n, m, shift, steps):
    random = np.random.default_rng(n)
    one, other = np.sort(random.normal(size=n)), np.sort(random.normal(shift, size=m))
    if steps is not None:
        one, other = np.round(one * steps), np.round(other * steps)
    found, expected = compare_samples(one, other), ks_2samp(one, other, method="exact")
    assert found.distance == pytest.approx(expected.statistic)
    assert found.chance == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.higher == (expected.statistic_sign > 0) == (shift > 0)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.4, 1.0])
@pytest.mark.parametrize(("n", "m"), [(20, 500), (99, 500), (1000, 500), (1000, 9000)])
def test_the_chance_for_large_samples_is_never_too_small(n, m, shift):
    random = np.random.default_rng(m)
    one, other = np.sort(random.normal(size=n)), np.sort(random.normal(shift, size=m))
    found, expected = compare_samples(one, other), ks_2samp(one, other, method="exact")
    assert found.distance == pytest.approx(expected.statistic)
    assert found.chance >= expected.pvalue
    if n >= 99 and expected.pvalue > 1e-4:
        assert found.chance < 1.5 * expected.pvalue


def test_a_calibration_keeps_its_scores_or_as_many_quantiles():
    scores = np.float32(np.random.default_rng(0).normal(size=300))
    kept = calibrate(scores).scores
    assert np.float32(kept).tolist() == np.sort(scores).tolist()
    assert Calibration.from_json(json.loads(json.dumps(calibrate(scores).to_json()))).scores == kept
    labelled = calibrate_by_f1(scores, scores > 1)
    assert np.float32(labelled.scores).tolist() == np.sort(scores[scores <= 1]).tolist()
    assert len(calibrate(scores, folds=10).scores) == 300
    many = np.arange(5 * MOST_SCORES)
    assert calibrate(many).scores == tuple(np.arange(2.0, 5 * MOST_SCORES, 5))
    for count in (MOST_SCORES, MOST_SCORES + 1, 2500):
        kept = np.array(calibrate(np.arange(count)).scores)
        assert kept.size == MOST_SCORES
        # Its distribution function is nowhere further off than half a part and half a score.
        ranks = (np.searchsorted(np.arange(count), kept, side="right")) / count
        middles = (np.arange(MOST_SCORES) + 0.5) / MOST_SCORES
        assert np.abs(ranks - middles).max() <= 0.5 / MOST_SCORES + 0.5 / count + 1e-12


def test_the_share_is_judged_by_the_promise_and_scores_by_those_that_it_leaves():
    random = np.random.default_rng(3)
    told = 0
    for _ in range(60):
        one = calibrate(random.normal(size=50), rate=0.3)
        found = compare(one, random.normal(size=150), rare=0.1)
        assert found.chance_above is not None
        told += found.other
    assert told <= 12  # 6 are expected; all would be if the scores were not cut off alike


@pytest.fixture
def home(tmp_path):
    """Good parts to learn from, as many more, and flat ones, as if out of focus."""
    random = np.random.default_rng(0)
    for name, count, contrast in (("parts/good", 30, 64), ("same", 30, 64), ("flat", 30, 48)):
        (tmp_path / name).mkdir(parents=True)
        for number in range(count):
            levels = random.integers(128 - contrast, 128 + contrast, (32, 32))
            Image.fromarray(levels.astype(np.uint8)).save(tmp_path / name / f"{number:03}.png")
    return tmp_path


def test_a_run_tells_what_its_own_pictures_have_shown(home, mean_picture, capsys, monkeypatch):
    run = home / "run"
    settings = {"data_root": home / "parts", "output_dir": run, "report": False}
    train("folder", "all", mean_picture, holdout="cross", false_alarms=0.1, **settings)
    kept = load(run).config.calibration.scores
    assert len(kept) == 30
    same = inspect(run, [home / "same"])
    assert (same.drift.found, same.drift.lines()) == (False, ())
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["ad", "predict", str(run), str(home / "flat")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (first,) = [line for line in capsys.readouterr().err.splitlines() if "drift" in line]
    assert first.startswith("drift: the median score of good pictures fell from 0.308")
    flat = inspect(run, [home / "flat"])
    assert first == flat.drift.lines()[0]
    told = flat.to_json()["drift"]
    assert (told["found"], told["above"], told["quartiles"][1] < 0.25) == (True, 0, True)
    # Whatever the threshold, scores of good pictures stay; those of another calibration are its.
    assert recalibrate(run, threshold=0.32).after.scores == kept
    assert inspect(run, [home / "flat"]).drift.found
    assert len(recalibrate(run, normals=home / "flat").after.scores) == 30
    assert not inspect(run, [home / "flat"]).drift.found
    assert recalibrate(run, undo=True).after.scores == kept
