"""Good pictures whose scores lie far above all others, and so set the threshold by themselves.

One failed picture among good ones is enough: the threshold is above its score then, and defects
below it are called good. Knows nothing of detectors; numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ad.runtime.calibration import Calibration
from ad.runtime.errors import calibrate_command

APART = "Apart: "
"""How the note begins."""
_RARE = 0.001
"""Chance of a gap, of scores with an exponential tail, below which it is told."""
_FEWEST = 5
"""Pictures below which nothing can be said of their spread."""
_MOST = 10
"""At most one picture in so many is taken for one that is apart."""


def apart(ascending: Sequence[float], rank: int) -> int:
    """How many of the highest scores are far above all others and set the threshold; 0 for none.

    The gap below them is held against the distance from the median to the highest score below the
    gap. Of n scores with an exponential tail the gap below the k-th highest is exponential with
    rate k, and independent of those beneath (Rényi 1953), so that the chance of so large a gap is
    known whatever the scores' unit is. Tails of scores that thin out faster have such a gap more
    rarely still.

    Args:
        ascending: ``[n]``, scores of good pictures.
        rank: Which of them, from 1, sets the threshold.
    """
    count, middle = len(ascending), len(ascending) // 2
    if count < _FEWEST:
        return 0
    fewest = count - rank + 1
    for high in range(fewest, max(fewest, count // _MOST) + 1):
        below = count - high - 1
        if below <= middle:
            return 0
        spread = ascending[below] - ascending[middle]
        if spread <= 0:  # of equal scores, any other would be far away
            return 0
        ratio = (ascending[below + 1] - ascending[below]) / spread
        rates = range(high + 1, count - middle)
        if math.prod(rate / (rate + high * ratio) for rate in rates) < _RARE:
            return high
    return 0


def apart_notes(calibration: Calibration | None) -> list[str]:
    """Say if few good pictures set a threshold far above all others."""
    if calibration is None or calibration.rank is None or calibration.scores is None:
        return []
    scores = calibration.scores
    if len(scores) != calibration.num_images:  # quantiles of more
        return []
    high = apart(scores, calibration.rank)
    if not high:
        return []
    which = "1 good picture lies" if high == 1 else f"{high} good pictures lie"
    them = "it" if high == 1 else "them"
    return [
        f"{APART}{which} far above the other {len(scores) - high}: {scores[-high]:.4g} where the "
        f"next highest score is {scores[-high - 1]:.4g}. The threshold is set by {them} alone, and "
        f"defects that score below are called good. Look at {them}: if the part is not good, or "
        f"the picture failed, take {them} away and train again, or set the threshold on other "
        f"pictures: {calibrate_command()} RUN --normals DIR."
    ]
