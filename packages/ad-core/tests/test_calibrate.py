from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ad.core.errors import DataError, NotFittedError, SettingError
from ad.core.thresholds.by_f1 import calibrate_by_f1
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.by_rate import calibrate

float32 = st.floats(-(2.0**100), 2.0**100, width=32)


@pytest.mark.parametrize(
    ("num_images", "rate", "rank"),
    [
        (99, 0.01, 99),
        (199, 0.01, 198),
        (150, 0.01, 150),
        (9, 0.1, 9),
        (19, 0.1, 18),
        (4, 0.5, 3),
        (9, 0.3, 7),
    ],
)
def test_the_threshold_is_the_conformal_quantile(num_images, rate, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1, num_images + 1))
    calibration = calibrate(scores, rate=rate)
    # The rank-th smallest of 1..n, and a thousandth of the scale, which puts the median at 0.1.
    scale = (rank - np.median(scores)) / math.log(9)
    assert calibration.threshold == pytest.approx(rank + 0.001 * scale, rel=1e-12)
    assert calibration.promised_rate == pytest.approx(1 - rank / (num_images + 1))
    assert calibration.promised_rate <= rate


def test_too_few_images_give_the_maximum_and_the_honest_promise():
    calibration = calibrate(np.arange(76), rate=0.01)
    assert 75 < calibration.threshold < 75.02
    assert calibration.promised_rate == pytest.approx(1 / 77)
    assert calibration.promise() == (
        "expected false alarms: at most 1 in 77 good pictures "
        "(76 held out; 1 in 100 was asked for, which needs 99)"
    )


@pytest.mark.parametrize(
    ("num_images", "rate", "words"),
    [
        (99, 0.01, "at most 1 in 100 good pictures (99 held out)"),
        (300, 0.01, "at most 3 in 301 good pictures (300 held out)"),
        (1, 0.3, "at most 1 in 2 good pictures (1 held out; 3 in 10 was asked for, which needs 3)"),
    ],
)
def test_the_promise_says_what_the_images_allow(num_images, rate, words):
    assert calibrate(np.arange(num_images), rate=rate).promise().endswith(words)


@pytest.mark.parametrize("rate", [0.003, 0.01, 0.07, 0.3])
def test_the_number_of_images_that_a_promise_asks_for_is_just_enough(rate):
    needed = int(re.search(r"which needs (\d+)", calibrate([0.0], rate=rate).promise())[1])
    assert calibrate([0.0], rate=rate).needed == needed
    assert calibrate(np.arange(needed), rate=rate).needed is None
    assert calibrate(np.arange(needed), rate=rate).promised_rate <= rate
    assert calibrate(np.arange(needed - 1), rate=rate).promised_rate > rate


@pytest.mark.parametrize(("num_images", "rate"), [(19, 0.1), (30, 0.1), (8, 0.02)])
def test_good_pictures_are_called_anomalous_no_more_often_than_promised(num_images, rate):
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(4000, num_images + 1))  # exchangeable; the last one is new
    calibrations = [calibrate(row[:-1], rate=rate) for row in draws]
    alarms = np.mean([c.is_anomalous(x) for c, x in zip(calibrations, draws[:, -1], strict=True)])
    promised = calibrations[0].promised_rate
    # The rate is promised exactly for continuous scores; three standard errors either way.
    assert alarms == pytest.approx(promised, abs=3 * math.sqrt(promised * (1 - promised) / 4000))


def test_ties_only_make_false_alarms_rarer():
    draws = np.random.default_rng(0).integers(0, 4, (1000, 20))
    calibrations = [calibrate(row[:-1], rate=0.1) for row in draws]
    alarms = [c.is_anomalous(x) for c, x in zip(calibrations, draws[:, -1], strict=True)]
    assert 0 < np.mean(alarms) < 0.1


def test_a_score_on_the_threshold_is_good():
    calibration = calibrate([1.0, 2.0, 3.0], rate=0.25)
    assert not calibration.is_anomalous(calibration.threshold)
    assert calibration.is_anomalous(np.nextafter(calibration.threshold, 4.0))


@pytest.mark.parametrize("offset", [-100.0, 0.0, 4.0, 3000.0])
def test_last_digits_change_no_verdict_of_a_held_out_picture(offset):
    """What batches were measured to change, five times over, as a share of scale or threshold."""
    scores = offset + np.random.default_rng(0).normal(size=19).astype(np.float32)
    for rate in (0.05, 0.3):
        calibration = calibrate(scores, scores, rate=rate)
        called = sum(calibration.is_anomalous(score) for score in scores)
        digits = max(5 * 0.00018 * calibration.scale, 0.0000072 * abs(offset))
        for wobble in (-digits, digits):
            moved = scores + wobble
            assert sum(calibration.is_anomalous(score) for score in moved) == called
            assert (moved > calibration.pixel_threshold).sum() == called
        # And it hides nothing that matters: what scores higher by a fiftieth of the scale is seen.
        on_it = np.sort(scores)[len(scores) - called - 1]
        seen = on_it + max(0.02 * calibration.scale, 0.0001 * abs(offset))
        assert calibration.is_anomalous(seen)


def test_detectors_that_give_zero_to_what_is_good_see_the_least_above_it():
    calibration = calibrate([0.0] * 9, rate=0.1)
    assert not calibration.is_anomalous(0.0)
    assert calibration.is_anomalous(1e-30)


def test_normalised_scores_mark_the_threshold_and_the_typical_good_picture():
    calibration = calibrate([1.0, 2.0, 7.0], [10.0, 30.0, 20.0], rate=0.25)
    assert calibration.normalize(calibration.threshold) == 0.5
    # A thousandth of the scale above the score it was set on: logistic(x - 0.001).
    assert calibration.normalize(7.0) == pytest.approx(0.5 - 0.001 / 4, rel=1e-6)
    assert calibration.normalize(2.0) == pytest.approx(0.1 - 0.09 * 0.001, rel=1e-5)
    assert calibration.normalize(12.0) == pytest.approx(0.9 - 0.09 * 0.001, rel=1e-5)
    expected = [[0.1 - 0.00009, 0.5 - 0.00025, 0.9 - 0.00009]]
    np.testing.assert_allclose(
        calibration.normalize_map(np.float32([[20, 30, 40]])), expected, rtol=1e-5
    )


def test_maps_are_normalised_like_images():
    scores = np.random.default_rng(0).normal(size=50)
    calibration = calibrate(scores, scores, rate=0.1)
    grid = np.linspace(-9, 9, 60, dtype=np.float32).reshape(3, 20)
    expected = np.vectorize(calibration.normalize)(grid)
    normalised = calibration.normalize_map(grid)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, expected, rtol=1e-6, atol=1e-7)


@given(st.lists(float32, min_size=1, max_size=8), st.lists(float32, min_size=2, max_size=8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_normalisation_is_monotone_and_finite_whatever_was_held_out(held_out, new):
    calibration = calibrate(held_out, held_out, rate=0.2)
    assert calibration.scale > 0
    normalised = [calibration.normalize(score) for score in sorted(new)]
    assert normalised == sorted(normalised)
    assert 0 <= normalised[0] <= normalised[-1] <= 1
    assert calibration.normalize(calibration.threshold) == 0.5
    in_map = calibration.normalize_map(np.sort(np.float32(new)))
    assert np.all(np.diff(in_map) >= 0)
    assert np.all((in_map >= 0) & (in_map <= 1))


@pytest.mark.parametrize(
    "scores", [[5.0], [5.0] * 9, [0.0], [0.0] * 9, [-3.0], [1e-44], [2, 2, 2, 1]]
)
def test_held_out_scores_without_spread_still_tell_higher_from_lower(scores):
    calibration = calibrate(scores, rate=0.5)
    threshold = calibration.threshold
    step = max(abs(threshold), 1e-3) / 10
    below, at, above = (calibration.normalize(threshold + i * step) for i in (-1, 0, 1))
    assert 0 < below < at == 0.5 < above < 1


def test_when_the_threshold_is_the_median_the_whole_range_sets_the_scale():
    calibration = calibrate([1.0, 1.0, 1.0, 5.0], rate=0.5)
    assert 1.0 < calibration.threshold < 1.002
    assert calibration.normalize(5.0) == pytest.approx(0.9, abs=1e-4)


def test_a_calibration_survives_json():
    for maxima in (None, [0.5, 0.1, 0.3]):
        calibration = calibrate([0.1, 0.2, 0.7], maxima, rate=0.05)
        assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration


def test_scores_that_cannot_calibrate_are_refused():
    with pytest.raises(DataError, match=r"`scores` must be \[n\].*at least one; got shape \(0,\)"):
        calibrate([])
    with pytest.raises(DataError, match=r"`map_maxima` must be \[n\].*got shape \(1, 2\)"):
        calibrate([1.0], [[1.0, 2.0]])
    with pytest.raises(DataError, match="`scores` must be finite float32 numbers; entry 1 is nan"):
        calibrate([1.0, math.nan])
    with pytest.raises(DataError, match="`map_maxima` must be finite .* entry 0 is -inf"):
        calibrate([1.0], [-math.inf])
    with pytest.raises(DataError, match="one entry for each image; got 2 and 1"):
        calibrate([1.0, 2.0], [1.0])


@pytest.mark.parametrize("rate", [0, 1, -0.1, math.nan])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(SettingError, match=f"between 0 and 1; got {rate}"):
        calibrate([1.0], rate=rate)


def test_a_detector_without_maps_has_no_pixel_threshold():
    calibration = calibrate([1.0, 2.0])
    assert calibration.pixel_threshold is None
    with pytest.raises(NotFittedError, match="no pixel threshold.*Use `normalize`"):
        calibration.normalize_map(np.zeros((2, 2), dtype=np.float32))


def best_by_trying(scores, bad):
    """The largest F1 of any threshold, by brute force, and the highest one that reaches it."""
    tried = []
    ranked = [-np.inf, *sorted({*scores})]
    for threshold in ranked[:-1]:
        called = scores > threshold
        tried.append((2 * (called & bad).sum() / (called.sum() + bad.sum()), threshold))
    return max(tried)


@pytest.mark.parametrize("seed", range(20))
def test_the_f1_threshold_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 12, 15).astype(np.float32)
    bad = np.arange(15) < rng.integers(1, 14)
    f1, above = best_by_trying(scores, bad)
    calibration = calibrate_by_f1(scores, bad, scores[::-1])
    assert calibration.f1 == pytest.approx(f1)
    assert above <= calibration.threshold < min(scores[scores > above])
    assert (calibration.num_images, calibration.num_defective) == ((~bad).sum(), bad.sum())
    pixel_f1, _ = best_by_trying(scores[::-1], bad)
    called = scores[::-1] > calibration.pixel_threshold
    assert 2 * (called & bad).sum() / (called.sum() + bad.sum()) == pytest.approx(pixel_f1)


def test_of_equally_good_f1_thresholds_the_highest_is_taken():
    scores, bad = np.float32([1, 2, 3, 4, 5]), np.array([0, 1, 0, 0, 1], dtype=bool)
    # Called defective from 5: 2 * 1 / (1 + 2). From 2: 2 * 2 / (4 + 2), the same.
    calibration = calibrate_by_f1(scores, bad, scores)
    assert calibration.f1 == pytest.approx(2 / 3)
    assert (calibration.threshold, calibration.pixel_threshold) == (4.5, 4.5)


def test_pixels_are_judged_by_their_truth_where_it_is_known():
    maps = np.float32([[[0, 1], [2, 5]], [[4, 1], [9, 8]]])
    truth = np.array([[[0, 0], [0, 0]], [[0, 0], [1, 1]]], dtype=bool)
    maxima = maps.max(axis=(1, 2))
    calibration = calibrate_by_f1([0.0, 1.0], [False, True], maxima, (maps, truth))
    assert calibration.pixel_threshold == 6.5  # between 8, defective, and 5
    assert calibrate_by_f1([0.0, 1.0], [False, True], maxima).pixel_threshold == 7
    without = calibrate_by_f1([0.0, 1.0], [False, True], maxima, (maps, np.zeros_like(truth)))
    assert without.pixel_threshold == 7  # between the maxima 5 and 9


def test_f1_marks_the_middle_and_the_typical_good_picture():
    calibration = calibrate_by_f1([1.0, 2.0, 3.0, 7.0], [False, False, False, True])
    assert calibration.normalize(5.0) == 0.5
    assert calibration.normalize(2.0) == pytest.approx(0.1)
    assert calibration.promise() == (
        "F1 1.000 on the 3 good and 1 defective pictures it was chosen on; no rate of false alarms "
        "is promised"
    )


def test_a_defective_picture_is_found_even_where_all_must_be_called_so():
    calibration = calibrate_by_f1([1.0, 1.0], [False, True])
    assert calibration.is_anomalous(1.0 - 5e-6)  # in another batch, too


@pytest.mark.parametrize(
    ("scores", "bad", "words"),
    [
        ([1.0, 2.0], [True, True], "got 0 good, 2 defective and 2 scores"),
        ([1.0, 2.0], [False, False], "got 2 good, 0 defective and 2 scores"),
        ([1.0, 2.0], [True], "got 0 good, 1 defective and 2 scores"),
    ],
)
def test_f1_without_both_kinds_is_refused(scores, bad, words):
    with pytest.raises(DataError, match=words):
        calibrate_by_f1(scores, bad)


def test_a_calibration_by_f1_comes_back_from_json():
    calibration = calibrate_by_f1([1.0, 2.0, 3.0], [False, False, True], [1.0, 2.0, 3.0])
    assert Calibration.from_json(json.loads(json.dumps(calibration.to_json()))) == calibration
