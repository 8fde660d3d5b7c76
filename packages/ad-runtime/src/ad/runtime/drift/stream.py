"""Watches scores that come one by one, for as long as they come, and tells a drift once."""

from __future__ import annotations

from collections import deque
from typing import final

from ad.runtime.calibration import Calibration
from ad.runtime.drift.comparing import LEAST, Drift, compare

WINDOW = 500
"""Last scores that are compared."""

_BETWEEN_LOOKS = 100  # pictures at most
_EVER = 0.01  # chance of ever telling a drift in vain
_OVER = "drift is over: good pictures score as at calibration again"
_USUAL = 0.05  # chance of a difference from which on a drift is over


@final
class Stream:
    """Compares the last scores with those of calibration now and then.

    It looks at 20 pictures, at 40 and 80, then every hundred, and tells a drift once until it is
    over. However long it goes on, the chance of ever telling one where all pictures are good and
    like those of calibration is at most 1 in 100: the k-th look takes ``1 / (k (k + 1))`` of it,
    half for either of the two things that `compare` looks at.

    Args:
        calibration: What verdicts are made by; None without.
        categories: How many it is for together.
    """

    def __init__(self, calibration: Calibration | None, *, categories: int = 1) -> None:
        self.latest: Drift | None = None
        """What the last look has shown; None before the first."""
        self.drifting = False
        """Whether there is one now."""
        self._calibration, self._categories = calibration, categories
        self._scores: deque[float] = deque(maxlen=WINDOW)
        self._count, self._looks, self._next = 0, 0, LEAST

    def add(self, score: float) -> tuple[str, ...]:
        """Take the score of the next picture.

        Returns:
            What a person should know, in short lines: mostly none, as it is told once that there is
            a drift, that it is over, or that it cannot be judged.
        """
        self._scores.append(score)
        self._count += 1
        if self._count < self._next:
            return ()
        self._looks += 1
        self._next += min(self._count, _BETWEEN_LOOKS)
        rare = _EVER / 2 / (self._looks * (self._looks + 1))
        now = compare(self._calibration, [*self._scores], categories=self._categories, rare=rare)
        self.latest, before = now, self.drifting
        if now.found:
            self.drifting = True
        elif now.found is False and _is_usual(now):
            self.drifting = False
        if self.drifting != before:
            return now.lines() if self.drifting else (_OVER,)
        return now.lines() if (now.old or now.few) and self._looks == 1 else ()


def _is_usual(drift: Drift) -> bool:
    few = 2 * drift.above <= drift.pictures
    return few and (drift.difference is None or drift.difference.chance > _USUAL)
