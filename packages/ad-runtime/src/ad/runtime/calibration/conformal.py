"""Which held-out score a rate of false alarms takes, and how many false alarms that explains.

Of n held-out scores of good pictures and one new good picture's, each order is equally likely, so
the k-th smallest of the n is exceeded with probability at most 1 - k / (n + 1), however scores are
distributed. Of m new ones, as many exceed it as of m draws with a rate that is itself drawn from
Beta(n + 1 - k, k): their number is beta-binomial. Equal scores only make it fewer.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), and Lei et al.,
"Distribution-Free Predictive Inference for Regression" (2018), section 2.
"""

from __future__ import annotations

import math
from fractions import Fraction


def rank_of(num_images: int, rate: Fraction) -> int:
    """Which of the sorted scores, counted from 1, is the threshold."""
    return min(num_images, math.ceil((num_images + 1) * (1 - rate)))


def promised_rate(num_images: int, rate: float) -> float:
    """The rate that so many images can promise where this one was asked for."""
    return float(1 - Fraction(rank_of(num_images, exact(rate)), num_images + 1))


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

    orders = log_choose(held_out + good, good)
    # Above the threshold are `above` of the tested and `held_out - rank` held-out ones.
    chances = (
        math.exp(
            log_choose(held_out - rank + above, above)
            + log_choose(rank - 1 + good - above, good - above)
            - orders
        )
        for above in range(alarms, good + 1)
    )
    return min(1.0, math.fsum(chances))
