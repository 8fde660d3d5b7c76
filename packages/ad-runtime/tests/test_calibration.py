"""Calibrations as they are read and used; how they are found is tested in ad-core."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from ad.runtime.calibration import Calibration, FalseRegions
from ad.runtime.calibration.conformal import chance_of_alarms
from ad.runtime.calibration.false_regions import told
from ad.runtime.errors import DataError, ModelFileError

BY_RATE = Calibration(
    threshold=2.0, scale=0.5, pixel_threshold=3.0, pixel_scale=0.25,
    rate=0.05, promised_rate=0.25, num_images=3,
)  # fmt: skip
BY_F1 = replace(BY_RATE, rate=None, promised_rate=None, num_images=1, num_defective=1, f1=1.0)

COUNTED = replace(BY_RATE, false_regions=FalseRegions(pictures=3, regions=5, largest=(14, 2)))


@pytest.mark.parametrize("one", [BY_RATE, BY_F1, BY_RATE.by_hand(7.0), COUNTED])
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
        ({"false_regions": 3}, "`false_regions` must be null or have `pictures`.*; it is 3"),
        ({"false_regions": {"pictures": 3, "regions": 5}}, "`false_regions` must be null or have"),
        *(
            (
                {"false_regions": {"pictures": pictures, "regions": regions, "largest": largest}},
                "`false_regions` must be null or have",
            )
            for pictures, regions, largest in (
                (1, 1, [1]),
                (3, 1, [2, 1]),
                (3, 1, []),
                (3, 0, [1]),
                (3, 2, [1, 2]),
                (3, 2, [2, 0]),
                (3, 2, [2.0]),
                (3, True, [2]),
                (2, 9, [3, 2, 1]),
            )
        ),
        (
            {
                "false_regions": {"pictures": 3, "regions": 0, "largest": []},
                "pixel_threshold": None,
                "pixel_scale": None,
            },
            "`false_regions` must be null where `pixel_threshold` is",
        ),
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


def test_files_from_before_regions_were_counted_do_not_know_of_them():
    saved = COUNTED.to_json()
    del saved["false_regions"]
    assert Calibration.from_json(saved) == BY_RATE


def test_regions_counted_for_another_pixel_threshold_are_not_kept():
    assert COUNTED.by_hand(7.0).false_regions == COUNTED.false_regions
    assert COUNTED.by_hand(7.0, 8.0).false_regions is None


@pytest.mark.parametrize(
    ("counts", "min_area", "words"),
    [
        (
            COUNTED.false_regions,
            1,
            "2 of 3 had any (5 in all, the largest of 14 pixels), each by the pixel "
            "threshold that the others set",
        ),
        (
            COUNTED.false_regions,
            3,
            "1 of 3 had any of 3 pixels or more (the largest of 14 pixels), each by "
            "the pixel threshold that the others set",
        ),
        (
            COUNTED.false_regions,
            15,
            "none of 3 had any of 15 pixels or more, each by the pixel threshold "
            "that the others set",
        ),
        (None, 1, "not known, as none were counted for this pixel threshold"),
    ],
)
def test_what_was_counted_is_told(counts, min_area, words):
    assert told(counts, min_area) == f"regions in good pictures: {words}"
