"""What a saved calibration must be: each key known, there, of its kind, and true of the others."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NoReturn

from ad.runtime.calibration.conformal import promised_rate
from ad.runtime.calibration.false_regions import FalseRegions
from ad.runtime.errors import ModelFileError, listed

MOST_SCORES = 1000
"""Scores that a calibration keeps."""

_LARGEST_SCORE = 3.4028235e38  # of float32, in as few digits as it takes
_NULLABLE = ("pixel_threshold", "pixel_scale", "rate", "promised_rate", "f1")


def checked_values(data: Mapping[str, Any], names: AbstractSet[str]) -> dict[str, Any]:
    """Check what was read from a file.

    Args:
        data: What a calibration's `to_json` gave.
        names: The keys that there must be.

    Returns:
        The same, with what files of before lack.

    Raises:
        ModelFileError: If a key is unknown or missing, or a value cannot be right.
    """
    if unknown := set(data) - names:
        _refuse(f"unknown keys {listed(unknown)}; known are {listed(names)}")
    # Files from before thresholds were chosen by F1, or cross-fitted, lack what only these have;
    # those from before scores were kept, or regions counted, lack these.
    later = {"num_defective": 0, "f1": None, "folds": 0, "scores": None, "false_regions": None}
    data = {**later, **data}
    if missing := names - set(data):
        _refuse(f"missing keys {listed(missing)}")
    for name in sorted(names - {"false_regions", "scores"}):
        value = data[name]
        if value is None and name in _NULLABLE:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            _refuse(f"`{name}` must be a number; it is {value!r}")
        if not abs(value) <= sys.float_info.max:
            shown = value if isinstance(value, float) else "a whole number beyond any float"
            _refuse(f"`{name}` must be finite; it is {shown}")
        if name in ("scale", "pixel_scale") and value <= 0:
            _refuse(f"`{name}` must be positive; it is {value}")
    for one, other in (("pixel_threshold", "pixel_scale"), ("rate", "promised_rate")):
        if (data[one] is None) != (data[other] is None):
            _refuse(f"`{one}` and `{other}` must both be numbers or both be null")
    by_hand = data["rate"] is None and data["f1"] is None and data["num_defective"] == 0
    for name, least in (
        ("num_images", 0 if by_hand else 1),
        ("num_defective", 0),
        ("folds", 0),
    ):
        if not isinstance(data[name], int) or data[name] < least:
            _refuse(f"`{name}` must be a whole number from {least}; it is {data[name]}")
    _check_origin(data)
    if data["scores"] is not None:
        _check_scores(data["scores"], data["num_images"])
    if data["false_regions"] is not None:
        if data["pixel_threshold"] is None:
            _refuse("`false_regions` must be null where `pixel_threshold` is")
        data["false_regions"] = _false_regions(data["false_regions"])
    return data


def _false_regions(values: object) -> FalseRegions:
    try:
        return FalseRegions.from_json(values)  # type: ignore[arg-type]  # whatever it is
    except (KeyError, TypeError, ValueError):
        _refuse(
            "`false_regions` must be null or have `pictures`, a number from 2, `regions`, a number "
            f"from 0, and `largest`, areas of as many pictures as have any; it is {values!r}"
        )


def _check_scores(scores: object, num_images: int) -> None:
    """Check the scores of so many good pictures; of none if their number is not known."""
    numbers = isinstance(scores, list) and all(
        type(score) in (int, float) and abs(score) <= _LARGEST_SCORE for score in scores
    )
    if not isinstance(scores, list) or not numbers or scores != sorted(scores):
        _refuse("`scores` must be null or finite numbers, ascending")
    expected = min(num_images, MOST_SCORES)
    if not scores or len(scores) > MOST_SCORES or expected not in (0, len(scores)):
        allowed = f"{expected} of them" if expected else f"from 1 to {MOST_SCORES} of them"
        _refuse(f"`scores` must be {allowed} for {num_images} images; there are {len(scores)}")


def _check_origin(data: Mapping[str, Any]) -> None:
    """Check that a saved calibration is by rate, F1 or hand, and what it says of either."""
    num_images, rate, f1 = data["num_images"], data["rate"], data["f1"]
    folds = data["folds"]
    if folds and (rate is None or not 2 <= folds <= num_images):
        _refuse(
            f"`folds` must be 0, or with a `rate` from 2 to the {num_images} images; it is {folds}"
        )
    if num_images == 0:
        return
    if (rate is None) == (f1 is None) or (f1 is None) == (data["num_defective"] > 0):
        _refuse(
            "it must have a `rate`, or an `f1` and `num_defective` above 0, or `num_images` 0 if "
            f"chosen by hand; they are {rate}, {f1}, {data['num_defective']} and {num_images}"
        )
    if f1 is not None:
        if not 0 < f1 <= 1:
            _refuse(f"`f1` must be above 0 and at most 1; it is {f1}")
        return
    if not 0 < rate < 1:
        _refuse(f"`rate` must be between 0 and 1; it is {rate}")
    promised = promised_rate(num_images, rate)
    if not math.isclose(data["promised_rate"], promised):
        _refuse(
            f"`promised_rate` must be {promised} for {num_images} images at a rate of {rate}; "
            f"it is {data['promised_rate']}"
        )


def _refuse(reason: str) -> NoReturn:
    msg = f"A saved calibration cannot be read: {reason}."
    raise ModelFileError(msg)
