"""What cross-fitted scores promise: by hand, by counting all tournaments, and in simulations."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from ad.core.errors import ModelFileError
from ad.core.thresholds.verdicts import Verdicts, false_alarm_notes
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.calibration.conformal import cross_bound


def most_called_defective(folds, rank, counted):
    """Of all outcomes of games between pictures of different folds, the most that win `rank`."""
    fold_of = [fold for fold, size in enumerate(folds) for _ in range(size)]
    games = [
        (a, b)
        for a, b in itertools.combinations(range(len(fold_of)), 2)
        if fold_of[a] != fold_of[b]
    ]
    firsts, seconds = np.array(games).T
    outcomes = np.arange(2 ** len(games))[:, None] >> np.arange(len(games)) & 1
    wins = np.zeros((len(outcomes), len(fold_of)), dtype=int)
    for game, (a, b) in enumerate(zip(firsts, seconds, strict=True)):
        wins[:, a] += outcomes[:, game]
        wins[:, b] += 1 - outcomes[:, game]
    among = np.isin([folds[fold] for fold in fold_of], counted)
    return Fraction(int(((wins >= rank) & among).sum(axis=1).max()), int(among.sum()))


@pytest.mark.parametrize(("sizes"), [(1, 1), (1, 1, 1), (1, 1, 1, 1), (2, 2), (1, 2)])
def test_the_bound_is_what_the_worst_tournament_gives(sizes):
    num_images, folds = sum(sizes), len(sizes)
    for rank in range(1, num_images + 1):
        worst = min(
            most_called_defective((*sizes, further), rank, further) for further in set(sizes)
        )
        if rank == num_images:  # the largest fold is a hold-out by itself
            worst = min(worst, Fraction(1, max(sizes) + 1))
        bound = cross_bound(num_images, folds, rank)
        assert bound >= worst
        if len(set(sizes)) == 1 and rank == num_images:  # the largest score: nothing is given away
            assert bound == worst


@pytest.mark.parametrize(
    ("num_images", "folds"), [(12, 12), (20, 20), (100, 10), (60, 10), (30, 2)]
)
@pytest.mark.parametrize("rank_below", [0, 1, 3])
def test_the_bound_is_never_above_the_paper_s(num_images, folds, rank_below):
    rank = num_images - rank_below
    alpha = 1 - Fraction(rank, num_images + 1)
    each = Fraction(num_images, folds)
    more = min(2 * (1 - Fraction(1, folds)) / (each + 1), (1 - 1 / each) / (folds + 1))
    assert alpha <= cross_bound(num_images, folds, rank) <= 2 * alpha + more


def test_the_bound_in_numbers():
    assert cross_bound(12, 12, 12) == Fraction(1, 13)  # as of 12 held out
    assert cross_bound(31, 10, 31) == Fraction(1, 10)  # 1 in 32 about; nine folds of 3
    assert cross_bound(100, 10, 100) == Fraction(1, 11)
    assert cross_bound(200, 10, 199) == Fraction(22, 220)
    assert cross_bound(10, 2, 10) == Fraction(1, 6)  # one fold of 5 by itself
    assert cross_bound(4, 2, 1) == 1


DRAWS = 2000
DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy": lambda rng, shape: rng.standard_t(2, size=shape),
    "skewed": lambda rng, shape: rng.exponential(size=shape),
    "two kinds": lambda rng, shape: rng.normal(size=shape) + 8 * (rng.random(shape) < 0.1),
    "ties": lambda rng, shape: rng.integers(0, 12, size=shape).astype(float),
}


def fold_numbers(num_images):
    """As many folds as pictures up to 20, else 10; draws are in no order, so any folds will do."""
    return np.arange(num_images) % (num_images if num_images <= 20 else 10)


def nearest(values, learnt, mask):
    """Distance of each value to the nearest that was learnt: ``[D, A]``, ``[D, n]``, ``[A, n]``."""
    distances = np.abs(values[:, :, None] - learnt[:, None, :])
    return np.where(mask, distances, np.inf).min(axis=2)


def gaussian(values, learnt, mask):
    """Distance of each value to the mean of what was learnt, in its deviations."""
    count = mask.sum(axis=1)
    mean = learnt @ mask.T / count
    variance = (learnt**2) @ mask.T / count - mean**2
    return np.abs(values - mean) / np.sqrt(np.maximum(variance, 1e-9))


@pytest.mark.parametrize("detector", [nearest, gaussian])
@pytest.mark.parametrize("num_images", [12, 31])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_drawn_pictures_give_so_many_false_alarms(detector, num_images, name):
    rng = np.random.default_rng([num_images, sorted(DISTRIBUTIONS).index(name)])
    drawn = DISTRIBUTIONS[name](rng, (DRAWS, num_images + 8))
    good, new = drawn[:, :num_images], drawn[:, num_images:]
    fold = fold_numbers(num_images)
    unseen = (fold[:, None] != fold).astype(float)
    scores = detector(good, good, unseen)
    for rate in (0.01, 0.2):
        calibration = calibrate(scores[0], rate=rate, folds=fold.max() + 1)
        rank, expected = calibration.rank, calibration.promised_rate
        threshold = np.sort(scores, axis=1)[:, rank - 1]
        whole = detector(new, good, np.ones((new.shape[1], num_images)))
        alarms = (whole > threshold[:, None]).mean(axis=1)
        # What the bound is of: a new picture against each, by who has not seen that one.
        higher = np.zeros((DRAWS, new.shape[1]), dtype=int)
        for number in range(fold.max() + 1):
            mask = np.tile(fold != number, (new.shape[1], 1)).astype(float)
            own = scores[:, None, fold == number]
            higher += (detector(new, good, mask)[:, :, None] > own).sum(axis=2)
        called = (higher >= rank).mean(axis=1)
        bound = float(calibration.bound)
        assert called.mean() <= bound + 3 * called.std() / np.sqrt(DRAWS)
        if detector is nearest:  # more pictures raise no score
            assert (alarms <= called).all()
        error = 3 * alarms.std() / np.sqrt(DRAWS)
        assert alarms.mean() <= 1.25 * expected + error
        if name not in ("ties", "two kinds"):  # there, fewer
            assert alarms.mean() >= 0.6 * expected - error


def test_it_is_said_as_an_estimate():
    scores = np.arange(31.0)
    few = calibrate(scores, rate=0.01, folds=10)
    assert few.promise() == (
        "expected false alarms: about 1 in 32 good pictures (each of 31 scored by one of 10 "
        "detectors that had not seen it; at most 1 in 10 where learning from more pictures raises "
        "no score; 1 in 100 was asked for, which needs 99)"
    )
    alone = calibrate(scores[:12], rate=0.2, folds=12)
    assert alone.promise() == (
        "expected false alarms: about 2 in 13 good pictures (each of 12 scored by a detector that "
        "had not seen it; at most 3 in 13 where learning from more pictures raises no score)"
    )
    (note,) = false_alarm_notes(few, Verdicts(0, 0, 17, 18), 1)
    assert "where about 1 in 32 were expected, and 1 in 10 at most." in note
    assert "So these are not like them, or learning from all pictures has raised scores: " in note
    by_hand = few.by_hand(3.0)
    assert (by_hand.folds, by_hand.bound) == (0, None)
    assert Calibration.from_json(by_hand.to_json()) == by_hand


def test_it_is_kept_in_files_and_those_from_before_are_read():
    saved = calibrate(np.arange(12.0), rate=0.2, folds=12).to_json()
    assert saved["folds"] == 12
    assert Calibration.from_json(saved).folds == 12
    before = calibrate(np.arange(12.0), rate=0.2).to_json()
    del before["folds"]
    assert Calibration.from_json(before).promise().startswith("expected false alarms: at most 2 in")
    for folds, words in (
        (1, "`folds` must be 0, or with a `rate` from 2 to the 12 images; it is 1"),
        (13, "from 2 to the 12 images; it is 13"),
        (-1, "`folds` must be a whole number from 0; it is -1"),
        (2.5, "`folds` must be a whole number from 0; it is 2.5"),
        (None, "`folds` must be a number; it is None"),
    ):
        with pytest.raises(ModelFileError, match=words):
            Calibration.from_json({**saved, "folds": folds})
    by_f1 = {**saved, "rate": None, "promised_rate": None, "f1": 0.5, "num_defective": 3}
    with pytest.raises(ModelFileError, match="`folds` must be 0, or with a `rate`"):
        Calibration.from_json(by_f1)
