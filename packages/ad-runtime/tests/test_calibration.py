"""Calibrations as they are read and used; how they are found is tested in ad-core."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import chance_of_alarms
from ad.runtime.errors import DataError, ModelFileError

BY_RATE = Calibration(
    threshold=2.0, scale=0.5, pixel_threshold=3.0, pixel_scale=0.25,
    rate=0.05, promised_rate=0.25, num_images=3,
)  # fmt: skip
BY_F1 = replace(BY_RATE, rate=None, promised_rate=None, num_images=1, num_defective=1, f1=1.0)


@pytest.mark.parametrize("one", [BY_RATE, BY_F1, BY_RATE.by_hand(7.0)])
def test_all_kinds_survive_json(one):
    assert Calibration.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_score_on_the_threshold_is_good_and_a_half():
    assert not BY_RATE.is_anomalous(2.0)
    assert BY_RATE.is_anomalous(np.nextafter(2.0, 3))
    assert BY_RATE.normalize(2.0) == 0.5


@pytest.mark.parametrize("distance", [-3.0, -0.5, 0.1, 2.0])
def test_scores_and_maps_go_to_0_to_1_by_the_logistic_curve(distance):
    expected = 1 / (1 + math.exp(-distance))
    assert BY_RATE.normalize(2.0 + distance * 0.5) == pytest.approx(expected)
    map_ = np.full((2, 3), 3.0 + distance * 0.25, np.float32)
    found = BY_RATE.normalize_map(map_)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.full((2, 3), expected), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sclae": 1.0}, "unknown keys `sclae`; known are .*`scale`"),
        ({"threshold": ...}, "missing keys `threshold`"),
        ({"threshold": "0.5"}, "`threshold` must be a number; it is '0.5'"),
        ({"threshold": None}, "`threshold` must be a number; it is None"),
        ({"threshold": True}, "`threshold` must be a number; it is True"),
        ({"threshold": math.nan}, "`threshold` must be finite; it is nan"),
        ({"scale": 0.0}, "`scale` must be positive; it is 0.0"),
        ({"pixel_scale": -1.0}, "`pixel_scale` must be positive; it is -1.0"),
        ({"pixel_scale": None}, "must both be numbers or both be null"),
        ({"num_images": 2.0}, "`num_images` must be a whole number from 1; it is 2.0"),
        ({"num_images": 0}, "`num_images` must be a whole number from 1; it is 0"),
        ({"rate": 1.0}, "`rate` must be between 0 and 1; it is 1.0"),
        ({"promised_rate": 0.01}, "`promised_rate` must be 0.25 for 3 images at a rate of 0.05"),
    ],
)
def test_a_changed_calibration_file_is_refused(changes, words):
    data = BY_RATE.to_json() | changes
    data = {name: value for name, value in data.items() if value is not ...}
    with pytest.raises(ModelFileError, match=words):
        Calibration.from_json(data)


def test_a_score_that_is_no_number_never_passes_as_good():
    for judge in (BY_RATE.is_anomalous, BY_RATE.normalize):
        with pytest.raises(DataError, match="A score must be a number; got nan"):
            judge(math.nan)
    with pytest.raises(DataError, match="An anomaly map must hold numbers; got nan"):
        BY_RATE.normalize_map(np.float32([[0, np.nan]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rate": 0.1}, "`rate` and `promised_rate` must both be numbers or both be null"),
        ({"f1": None}, "must have a `rate`, or an `f1`"),
        ({"num_defective": 0}, "must have a `rate`, or an `f1`"),
        ({"f1": 1.5}, "`f1` must be above 0 and at most 1; it is 1.5"),
        ({"num_defective": -1}, "`num_defective` must be a whole number from 0; it is -1"),
        ({"threshold": 10**400}, "`threshold` must be finite; it is a whole number beyond any"),
        ({"threshold": float("nan")}, "`threshold` must be finite; it is nan"),
    ],
)
def test_a_malformed_calibration_by_f1_is_refused(change, words):
    saved = BY_F1.to_json()
    with pytest.raises(ModelFileError, match=words):
        Calibration.from_json({**saved, **change})


@pytest.mark.parametrize(("held_out", "good"), [(1, 1), (1, 4), (4, 1), (3, 4), (5, 3), (4, 5)])
def test_the_chance_of_alarms_is_that_over_all_orders(held_out, good):
    orders = list(itertools.combinations(range(held_out + good), held_out))
    for rank in range(1, held_out + 1):
        # Where the held-out scores stand among all; the others that are above the rank-th.
        above = [good - (order[rank - 1] - (rank - 1)) for order in orders]
        for alarms in range(good + 1):
            share = sum(count >= alarms for count in above) / len(orders)
            assert chance_of_alarms(held_out, rank, good, alarms) == pytest.approx(share)
