"""Which held-out score a rate of false alarms takes, and how many false alarms that explains.

Of n held-out scores of good pictures and one new good picture's, each order is equally likely, so
the k-th smallest of the n is exceeded with probability at most 1 - k / (n + 1), however scores are
distributed. Of m new ones, as many exceed it as of m draws with a rate that is itself drawn from
Beta(n + 1 - k, k): their number is beta-binomial. Equal scores only make it fewer.

Cross-fitted scores are of several detectors, each taught without the pictures that it scores, and
promise less: see `cross_bound`.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), and Lei et al.,
"Distribution-Free Predictive Inference for Regression" (2018), section 2.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def rank_of(num_images: int, rate: Fraction) -> int:
    """Which of the sorted scores, counted from 1, is the threshold."""
    return min(num_images, math.ceil((num_images + 1) * (1 - rate)))


def promised_rate(num_images: int, rate: float) -> float:
    """The rate that so many images can promise where this one was asked for."""
    return float(1 - Fraction(rank_of(num_images, exact(rate)), num_images + 1))


def cross_bound(num_images: int, folds: int, rank: int) -> Fraction:
    """The largest rate of false alarms that cross-fitted scores leave possible.

    A new good picture is compared with each of the n by the detector that has not seen that one,
    and is called defective if it scores higher than ``rank`` of them. However scores are
    distributed, and whatever the detectors make of the pictures' order, that happens with at most
    this probability. It holds for one threshold on a detector taught with all pictures, too, where
    learning from more pictures raises no good picture's score, as with nearest neighbours that
    remember everything; elsewhere it says how far off ``1 - rank / (n + 1)`` may be.

    The least of these is taken:

    * Think of the new picture as one of a further fold of m. Of two pictures of different folds,
      scored by the detector that has seen neither fold, at most one is the higher. One that is
      called defective is not the higher of at most ``n - rank`` such pairs, so that among folds of
      m no more than ``2 (n - rank) + m`` can be, and each of those folds' pictures may as well be
      the new one. Barber and others have n / K for m, and a little more in the end.
    * Each fold by itself is a hold-out, whose p-value is right; and twice the mean of p-values is.
    * If it must be higher than all n, it must be higher than those of the largest fold.

    Args:
        num_images: Pictures that were scored, n.
        folds: Detectors that scored them, K, from 2 to n, each as many as the others or one more.
        rank: Which of the sorted scores is the threshold, counted from 1.

    Source: Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the jackknife+" (2021),
    theorems 1 and 4 and their proofs; Vovk, Wang, "Combining p-values via averaging" (2020).
    """
    higher = num_images - rank
    small, larger = divmod(num_images, folds)  # so many folds have one picture more
    bounds = [
        Fraction(2 * higher + small, small * (folds - larger + 1)),
        Fraction(2 * (higher + folds), num_images + folds),
    ]
    if larger:
        bounds.append(Fraction(2 * higher + small + 1, (small + 1) * (larger + 1)))
    if not higher:
        bounds.append(Fraction(1, small + (larger > 0) + 1))
    return min(Fraction(1), *bounds)


def exact(rate: float) -> Fraction:
    """The rate that was meant: 0.3 is 3 in 10, and its float a little less."""
    return Fraction(repr(float(rate)))


def odds(rate: Fraction) -> str:
    """A share for a person, such as ``1 in 10``."""
    return f"{rate.numerator} in {rate.denominator}"


def chance_of_alarms(held_out: int, rank: int, good: int, alarms: int) -> float:
    """The chance of at least so many false alarms on pictures that are like the held-out ones.

    Args:
        held_out: Pictures that the threshold was set on, at least 1.
        rank: Which of their sorted scores it is, counted from 1.
        good: Good pictures that were tested.
        alarms: How many of them scored above the threshold.
    """

    def log_choose(whole: int, part: int) -> float:
        return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)

    # Above the threshold are `alarms` of the tested and `held_out - rank` held-out ones.
    first = (
        log_choose(held_out - rank + alarms, alarms)
        + log_choose(rank - 1 + good - alarms, good - alarms)
        - log_choose(held_out + good, good)
    )
    above = np.arange(alarms, good)
    to_one_more = (held_out - rank + above + 1) * (good - above)
    to_one_more = np.log(to_one_more / ((above + 1) * (rank - 1 + good - above)))
    more = np.exp(first + np.cumsum(to_one_more))
    return min(1.0, math.exp(first) + float(more.sum()))
