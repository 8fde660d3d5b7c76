from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from brute_metrics import (
    best_f1,
    flooded_regions,
    overlap_curve_area,
    pairs_won,
    precision_trapezoids,
    saturated_curve_area,
    stepwise_precision,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ad.core import metrics
from ad.core.errors import DataError, SettingError
from ad.core.metrics import Defect, counting, streamed
from ad.core.metrics.counting import RankCounts
from ad.core.metrics.ranking import count_labelled
from ad.core.metrics.regions import region_overlap_area

LIMITS = (0.05, 0.3, 1.0)


quick = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def labelled_scores(draw):
    size = draw(st.integers(2, 30))
    scores = draw(hnp.arrays(np.float32, size, elements=st.sampled_from([-2, -0.5, 0, 0.25, 7])))
    labels = draw(hnp.arrays(np.bool_, size))
    labels[:2] = True, False
    return scores, labels


@st.composite
def pictures(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)))
    maps = draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 6).map(float)))
    masks = draw(hnp.arrays(np.bool_, shape))
    masks[0, 0, :2] = True, False
    return maps, masks


@st.composite
def pictures_with_defects(draw):
    maps, masks = draw(pictures())
    defects = []
    for mask in masks:
        own = []
        for _ in range(draw(st.integers(0, 3))):
            part = mask & draw(hnp.arrays(np.bool_, mask.shape))  # parts may overlap
            if part.any():
                own.append(Defect(part, draw(st.integers(1, int(part.sum())))))
        defects.append(own)
    if not any(defects):
        defects[0] = [Defect(masks[0], 1)]
    return maps, defects


@pytest.fixture
def hand():
    """Two pictures whose figures were worked out by hand; two defects if 8-connected."""
    bad = [[9, 2, 1, 0], [2, 3, 1, 0], [0, 1, 7, 4], [0, 5, 2, 0]]
    good = [[0, 1, 2, 3], [0, 1, 2, 3], [4, 0, 0, 1], [0, 0, 5, 1]]
    masks = np.zeros((2, 4, 4), dtype=bool)
    masks[0, [0, 0, 2, 3], [0, 1, 2, 3]] = True
    return np.array([bad, good], dtype=np.float32), masks


@given(labelled_scores())
@quick
def test_ranking_metrics_equal_brute_force_with_ties(case):
    scores, labels = case
    assert metrics.auroc(scores, labels) == pytest.approx(pairs_won(scores, labels), abs=1e-12)
    assert metrics.average_precision(scores, labels) == pytest.approx(
        stepwise_precision(scores, labels), abs=1e-12
    )
    assert metrics.precision_recall_area(scores, labels) == pytest.approx(
        precision_trapezoids(scores, labels), abs=1e-12
    )
    assert metrics.f1_max(scores, labels).value == pytest.approx(best_f1(scores, labels), abs=1e-12)


@given(labelled_scores())
@quick
def test_the_f1_threshold_reaches_the_f1_it_promises(case):
    scores, labels = case
    value, threshold = metrics.f1_max(scores, labels)
    called = scores >= threshold
    reached = 2 * np.sum(called & labels) / (np.sum(called) + np.sum(labels))
    assert reached == pytest.approx(value, abs=1e-12)


@given(pictures(), st.sampled_from(LIMITS))
@quick
def test_aupro_equals_the_area_under_an_explicit_curve(case, limit):
    maps, masks = case
    expected = overlap_curve_area(maps, masks, limit)
    assert metrics.aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


@given(pictures_with_defects(), st.sampled_from(LIMITS))
@quick
def test_au_spro_equals_the_area_under_an_explicit_curve(case, limit):
    maps, defects = case
    expected = saturated_curve_area(maps, defects, limit)
    assert metrics.au_spro(maps, defects, limit) == pytest.approx(expected, abs=1e-12)


@given(pictures_with_defects())
@quick
def test_normal_pixels_counted_a_few_at_a_time_change_nothing(case):
    maps, defects = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "_MOST_AT_ONCE", 5)
        few = metrics.au_spro(maps, defects, 0.3)
    assert few == metrics.au_spro(maps, defects, 0.3)


@given(pictures(), st.sampled_from(LIMITS))
@quick
def test_regions_that_saturate_at_their_size_give_aupro(case, limit):
    maps, masks = case
    defects = []
    for mask in masks:
        own = []
        for region in flooded_regions(mask):
            part = np.zeros_like(mask)
            part[tuple(np.transpose(list(region)))] = True
            own.append(Defect(part, len(region)))
        defects.append(own)
    assert metrics.au_spro(maps, defects, limit) == pytest.approx(
        metrics.aupro(maps, masks, limit), abs=1e-12
    )


def test_finding_a_saturation_s_worth_is_finding_all_of_a_defect():
    scores = np.zeros((10, 10), dtype=np.float32)
    scores[0, :3] = 1
    mask = np.zeros((10, 10), dtype=bool)
    mask[:2] = True
    assert metrics.au_spro([scores], [[Defect(mask, 3)]], 0.05) == 1
    # Of 20 that have to be found, 3 are without a false alarm; the rest comes with all the others.
    by_hand = 0.15 + 0.85 * 0.05 / 2
    assert metrics.au_spro([scores], [[Defect(mask, 20)]], 0.05) == pytest.approx(by_hand)


def test_au_spro_without_defects_or_without_normal_pixels_is_none():
    everywhere = [Defect(np.ones((2, 2), dtype=bool), 1)]
    assert metrics.au_spro([np.eye(2)], [[]]) is None
    assert metrics.au_spro([], []) is None
    assert metrics.au_spro([np.eye(2)], [everywhere]) is None


@pytest.mark.parametrize(
    ("maps", "defects", "words"),
    [
        ([np.eye(2)], [], "must be defects for each map; got 2 maps and 1 lists"),
        ([np.eye(2)], [[Defect(np.eye(2) > 0, 3)]], "from 1 to its 2 pixels; got 3 in picture 0"),
        ([np.eye(2)], [[Defect(np.eye(2) > 0, 0)]], "from 1 to its 2 pixels; got 0 in picture 0"),
        ([np.eye(2)], [[Defect(np.eye(3) > 0, 1)]], "picture 0 must both be"),
        ([np.eye(2)], [[Defect(np.eye(2), 1)]], "mask of picture 0 must be bool"),
        ([np.eye(2) * np.nan], [[]], "Scores must be finite"),
    ],
)
def test_au_spro_refuses_what_it_cannot_count(maps, defects, words):
    some = [Defect(np.array([[True]]), 1)]
    with pytest.raises(DataError, match=words):
        metrics.au_spro([*maps, np.ones((1, 1))], [*defects, some])


@given(pictures())
@quick
def test_pixel_metrics_agree_with_each_metric_on_its_own(case):
    maps, masks = case
    figures = metrics.pixel_metrics(maps, masks)
    assert figures == {
        "pixel_auroc": metrics.auroc(maps, masks),
        "pixel_ap": metrics.average_precision(maps, masks),
        "pixel_f1max": metrics.f1_max(maps, masks).value,
        "aupro": pytest.approx(metrics.aupro(maps, masks, 0.3), abs=1e-12),
        "aupro_05": pytest.approx(metrics.aupro(maps, masks, 0.05), abs=1e-12),
    }


@pytest.mark.parametrize("sample", [1, 2, 5])
def test_counting_in_blocks_and_from_a_misleading_sample_changes_nothing(monkeypatch, sample):
    rng = np.random.default_rng(sample)
    monkeypatch.setattr(counting, "_SAMPLE", sample)
    monkeypatch.setattr(counting, "_SCORES_PER_THREAD", 7)
    monkeypatch.setattr(counting, "_usable_cpus", lambda: 3)
    for _ in range(10):
        maps = rng.integers(0, 9, (2, 6, 6)).astype(np.float32)
        masks = rng.random(maps.shape) < 0.3
        maps[0, 0, 0], masks[0, 0, 0] = 9, False  # the highest is what a sample of one sees
        assert metrics.auroc(maps, masks) == pytest.approx(
            pairs_won(maps.ravel(), masks.ravel()), abs=1e-12
        )
        for limit in LIMITS:
            expected = overlap_curve_area(maps, masks, limit)
            assert metrics.aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [1, 6])
def test_ranking_metrics_equal_scikit_learn(decimals):
    rng = np.random.default_rng(decimals)
    labels = rng.random(2000) < 0.1
    scores = np.round(rng.normal(size=2000) + labels, decimals).astype(np.float32)
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert metrics.average_precision(scores, labels) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )
    assert metrics.f1_max(scores, labels).value == pytest.approx(f1.max(), abs=1e-12)


@pytest.mark.parametrize("limit", [0.05, 0.3])
def test_aupro_of_one_defect_is_scikit_learns_partial_auroc(limit):
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:15, 7:20] = True
    scores = np.round(rng.normal(size=mask.shape) + mask, 1).astype(np.float32)
    standardised = roc_auc_score(mask.ravel(), scores.ravel(), max_fpr=limit)
    least, most = limit**2 / 2, limit  # undo the standardisation of McClish (1989)
    area = least + (2 * standardised - 1) * (most - least)
    assert metrics.aupro([scores], [mask], limit) == pytest.approx(area / limit, abs=1e-12)


def test_pixel_metrics_equal_the_figures_worked_out_by_hand(hand):
    assert metrics.pixel_metrics(*hand) == {
        "pixel_auroc": pytest.approx(5 / 7, abs=1e-15),
        "pixel_ap": pytest.approx(131 / 224, abs=1e-15),
        "pixel_f1max": pytest.approx(2 / 3, abs=1e-15),
        "aupro": pytest.approx(487 / 960, abs=1e-15),  # 727/1440 if diagonals did not connect
        "aupro_05": pytest.approx(0.5, abs=1e-15),
    }
    assert metrics.precision_recall_area(*hand) == pytest.approx(2371 / 4032, abs=1e-15)


def test_maps_without_information_get_what_chance_gets(hand):
    figures = metrics.pixel_metrics(np.full((2, 4, 4), 3.5, dtype=np.float32), hand[1])
    assert figures["pixel_auroc"] == 0.5
    assert figures["pixel_ap"] == 4 / 32
    assert figures["aupro"] == pytest.approx(0.15, abs=1e-15)
    assert figures["aupro_05"] == pytest.approx(0.025, abs=1e-15)


def test_perfect_maps_get_exactly_one(hand):
    masks = hand[1]
    assert set(metrics.pixel_metrics(masks.astype(np.float32), masks).values()) == {1.0}


@given(pictures(), st.randoms(use_true_random=False))
@quick
def test_a_strictly_increasing_transform_changes_nothing(case, random):
    maps, masks = case
    table = np.array(sorted(random.sample(range(-(2**23), 2**23), 7)), dtype=np.float32)
    transformed = table[maps.astype(int)]
    assert metrics.pixel_metrics(transformed, masks) == metrics.pixel_metrics(maps, masks)


def test_the_order_of_pictures_does_not_matter():
    rng = np.random.default_rng(0)
    sizes = [(5, 7), (6, 3), (4, 4), (8, 8)]
    maps = [rng.integers(0, 9, size).astype(np.float32) for size in sizes]
    masks = [rng.random(size) < 0.3 for size in sizes]
    shuffled = metrics.pixel_metrics(
        [maps[i] for i in (2, 0, 3, 1)], [masks[i] for i in (2, 0, 3, 1)]
    )
    assert shuffled == pytest.approx(metrics.pixel_metrics(maps, masks), abs=1e-12)


def test_maps_of_different_sizes_are_counted_together():
    maps = [np.float32([[3, 1]]), np.float32([[2, 0, 0], [0, 0, 0]])]
    masks = [np.array([[True, False]]), np.zeros((2, 3), dtype=bool)]
    assert metrics.pixel_metrics(maps, masks)["pixel_auroc"] == 1.0
    assert metrics.aupro(maps, masks, 0.3) == overlap_curve_area(maps, masks, 0.3) == 1.0


def test_inputs_are_left_as_they_were(hand):
    maps, masks = hand[0].copy(), hand[1].copy()
    metrics.pixel_metrics(maps, masks)
    metrics.aupro(maps, masks)
    metrics.image_metrics(maps[0, 0], masks[0, 0])
    np.testing.assert_array_equal(maps, hand[0])
    np.testing.assert_array_equal(masks, hand[1])


def test_float64_scores_are_not_rounded_to_float32():
    scores = np.array([1.0, 1.0 + 1e-12])
    assert metrics.auroc(scores, [False, True]) == 1.0


def test_counts_beyond_what_float32_can_hold_are_exact():
    many = 2**24  # float32 cannot tell this from one more
    counts = RankCounts(
        thresholds=np.float32([3, 2, 1]),
        positives_at=np.array([many, 1, 2]),
        negatives_above=np.array([many, many + 1, many + 2]),
        negatives_from=np.array([many + 1, many + 1, many + 3]),
        weights=np.array([0.25, 0.25, 0.5]),
        num_positives=many + 3,
        num_negatives=many + 4,
    )
    at = [many, 1, 2]
    above = [many, many + 1, many + 2]
    from_ = [many + 1, many + 1, many + 3]
    caught = [many, many + 1, many + 3]
    every, normal = many + 3, many + 4
    auroc = sum(
        n * (1 - Fraction(a + b, 2 * normal)) for n, a, b in zip(at, above, from_, strict=True)
    )
    ap = sum(n * Fraction(c, c + b) for n, c, b in zip(at, caught, from_, strict=True))
    f1 = [Fraction(2 * c, c + b + every) for c, b in zip(caught, from_, strict=True)]
    steps = [1 - Fraction(a + b, 2 * normal) for a, b in zip(above, from_, strict=True)]
    assert counts.auroc() == pytest.approx(float(auroc / every), abs=1e-15)
    assert counts.average_precision() == pytest.approx(float(ap / every), abs=1e-15)
    assert counts.f1_max() == (pytest.approx(float(max(f1)), abs=1e-15), 1.0)
    assert region_overlap_area(counts, 1.0) == pytest.approx(
        float(steps[0] / 4 + steps[1] / 4 + steps[2] / 2), abs=1e-15
    )


def test_undefined_metrics_are_none_and_silent(hand):
    maps, masks = hand
    assert metrics.image_metrics(np.zeros(0), np.zeros(0)) == {
        "image_auroc": None,
        "image_ap": None,
        "image_f1max": None,
    }
    assert set(metrics.image_metrics([1.0, 2.0], [0, 0]).values()) == {None}
    assert metrics.image_metrics([1.0, 2.0], [1, 1]) == {
        "image_auroc": None,
        "image_ap": 1.0,
        "image_f1max": 1.0,
    }
    assert set(metrics.pixel_metrics(maps, np.zeros_like(masks)).values()) == {None}
    assert set(metrics.pixel_metrics([], []).values()) == {None}
    assert metrics.aupro(maps, np.ones_like(masks)) is None
    assert metrics.precision_recall_area([1.0], [0]) is None


def test_figures_are_plain_python_numbers(hand):
    figures = metrics.pixel_metrics(*hand) | metrics.image_metrics([0.5, 1, 2], [0, 1, 0])
    assert {type(value) for value in figures.values()} == {float}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused_by_name(hand, value):
    maps, masks = hand
    maps[1, 2, 3] = value
    words = f"the map of picture 1 is {value} at row 2, column 3"
    with pytest.raises(DataError, match=words):
        metrics.pixel_metrics(maps, masks)
    with pytest.raises(DataError, match=f"score 1 is {value}"):
        metrics.image_metrics([0.0, value], [0, 1])


def test_inputs_that_do_not_fit_together_are_refused(hand):
    maps, masks = hand
    with pytest.raises(DataError, match="got 2 maps and 1 masks"):
        metrics.pixel_metrics(maps, masks[:1])
    with pytest.raises(DataError, match=r"picture 1 must both be \[H, W\].*\(4, 4\) and \(4, 3\)"):
        metrics.pixel_metrics(list(maps), [masks[0], masks[1, :, :3]])
    with pytest.raises(DataError, match=r"picture 0 must both be \[H, W\].*\(4,\) and \(4,\)"):
        metrics.aupro(maps[0], masks[0])
    with pytest.raises(
        DataError, match="mask of picture 0 must be bool; got uint8. Use `mask > 0`"
    ):
        metrics.aupro(maps, masks.astype(np.uint8) * 255)
    with pytest.raises(DataError, match=r"same shape; got \(3,\) and \(2,\)"):
        metrics.auroc([1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(DataError, match="integers 0 .* got int64 with values from 0 to 2"):
        metrics.auroc([1.0, 2.0], [0, 2])
    with pytest.raises(DataError, match="real numbers; got complex128"):
        metrics.auroc([1j, 2j], [0, 1])


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, np.nan])
def test_a_limit_that_is_no_rate_is_refused(hand, limit):
    with pytest.raises(SettingError, match=f"above 0 and at most 1; got {limit}"):
        metrics.aupro(*hand, limit)
    with pytest.raises(SettingError, match=f"above 0 and at most 1; got {limit}"):
        region_overlap_area(count_labelled([0.0, 1.0], [0, 1]), limit)


def test_importing_metrics_and_calibration_stays_light():
    code = (
        "import sys, ad.core.metrics, ad.core.thresholds.by_f1; "
        "print(sorted({'torch', 'scipy', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
