"""Thresholds and 0-to-1 scores from good pictures that a detector has not learnt from.

The promise holds by split conformal prediction: of n such scores and one new good picture's, each
order is equally likely: see `ad.runtime.calibration.conformal`. Knows nothing of detectors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.runtime.calibration import MOST_SCORES, Calibration
from ad.runtime.calibration.conformal import exact, promised_rate, rank_of
from ad.runtime.errors import DataError, SettingError

DEFAULT_FALSE_ALARMS = 0.01
"""Share of good pictures that may be called defective, where none is asked for."""

FALSE_ALARMS_RANGE = "above 0 and below 1"
"""What shares of false alarms there are, for errors."""

_LOW = math.log(9)  # the logistic function is 0.1 here, to the left of its middle
_FLOAT32_EPS = float(np.finfo(np.float32).eps)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_FLOAT32_MAX = float(np.finfo(np.float32).max)
# How far a threshold keeps from the score it is set by, whose picture then has one verdict: sums
# come out in another order, and a score's last digits with them, in another batch. Measured over
# batches of 1, 2, 3, 5, 8 and 16 of 40 good pictures, 64 and 128 pixels, fp32 and bf16 on a CPU
# with AVX512-BF16, the largest change of scores and of maxima of maps as a share of the scale, and
# as one of the threshold: PaDiM 0.000021 and 0.0000021, PatchCore 0.000049 and 0.0000025, FRE
# 0.000086 and 0.0000072, STFPM 0.00007 and 0.0000057, reverse distillation 0.000041 and 0.0000005,
# an auto-encoder 0.00018 and 0.0000018, DFKDE 0.000041 of the scale (its threshold is about 0).
# bf16 changed no more than fp32.
_MARGIN_OF_SCALE, _MARGIN_OF_THRESHOLD = 1e-3, 1e-5


def check_false_alarms(share: float) -> None:
    """Refuse what is no share of good pictures that may be called defective.

    Raises:
        SettingError: If it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise SettingError(wrong_share("false_alarms", FALSE_ALARMS_RANGE, share))


def wrong_share(name: str, allowed: str, given: float) -> str:
    """What an error says of a share of good pictures that cannot be: mostly a percentage.

    Args:
        name: In Python: ``false_alarms`` for what is ``--false-alarms`` on the command line.
        allowed: The range, in words.
        given: What was given.
    """
    percent = given if 1 <= given < 100 else 5.0  # noqa: PLR2004 - per cent
    option, share = f"--{name.replace('_', '-')}", f"{percent / 100:g}"
    return (
        f"`{option}` (`{name}` in Python) is a share of the good pictures, {allowed}; got "
        f"{given:g}. For {percent:g} %: `{option} {share}` (`{name}={share}` in Python)."
    )


def calibrate(
    scores: ArrayLike,
    map_maxima: ArrayLike | None = None,
    rate: float = DEFAULT_FALSE_ALARMS,
    folds: int = 0,
) -> Calibration:
    """Find the thresholds that keep false alarms on good pictures below a rate.

    A threshold is a held-out picture's score and a hair more, a thousandth of the scale or so,
    since that picture's score comes out a little otherwise in another batch. The pixel threshold
    is found from the largest pixel score of each map, so that at most that share of good pictures
    shows any anomalous pixel.

    Args:
        scores: ``[n]``, image scores of normal images that the detector has not learnt from.
        map_maxima: ``[n]``, largest score of each of their maps; None if there are no maps.
        rate: Share of good pictures that may be called anomalous, in (0, 1). With fewer than
            1 / rate - 1 images the largest score becomes the threshold, which promises
            1 / (n + 1); see `Calibration.promise`.
        folds: How many detectors gave these scores, if each picture was scored by one of several
            that had not seen it; see `Calibration.folds`.

    Raises:
        DataError: If there are no scores, one is not finite, or the two differ in length.
        SettingError: If the rate is out of range.
    """
    if not 0 < rate < 1:
        msg = f"`rate` is a share of good pictures and must be between 0 and 1; got {rate}."
        raise SettingError(msg)
    image_scores = checked_scores("scores", scores)
    threshold, scale = above_quantile(image_scores, rate)
    pixel_threshold, pixel_scale = None, None
    if map_maxima is not None:
        pixel_scores = checked_scores("map_maxima", map_maxima, like=image_scores)
        pixel_threshold, pixel_scale = above_quantile(pixel_scores, rate)
    return Calibration(
        threshold=threshold,
        scale=scale,
        pixel_threshold=pixel_threshold,
        pixel_scale=pixel_scale,
        rate=float(rate),
        promised_rate=promised_rate(image_scores.size, rate),
        num_images=image_scores.size,
        folds=folds,
        scores=kept_of(image_scores),
    )


def above_quantile(scores: NDArray[np.float64], rate: float) -> tuple[float, float]:
    """What at most a share of as many new scores exceed, by the conformal argument; its scale."""
    score = float(np.sort(scores)[rank_of(scores.size, exact(rate)) - 1])
    return score + margin_of(score, scores), scale_of(score, scores)


def kept_of(scores: NDArray[np.float64]) -> tuple[float, ...]:
    """What a calibration keeps of the scores of good pictures."""
    ascending = np.sort(scores).astype(np.float32)
    if ascending.size > MOST_SCORES:  # the middle ones of so many equal parts
        middles = (np.arange(MOST_SCORES) + 0.5) * ascending.size / MOST_SCORES
        ascending = ascending[middles.astype(np.intp)]
    return tuple(float(str(score)) for score in ascending)


def scale_of(threshold: float, good: NDArray[np.float64]) -> float:
    """The logistic scale that puts the median of good pictures at 0.1.

    Args:
        threshold: Where the curve is 0.5.
        good: Scores of good pictures, at least one.
    """
    return (_spread(threshold, good) or 1.0) / _LOW


def _spread(threshold: float, good: NDArray[Any]) -> float:
    """How far good pictures are from the threshold; 0 if all is 0."""
    spread = threshold - float(np.median(good))
    # Differences beneath what float32 scores resolve say nothing of how good pictures vary.
    resolution = max(abs(threshold) * _FLOAT32_EPS, _FLOAT32_TINY)
    if spread <= resolution:
        spread = float(good.max() - good.min())
    if spread <= resolution:
        spread = abs(threshold) if abs(threshold) > _FLOAT32_TINY else 0.0
    return spread


def margin_of(score: float, others: NDArray[Any]) -> float:
    """How far from a score a threshold must be for the same verdict in every batch.

    Args:
        score: By which the threshold is set.
        others: Scores of good pictures, which say how much these vary.
    """
    of_scale = _MARGIN_OF_SCALE * _spread(score, others) / _LOW
    return max(of_scale, _MARGIN_OF_THRESHOLD * abs(score), _FLOAT32_TINY)


def checked_scores(
    name: str, scores: ArrayLike, like: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Scores of pictures as float64, if they can set a threshold.

    Args:
        name: What they are called, for an error.
        scores: ``[n]``, at least one.
        like: Others of the same pictures, of which there must be as many.

    Raises:
        DataError: If there are none, one is not finite, or the two differ in length.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not values.size:
        msg = (
            f"`{name}` must be [n] with one entry for each held-out normal image, at least one; "
            f"got shape {values.shape}. Hold out some images or leave calibration away."
        )
        raise DataError(msg)
    finite = np.abs(values) <= _FLOAT32_MAX  # beyond it differences could overflow
    if not finite.all():
        first = int(np.argmin(finite))
        msg = f"`{name}` must be finite float32 numbers; entry {first} is {values[first]}."
        raise DataError(msg)
    if like is not None and values.size != like.size:
        msg = (
            f"`scores` and `{name}` must have one entry for each image; "
            f"got {like.size} and {values.size}."
        )
        raise DataError(msg)
    return values
