"""Which differences are chance: against brute force, a closed form, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from ad.core.metrics.differences import Interval, interval, resampled_auroc, sign_test


def drawn(seed, *, good=40, bad=30, detectors=2, shift=1.0, shared=0.7):
    """Scores of equally good detectors that agree on what is hard."""
    rng = np.random.default_rng(seed)
    labels = np.arange(good + bad) >= good
    hard, own = rng.normal(size=good + bad), rng.normal(size=(detectors, good + bad))
    return shared * hard + np.sqrt(1 - shared**2) * own + shift * labels, labels


def by_pairs(scores, labels):
    """AUROC by comparing each defective picture with each good one."""
    gaps = scores[labels][:, None] - scores[~labels][None]
    return float(((gaps > 0) + 0.5 * (gaps == 0)).mean())


def test_each_draw_is_the_auroc_of_the_pictures_that_were_drawn():
    """Pictures are counted as often as they were drawn; ties count half."""
    scores, labels = drawn(0, good=9, bad=7)
    scores = np.round(scores)
    found = resampled_auroc(scores, labels, draws=50, seed=3)
    rng = np.random.default_rng(3)
    parts = [rng.multinomial(n, np.full(n, 1 / n), size=51) for n in (9, 7)]
    for draw in range(51):
        times = np.concatenate([part[draw] for part in parts]) if draw else np.ones(16, int)
        again = [by_pairs(np.repeat(one, times), np.repeat(labels, times)) for one in scores]
        np.testing.assert_allclose(found[:, draw], again, rtol=1e-12)


def test_a_detector_is_asked_about_its_own_pictures_alone():
    scores, labels = drawn(1)
    some = np.random.default_rng(0).random(len(labels)) < 0.6
    partial = np.where(some, scores, np.nan)
    found = resampled_auroc(partial, labels, draws=20)
    expected = [by_pairs(one[some], labels[some]) for one in scores]
    np.testing.assert_allclose(found[:, 0], expected)
    assert np.isnan(resampled_auroc(partial, labels | True, draws=2)).all()


def test_draws_are_many_or_few_at_once_alike(monkeypatch):
    scores, labels = drawn(2)
    whole = resampled_auroc(scores, labels, draws=2000)
    monkeypatch.setattr("ad.core.metrics.differences._AT_ONCE", 5000)
    parts = resampled_auroc(scores, labels, draws=2000)
    assert np.array_equal(parts[:, 0], whole[:, 0])
    np.testing.assert_allclose(parts[:, 1:].std(1), whole[:, 1:].std(1), rtol=0.1)


def test_the_spread_of_draws_is_that_of_delong():
    """DeLong's closed form for the difference of two AUROCs on the same pictures."""
    scores, labels = drawn(4, good=120, bad=90)
    gaps = scores[:, labels][:, :, None] - scores[:, ~labels][:, None]
    wins = (gaps > 0) + 0.5 * (gaps == 0)
    of_bad, of_good = wins.mean(2), wins.mean(1)
    variance = np.cov(of_bad[0] - of_bad[1]) / 90 + np.cov(of_good[0] - of_good[1]) / 120
    found = resampled_auroc(scores, labels)
    difference = found[0] - found[1]
    assert difference[1:].std() == pytest.approx(np.sqrt(variance), rel=0.06)
    assert interval(*found).difference == pytest.approx(wins[0].mean() - wins[1].mean())


@pytest.mark.parametrize("better", [0.0, 0.4])
def test_an_interval_has_the_true_difference_in_it_as_often_as_it_promises(better):
    """Of detectors that are as good, and of one that is better; 200 tests with other pictures."""
    true = stats.norm.cdf((1 + better) / np.sqrt(2)) - stats.norm.cdf(1 / np.sqrt(2))
    held = 0
    for seed in range(200):
        scores, labels = drawn(seed)
        scores[0] += better * labels
        one = interval(*resampled_auroc(scores, labels, draws=300, seed=seed))
        held += one.low <= true <= one.high
    # With 95 % of 200, fewer than 179 or more than 198 come less than once in a thousand times.
    assert 179 <= held <= 198


def test_a_difference_is_real_where_0_is_outside():
    ones, zeros = np.ones(101), np.zeros(101)
    assert interval(ones, zeros) == Interval(1.0, 1.0, 1.0)
    assert interval(ones, zeros).differs
    assert interval(zeros, ones).differs
    assert not interval(ones, ones).differs
    spread = np.concatenate([[0.3], np.linspace(-1, 1, 201)])
    np.testing.assert_allclose(interval(spread, np.zeros(202)), (0.3, -0.95, 0.95))
    assert interval(np.full(5, np.nan), np.zeros(5)) is None


@pytest.mark.parametrize(("ahead", "behind"), [(9, 3), (3, 9), (6, 6), (1, 1), (5, 0), (0, 1)])
def test_signs_are_those_of_the_binomial_test(ahead, behind):
    first = np.array([1.0] * ahead + [0.0] * behind + [0.5] * 2)
    found = sign_test(first, np.full(len(first), 0.5))
    assert (found.ahead, found.behind, found.equal) == (ahead, behind, 2)
    assert found.p == pytest.approx(stats.binomtest(ahead, ahead + behind).pvalue, rel=1e-12)


def test_without_several_categories_no_sign_is_counted():
    assert sign_test(np.array([0.9]), np.array([0.8])) is None
    assert sign_test(np.ones(3), np.ones(3)) == (0, 0, 3, 1.0)
