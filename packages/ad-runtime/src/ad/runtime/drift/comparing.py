"""Compares the scores of new pictures with those of the good ones that the threshold was set with.

Two things are looked at, and told if they would be rare with good pictures like those of then:

* How many are above the threshold. Defective pictures are, too, so that a few too many are no
  drift: a share above a half is told, which no line makes for long.
* How the scores of pictures called good are distributed, against the scores of then that are not
  above the threshold either. The defects that are found have no part in that. It is exact that both
  are cut off there: of scores below the one that sets the threshold, old and new are alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import chance_of_alarms, odds
from ad.runtime.drift.two_samples import Difference, compare_samples
from ad.runtime.errors import calibrate_command

RARE = 0.001
"""Chance of each of the two things being told where nothing has changed."""

_CROSS_FITTED = 0.1
"""Times as rare must be what is told by cross-fitted scores: they are a little higher than those of
the detector that is kept, and hang together. With nearest neighbours, differences that should come
in 1 of 1,000 draws came in up to 20, and by this in up to 4 (1 of 250 draws, of 5 kinds)."""

LEAST = 20
"""New pictures, and new ones called good, from which on they are judged."""

LEAST_CALIBRATED = 10
"""Scores of calibration from which on others are compared with them."""

_EQUAL = 0.05  # share of calibration's scores


def _old() -> tuple[str, str]:
    return (
        "drift cannot be judged: the threshold was set before scores were kept with it,",
        f"`{calibrate_command()}` sets it anew",
    )


def _few(count: int) -> tuple[str, str]:
    return (
        f"drift in good scores is not watched: calibration has {count} below the threshold,",
        f"and it takes {LEAST_CALIBRATED}; `{calibrate_command()}` with more good pictures sets it "
        "anew",
    )


Quartiles = tuple[float, float, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How the scores of new pictures differ from those of calibration."""

    pictures: int = 0
    """New ones with a score; one whose score comes again counts once, see `compare`."""
    above: int = 0
    """How many of them are above the threshold."""
    promised: float | None = None
    """Share of good ones that may be above it; None if none is promised."""
    chance_above: float | None = None
    """Of at least so many above it, if all are good and like those of calibration; None where that
    was not judged."""
    many: bool = False
    """Whether these are too many: more than a half, and more than would be rare."""
    calibrated: int = 0
    """Scores of calibration that those of new pictures called good are compared with."""
    quartiles_calibrated: Quartiles | None = None
    """Of these; None if there are none."""
    quartiles: Quartiles | None = None
    """Of the scores of new pictures called good; None if there are none."""
    difference: Difference | None = None
    """Between the two; None where that was not judged."""
    other: bool = False
    """Whether it is so large that it would be rare."""
    categories: int = 1
    """How many the threshold is for together."""
    why: str | None = None
    """Why the scores of pictures called good were not compared; None if they were."""
    old: bool = False
    """Whether that alone is in the way: what was saved has no scores, and that can be mended."""
    few: bool = False
    """Likewise: what was saved has too few."""

    @property
    def found(self) -> bool | None:
        """Whether one of the two is to be told; None if neither was judged."""
        if self.chance_above is None and self.difference is None:
            return None
        return self.many or self.other

    def lines(self) -> tuple[str, ...]:
        """What a person should know, in short lines; none if that is nothing."""
        if self.many and self.promised is not None:
            share = odds(Fraction(self.promised).limit_denominator(1_000_000))
            text = f"{self.above} of {self.pictures} pictures are above the threshold"
            return (f"drift: {text}; {share} good ones may be", _cause(True, 1))
        if not self.other or self.quartiles is None or self.quartiles_calibrated is None:
            if self.few:
                return _few(self.calibrated)
            return _old() if self.old else ()
        assert self.difference is not None
        (low, median, high), (low_then, then, high_then) = self.quartiles, self.quartiles_calibrated
        before, now = f"{then:.4g}", f"{median:.4g}"
        if before != now and (median > then) == self.difference.higher:
            higher = median > then
            verb = "rose" if higher else "fell"
            first = f"drift: the median score of good pictures {verb} from {before} to {now}"
            return (first, _cause(higher, self.categories))
        return (
            f"drift: half of good scores {low:.3g} to {high:.3g}, {low_then:.3g} to "
            f"{high_then:.3g} at calibration",
            _cause(False, self.categories),
        )

    def to_json(self) -> dict[str, Any]:
        """As it is printed and served."""
        difference = self.difference
        return {
            "found": self.found,
            "told": list(self.lines()),
            "why": self.why,
            "pictures": self.pictures,
            "above": self.above,
            "promised": self.promised,
            "chance_above": self.chance_above,
            "calibrated": self.calibrated,
            "quartiles_calibrated": _listed(self.quartiles_calibrated),
            "quartiles": _listed(self.quartiles),
            "distance": None if difference is None else difference.distance,
            "chance": None if difference is None else difference.chance,
        }


def compare(
    calibration: Calibration | None,
    scores: ArrayLike,
    *,
    categories: int = 1,
    rare: float = RARE,
) -> Drift:
    """Compare the scores of new pictures with those of calibration.

    A score that comes again is of a picture that comes again, which says nothing new, and counts
    once. Where more than 1 in 20 scores of calibration are among the new ones, other pictures have
    equal scores, too, or these are the pictures of calibration: each counts.

    Args:
        calibration: What verdicts are made by; None without.
        scores: ``[m]``, float32, of the new pictures; those that could not be read are left out.
        categories: How many the calibration is for together.
        rare: Chance, for each of the two things that are looked at, of being told in vain.
    """
    if calibration is None:
        return Drift(why="there is no threshold, and so no scores of calibration")
    new = np.sort(np.asarray(scores, np.float32))
    if calibration.scores is None:
        return Drift(pictures=new.size, why=" ".join(_old()), old=new.size >= LEAST)
    known = np.asarray(calibration.scores, np.float32)
    if np.isin(known, new).mean() <= _EQUAL:
        new = np.unique(new)
    threshold = np.float64(calibration.threshold)  # so that verdicts are not those of float32
    good, then = (own[own <= threshold] for own in (new, known))
    if calibration.rank is not None:  # the one that set the threshold is at it, and nowhere else
        then = then[:-1]
    if calibration.folds:
        rare *= _CROSS_FITTED
    above, chance_above, many = new.size - good.size, None, False
    if calibration.rank is not None and new.size >= LEAST:
        chance_above = chance_of_alarms(calibration.num_images, calibration.rank, new.size, above)
        many = 2 * above > new.size and chance_above < rare
    why = None
    if then.size < LEAST_CALIBRATED:
        why = f"calibration has {then.size} scores to compare with; it takes {LEAST_CALIBRATED}"
    elif good.size < LEAST:
        why = f"{good.size} pictures called good have a score of their own; it takes {LEAST}"
    difference = compare_samples(then, good) if why is None else None
    return Drift(
        pictures=new.size,
        above=above,
        promised=calibration.promised_rate,
        chance_above=chance_above,
        many=many,
        calibrated=then.size,
        quartiles_calibrated=_quartiles(then),
        quartiles=_quartiles(good),
        difference=difference,
        other=difference is not None and difference.chance < rare,
        categories=categories,
        why=why,
        few=then.size < LEAST_CALIBRATED and new.size >= LEAST,
    )


def _quartiles(scores: NDArray[np.float32]) -> Quartiles | None:
    """Those of ascending scores; None if there are none."""
    if not scores.size:
        return None
    low, middle, high = (float(one) for one in np.quantile(scores, (0.25, 0.5, 0.75)))
    return low, middle, high


def _cause(higher: bool, categories: int) -> str:
    """What may be behind it."""
    what = "pictures differ (light, focus, camera)"
    if categories > 1:
        what = "pictures differ, or one category is more frequent"
    return f"either parts are worse, or {what}" if higher else f"{what}: defects may be missed"


def _listed(quartiles: Quartiles | None) -> list[float] | None:
    return None if quartiles is None else list(quartiles)
