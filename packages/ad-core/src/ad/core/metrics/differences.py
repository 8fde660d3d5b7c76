"""Which differences between detectors are more than chance: on numpy, exact or seeded.

The paired bootstrap (Efron & Tibshirani 1993, chapter 13) draws test pictures again, good ones from
the good and defective ones from the defective, and asks all detectors about the same draw: what is
easy or hard about a picture is the same for all and leaves their difference. It says what other
pictures would do, and nothing of learning again with another seed.

The sign test asks in how many of several categories one of two detectors is ahead.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
"""Of pictures, for an interval."""

CONFIDENCE = 0.95
"""How often such an interval is to have the true difference in it."""

_AT_ONCE = 1 << 21
"""Numbers that are held at once."""


class Interval(NamedTuple):
    """A difference and how far it is known."""

    difference: float
    """On the pictures that there are."""
    low: float
    """The least that it may be."""
    high: float
    """The most."""

    @property
    def differs(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


class Signs(NamedTuple):
    """In how many categories which of two is ahead."""

    ahead: int
    """Those where the first is."""
    behind: int
    """Those where the second is."""
    equal: int
    """Those where neither is; they do not count."""
    p: float
    """Chance of so uneven a split, or a more uneven one, if both were as good."""


def resampled_auroc(
    scores: NDArray[np.float64],
    labels: NDArray[np.bool_],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    """AUROC of several detectors on the same draws of pictures.

    Args:
        scores: ``[detectors, pictures]``, higher is more anomalous; nan where a detector was not
            asked about a picture.
        labels: ``[pictures]``; True for defective.
        draws: How often pictures are drawn, as many of each kind as there are.
        seed: Of the draws, the same for all detectors.

    Returns:
        ``[detectors, 1 + draws]``: first on the pictures as they are, then on each draw. nan where
        a detector has no good or no defective picture.
    """
    generator = np.random.default_rng(seed)
    count = len(labels)
    found = np.empty((len(scores), 1 + draws))
    step = max(1, _AT_ONCE // max(1, count))
    kinds = [np.flatnonzero(labels == kind) for kind in (False, True)]
    for begun in range(0, 1 + draws, step):
        weights = np.zeros((count, min(step, 1 + draws - begun)))
        for own in kinds:
            if len(own):
                shares = np.full(len(own), 1 / len(own))
                weights[own] = generator.multinomial(len(own), shares, size=weights.shape[1]).T
        if begun == 0:
            weights[:, 0] = 1
        for row, one in enumerate(scores):
            found[row, begun : begun + weights.shape[1]] = _weighted_auroc(one, labels, weights)
    return found


def _weighted_auroc(
    scores: NDArray[np.float64], labels: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """AUROC for each column of weights of the pictures ``[pictures, draws]``."""
    order = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]  # nan comes last
    bad, ranked = labels[order], scores[order]
    good, defective = weights[order[~bad]], weights[order[bad]]
    # Good pictures below each defective one: all with lower scores, and half of those that tie.
    below = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(good, axis=0)])
    lower = np.searchsorted(ranked[~bad], ranked[bad], side="left")
    not_higher = np.searchsorted(ranked[~bad], ranked[bad], side="right")
    wins = np.einsum("pd,pd->d", defective, below[lower] + below[not_higher]) / 2
    pairs = defective.sum(axis=0) * below[-1]
    share = np.full(weights.shape[1], np.nan)
    np.divide(wins, pairs, out=share, where=pairs > 0)
    return share


def interval(
    first: NDArray[np.float64], second: NDArray[np.float64], *, confidence: float = CONFIDENCE
) -> Interval | None:
    """How far one detector is ahead of another, by percentiles of the draws.

    Args:
        first: ``[1 + draws]`` of `resampled_auroc`, or means of several: the pictures as they are,
            then each draw.
        second: The same of the other, on the same draws.
        confidence: In (0, 1).

    Returns:
        None where a figure is not defined. A draw without one is left out.
    """
    differences = first - second
    drawn = differences[1:][np.isfinite(differences[1:])]
    if not (np.isfinite(differences[0]) and len(drawn)):
        return None
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences[0]), float(low), float(high))


def sign_test(first: NDArray[np.float64], second: NDArray[np.float64]) -> Signs | None:
    """The exact two-sided sign test of paired figures, such as of two detectors in each category.

    Args:
        first: ``[categories]``.
        second: The same of the other.

    Returns:
        None for fewer than two categories, which have nothing to count.
    """
    if len(first) < 2:
        return None
    ahead, behind = int((first > second).sum()), int((first < second).sum())
    total = ahead + behind
    tail = sum(math.comb(total, k) for k in range(min(ahead, behind) + 1))
    p = min(1.0, 2 * tail / 2**total)
    return Signs(ahead=ahead, behind=behind, equal=len(first) - total, p=p)
