"""The two-sample test of Kolmogorov and Smirnov: how far two samples' distributions are apart.

Its statistic is the largest difference of the two empirical distribution functions. Where both
samples are of one distribution, whichever, each order of all their values is equally likely; that
gives the chance of a difference as large. Equal values only make it less likely.

Source: Hodges, "The significance probability of the Smirnov two-sample test" (1958), section 2, for
the exact chance; Kolmogorov (1933) for its limit.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_EXACT = 400  # values of both samples; all orders of more would take over 5 ms


class Difference(NamedTuple):
    """How two samples differ."""

    distance: float
    """Largest difference of their distribution functions, in [0, 1]."""
    higher: bool
    """Whether it is there that the second sample has the higher values."""
    chance: float
    """Of a difference at least as large, either way, where both are of one distribution."""


def compare_samples(first: NDArray[np.floating], second: NDArray[np.floating]) -> Difference:
    """Compare two samples.

    The chance is exact for samples without equal values that have at most 400 together. Above that
    it is the limit for large ones, which is larger, by half where one sample is 20 times the other.

    Args:
        first: ``[n]``, finite and ascending, at least one.
        second: ``[m]``, likewise.
    """
    n, m = first.size, second.size
    values = np.concatenate([first, second])
    below = np.searchsorted(first, values, side="right") * m
    # In whole numbers, so that equal differences are equal.
    apart = below - np.searchsorted(second, values, side="right") * n
    highest, lowest = int(apart.max()), int(apart.min())
    steps = max(highest, -lowest)
    if n + m <= _MOST_EXACT:
        chance = _exact_chance(n, m, steps)
    else:
        chance = _limit(steps / math.sqrt(n * m * (n + m)))
    return Difference(steps / (n * m), highest >= -lowest, chance)


def _exact_chance(n: int, m: int, steps: int) -> float:
    """The chance that a random order of both samples has somewhere so large a difference.

    Values are drawn from the two samples in order; after i of the first and j of the second the
    difference is ``|i m - j n| / (n m)``. All numbers added are positive: small chances are as
    exact as large ones.

    Args:
        n: Values of the first sample.
        m: Values of the second.
        steps: The difference, times ``n m``.
    """
    if steps == 0:
        return 1.0
    i = np.arange(n + 1)
    inside = np.zeros(n + 1)  # chance of i of the first after so many values, never so far apart
    inside[0] = 1.0
    outside = 0.0
    for drawn in range(1, n + m + 1):
        left = n + m - drawn + 1
        j = drawn - i
        of_first = (n - i) / left * inside  # from here, to i + 1
        inside = (m - j + 1) / left * inside
        inside[1:] += of_first[:-1]
        far = np.abs(i * m - j * n) >= steps
        outside += float(inside[far].sum())
        inside[far] = 0.0
    return min(1.0, outside)


def _limit(distance: float) -> float:
    """Kolmogorov's limit of the chance of a distance, times the root of ``n m / (n + m)``."""
    if distance < 0.2:  # from here the chance is below 1 by less than 1e-12
        return 1.0
    terms = ((-1) ** (k - 1) * math.exp(-2 * (k * distance) ** 2) for k in range(1, 25))
    return min(1.0, 2 * math.fsum(terms))
