"""What a threshold called the test pictures, and what a user must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from ad.core.thresholds.apart import APART, apart_notes
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import chance_of_alarms, odds

_SURPRISE = 0.01
"""Chance below which false alarms are no longer taken for bad luck."""


class Verdicts(NamedTuple):
    """What the threshold called the test pictures."""

    found: int
    """Defective pictures that were called defective."""
    defective: int
    """Defective pictures in all."""
    false_alarms: int
    """Good pictures that were called defective."""
    good: int
    """Good pictures in all."""


_THRESHOLD, _NO_THRESHOLD = "Threshold ", "Nothing was held out: "
_BROKEN = "False alarms: "
"""How notes on a threshold begin."""


def calibration_notes(calibration: Calibration | None) -> list[str]:
    """What a user must know of a run's threshold, or of its having none."""
    if calibration is None:
        return [
            f"{_NO_THRESHOLD}there is no threshold, no verdict and no 0-to-1 score. Scores "
            "still rank pictures. To have them, train with `--holdout 0.1` (`holdout=0.1` in "
            "Python), or give good pictures to `ad calibrate RUN --normals DIR`."
        ]
    note = f"{_THRESHOLD}{calibration.threshold:.4g}; {calibration.promise()}."
    regions = calibration.promise_of_regions()
    if regions is not None:
        note += f" {regions[0].upper()}{regions[1:]}."
    return [note, *apart_notes(calibration)]


def false_alarm_notes(
    calibration: Calibration | None, verdicts: Verdicts | None, categories: int
) -> list[str]:
    """Say if there are more false alarms than the promise and bad luck explain.

    Of a threshold that promises no rate there is nothing to say. Several categories are tested
    together, as the threshold is one for all: that is exact where their shares among the tested
    pictures come about as those among the held-out ones do, and the note says that they may not.

    Args:
        calibration: The threshold and what it was set on.
        verdicts: What it called the test pictures.
        categories: How many of them there are.
    """
    if calibration is None or calibration.rank is None or verdicts is None:
        return []
    held_out, rank = calibration.num_images, calibration.rank
    chance = chance_of_alarms(held_out, rank, verdicts.good, verdicts.false_alarms)
    if chance >= _SURPRISE:
        return []
    promised = odds(1 - Fraction(rank, held_out + 1))
    expected, so = f"at most {promised} were promised", "So these are not like them"
    if calibration.bound is not None:
        expected = f"about {promised} were expected, and {odds(calibration.bound)} at most"
        so = "So these are not like them, or learning from all pictures has raised scores"
    shares = ", or with categories in other shares" if categories > 1 else ""
    return [
        f"{_BROKEN}{verdicts.false_alarms} of {verdicts.good} good test pictures are called "
        f"defective, where {expected}. With pictures like the {held_out} "
        f"that the threshold was set on, that happens {_once(chance)}. {so}: "
        f"often they are of another day, light or camera{shares}. Look at them in the report; "
        "then set the threshold on good pictures as they are now, ad calibrate RUN --normals DIR, "
        "or train again with such pictures among the good ones."
    ]


def renewed_notes(
    notes: Sequence[str],
    calibration: Calibration | None,
    verdicts: Verdicts | None,
    categories: int,
) -> list[str]:
    """A run's notes, with what they say of its threshold true of the one that it has now.

    Args:
        notes: As they were written.
        calibration: That of now.
        verdicts: What its threshold calls the test pictures; None if that is not known.
        categories: How many categories these are of.
    """
    begin = (_THRESHOLD, _NO_THRESHOLD, _BROKEN, APART)
    others = [note for note in notes if not note.startswith(begin)]
    alarms = false_alarm_notes(calibration, verdicts, categories)
    return [*calibration_notes(calibration), *alarms, *others]


def _once(chance: float) -> str:
    if chance < 1e-6:
        return "less than once in a million times"
    digits = len(str(int(1 / chance))) - 2
    return f"about once in {round(1 / chance, -digits):,.0f} times"
