"""Metrics of more pixels than fit into memory: the same to the last bit as of those that do."""

import numpy as np
import pytest
from brute_metrics import overlap_curve_area, pairs_won, stepwise_precision

from ad.core.metrics import au_spro, counting, pixel_metrics, regions, streamed, ties
from ad.core.metrics.saturated import Defect
from ad.core.metrics.streamed import LabelledPixels
from ad.core.metrics.summary import streamed_pixel_metrics
from ad.core.metrics.ties import cuts_of, group_between, group_ties
from ad.core.thresholds.by_f1 import calibrate_by_f1
from ad.runtime.spill import Column


@pytest.fixture(autouse=True)
def little_at_once(monkeypatch):
    """A few numbers are many: each way of cutting is taken by some hundred pixels."""
    monkeypatch.setattr(counting, "_AT_ONCE", 128)
    monkeypatch.setattr(streamed, "_FEWEST_AT_ONCE", 1000)
    monkeypatch.setattr(streamed, "_MOST_AT_ONCE", 1500)
    monkeypatch.setattr(ties, "_READ_AT_ONCE", 70)


def drawn(seed, levels=None, number=6):
    """Maps with defects of several sizes; scores of so many levels, or of any."""
    rng = np.random.default_rng(seed)
    maps = rng.standard_gamma(2, (number, 40, 30)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    for index in range(number - 2):  # the last two are good
        for _ in range(3):
            row, column, height, width = rng.integers(1, 20, 4)
            masks[index, row : row + height, column : column + width] = True
    maps[masks] += np.float32(1.5)
    if levels is not None:
        maps = np.floor(maps * levels) / np.float32(levels)
    return maps, masks


def pictures(maps, masks, counted=None):
    def some(masked):
        for index, (map_, mask) in enumerate(zip(maps, masks, strict=True)):
            if mask.any() or not masked:
                yield map_, mask, None if counted is None else counted[index]

    return some


@pytest.mark.parametrize("sorted_at_once", [50, 2**22])
@pytest.mark.parametrize("levels", [None, 3, 40])
@pytest.mark.parametrize("memory", ["0", "1G"])
def test_figures_are_the_same_to_the_last_bit(monkeypatch, memory, levels, sorted_at_once):
    monkeypatch.setenv("AD_MEMORY", memory)
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", sorted_at_once)
    for seed in range(3):
        maps, masks = drawn(seed, levels)
        counted = np.random.default_rng(seed).random(maps.shape) < 0.8
        for way in (None, counted):
            figures = streamed_pixel_metrics(pictures(maps, masks, way))
            assert figures == pixel_metrics(maps, masks, way)


@pytest.mark.parametrize("levels", [None, 3])
def test_figures_of_columns_on_disk_equal_brute_force(monkeypatch, levels):
    monkeypatch.setenv("AD_MEMORY", "0")
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", 50)
    maps, masks = (some[:3, :14, :12] for some in drawn(4, levels))
    found = streamed_pixel_metrics(pictures(maps, masks))
    assert found["pixel_auroc"] == pytest.approx(pairs_won(maps.ravel(), masks.ravel()), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(
        stepwise_precision(maps.ravel(), masks.ravel()), abs=1e-12
    )
    assert found["aupro"] == pytest.approx(overlap_curve_area(maps, masks, 0.3), abs=1e-12)


def test_without_a_defect_no_figure_is_defined_and_good_pictures_are_not_read():
    def some(masked):
        assert masked
        return iter(())

    assert {*streamed_pixel_metrics(some).values()} == {None}


def test_saturated_overlap_is_the_same_on_disk(monkeypatch):
    maps, masks = drawn(5, 40)
    defects = [[Defect(mask, 1 + int(mask.sum()) // 2)] if mask.any() else [] for mask in masks]
    monkeypatch.setenv("AD_MEMORY", "1G")
    expected = au_spro(maps, defects, 0.3)
    monkeypatch.setenv("AD_MEMORY", "0")
    assert au_spro(maps, defects, 0.3) == expected


def test_a_sum_of_parts_is_numpys_to_the_last_bit():
    rng = np.random.default_rng(0)
    for size in (0, 1, 128, 129, 257, 1000, 4099, 33_333):
        terms = rng.standard_normal(size) * 10.0 ** rng.integers(-9, 9, size)
        asked = []

        def part_of(part, terms=terms, asked=asked):
            asked.append(part)
            return terms[part]

        assert counting.summed(part_of, size) == np.sum(terms)
        assert [one.start for one in asked] == sorted(one.start for one in asked)


@pytest.mark.parametrize("levels", [None, 2, 30])
@pytest.mark.parametrize("weighed", [True, False])
def test_ties_that_are_cut_apart_are_those_of_one_sort(monkeypatch, levels, weighed):
    rng = np.random.default_rng(1)
    scores = rng.standard_normal(999).astype(np.float32)
    if levels:
        scores = np.round(scores * levels) / np.float32(levels)
    weights = rng.integers(1, 9, scores.size).astype(float) if weighed else None  # exact sums
    values, counts = np.unique(scores, return_counts=True)
    sums = [float(weights[scores == one].sum()) for one in values] if weighed else counts
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", 100)
    cuts = cuts_of(scores)
    assert len(cuts) >= 5
    for found, expected in zip(group_ties(scores, weights), (values, counts, sums), strict=True):
        assert found.tolist() == [*expected]
    columns = []
    for numbers in (scores, weights):
        columns.append(None if numbers is None else Column(numbers.dtype, "metrics"))
        if numbers is not None:
            columns[-1].append(numbers)
    assert cuts_of(columns[0]) == cuts
    largest = max(group_between(*columns, low, high)[1].size for low, high in cuts)
    assert largest <= 200  # what is sorted together stays small


def test_a_score_that_most_have_is_never_sorted_with_others(monkeypatch):
    """A network that ends in a sigmoid gives 1 to most pixels of a defect."""
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", 100)
    scores = np.ones(2000, np.float32)
    scores[::10] = np.linspace(0, 2, 200, dtype=np.float32)
    sorted_together = []
    real = ties._group
    monkeypatch.setattr(
        ties,
        "_group",
        lambda some, weights: sorted_together.append(some.size) or real(some, weights),
    )
    values, counts, _ = group_ties(scores, np.ones(2000))
    assert counts[values == 1].tolist() == [np.count_nonzero(scores == 1)]
    assert counts.sum() == 2000
    assert max(sorted_together) <= 200


def test_the_overlap_that_the_limit_falls_into_counts_in_part(monkeypatch):
    maps = np.array([[[3, 2, 2, 1]]], np.float32)
    masks = np.array([[[False, True, False, False]]])
    counts = regions.count_pixels(maps, masks)
    # Overlap rises from rate 1/3 to 2/3: of a limit of 1/2 the half of that rise lies below it.
    assert regions.region_overlap_area(counts, 0.5) == pytest.approx((1 / 6) ** 2 / 2 * 3 / 0.5)


@pytest.mark.parametrize("levels", [None, 2, 30])
@pytest.mark.parametrize("size", [1, 2, 499, 500])
def test_the_median_of_a_column_is_numpys(monkeypatch, levels, size):
    numbers = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    if levels:
        numbers = np.round(numbers * levels) / np.float32(levels)
    column = Column(np.float32, "metrics")
    column.append(numbers)
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", 100)
    assert ties.median_of(column) == np.median(numbers)


@pytest.mark.parametrize("kind", ["apart", "mixed", "two levels", "all alike", "none defective"])
def test_the_pixel_threshold_of_labelled_pictures_is_the_same_on_disk(monkeypatch, kind):
    rng = np.random.default_rng(3)
    truth = rng.random((5, 300)) < (0 if kind == "none defective" else 0.6)
    scores = rng.standard_normal(truth.shape).astype(np.float32)
    scores += truth * np.float32({"apart": 9, "mixed": 0.5}.get(kind, 0))
    if kind == "two levels":  # the lowest is the best threshold, so that none lies below
        scores = np.where(rng.random(truth.shape) < 0.7, np.float32(0.1), np.float32(0.7))
    if kind == "all alike":
        scores[:] = 0.3
    monkeypatch.setattr(ties, "_SORTED_AT_ONCE", 400)
    found = []
    for memory in ("0", "7K", "1G"):
        monkeypatch.setenv("AD_MEMORY", memory)
        pixels = LabelledPixels()
        for some, own in zip(scores, truth, strict=True):
            pixels.add(some, own)
        assert (pixels.columns is None) == (memory == "1G")
        found.append(calibrate_by_f1([0.0, 1.0], [False, True], [3.0, 4.0], pixels))
    assert found[0] == found[1] == found[2]
    assert found[2] == calibrate_by_f1([0.0, 1.0], [False, True], [3.0, 4.0], (scores, truth))
