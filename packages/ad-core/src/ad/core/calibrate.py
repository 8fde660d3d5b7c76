"""Thresholds and 0-to-1 scores from held-out normal images, with a promise that holds.

Split conformal prediction: of n held-out scores and one new good picture's, each order is
equally likely, so the k-th smallest is exceeded with probability at most 1 - k / (n + 1),
whatever the scores' distribution. Knows nothing of detectors; numpy alone.

Source: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World" (2005), and Lei et al.,
"Distribution-Free Predictive Inference for Regression" (2018), section 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from typing import Any, NoReturn, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.core.errors import DataError, ModelFileError, NotFittedError, SettingError, listed

_LOW = math.log(9)  # the logistic function is 0.1 here, to the left of its middle
_FLOAT32_EPS = float(np.finfo(np.float32).eps)
_FLOAT32_TINY = float(np.finfo(np.float32).tiny)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Where good ends, in the units of a detector's scores, and how sure that is."""

    threshold: float
    """Image scores above this are anomalous."""
    scale: float
    """Width of the logistic curve of image scores, in units of the score; positive."""
    pixel_threshold: float | None
    """Pixel scores above this are anomalous; None for detectors that cannot localise."""
    pixel_scale: float | None
    """As `scale`, for pixels; None exactly if `pixel_threshold` is."""
    rate: float
    """Share of good pictures that may be called anomalous, as asked for, in (0, 1)."""
    promised_rate: float
    """The share that this many held-out images can promise; above `rate` if they are too few."""
    num_images: int
    """Held-out normal images that were used."""

    def is_anomalous(self, score: float) -> bool:
        """Whether an image score is above the threshold.

        Raises:
            DataError: If the score is not a number; it would pass as good.
        """
        return _number(score) > self.threshold

    def normalize(self, score: float) -> float:
        """Map an image score to [0, 1]: 0.5 at the threshold, about 0.1 for a typical good one.

        The logistic curve rises strictly; far from the threshold floating point rounds it to 0
        or 1, so compare and rank by the raw score.

        Raises:
            DataError: If the score is not a number.
        """
        return 0.5 + 0.5 * math.tanh((_number(score) - self.threshold) / self.scale / 2)

    def normalize_map(self, anomaly_map: NDArray[Any]) -> NDArray[np.float32]:
        """Map pixel scores to [0, 1] as `normalize` does, around the pixel threshold.

        Args:
            anomaly_map: Any shape.

        Returns:
            The same shape, float32.

        Raises:
            NotFittedError: If there is no pixel threshold.
            DataError: If a score is not a number.
        """
        if self.pixel_threshold is None or self.pixel_scale is None:
            msg = (
                "There is no pixel threshold: the detector gave no anomaly maps when it was "
                "calibrated. Use `normalize` for its image scores."
            )
            raise NotFittedError(msg)
        if np.isnan(anomaly_map).any():
            msg = "An anomaly map must hold numbers; got nan. It would pass as good."
            raise DataError(msg)
        distance = (anomaly_map.astype(np.float64) - self.pixel_threshold) / self.pixel_scale
        return (0.5 + 0.5 * np.tanh(distance / 2)).astype(np.float32)

    def promise(self) -> str:
        """Say how many false alarms to expect, and what more images would buy."""
        asked = _exact(self.rate)
        rank = _rank(self.num_images, asked)
        promised = 1 - Fraction(rank, self.num_images + 1)
        short = ""
        if promised > asked:
            needed = math.ceil(1 / asked) - 1
            short = f"; {_odds(asked)} was asked for, which needs {needed}"
        return (
            f"expected false alarms: at most {_odds(promised)} good pictures "
            f"({self.num_images} held out{short})"
        )

    def to_json(self) -> dict[str, float | int | None]:
        """The fields, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave.

        Raises:
            ModelFileError: If a key is unknown or missing, or a value cannot be right.
        """
        names = {field.name for field in fields(cls)}
        if unknown := set(data) - names:
            _refuse(f"unknown keys {listed(unknown)}; known are {listed(names)}")
        if missing := names - set(data):
            _refuse(f"missing keys {listed(missing)}")
        for name in sorted(names):
            value = data[name]
            if value is None and name in ("pixel_threshold", "pixel_scale"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                _refuse(f"`{name}` must be a number; it is {value!r}")
            if not math.isfinite(value):
                _refuse(f"`{name}` must be finite; it is {value}")
            if name in ("scale", "pixel_scale") and value <= 0:
                _refuse(f"`{name}` must be positive; it is {value}")
        if (data["pixel_threshold"] is None) != (data["pixel_scale"] is None):
            _refuse("`pixel_threshold` and `pixel_scale` must both be numbers or both be null")
        num_images, rate = data["num_images"], data["rate"]
        if not isinstance(num_images, int) or num_images < 1:
            _refuse(f"`num_images` must be a whole number from 1; it is {num_images}")
        if not 0 < rate < 1:
            _refuse(f"`rate` must be between 0 and 1; it is {rate}")
        promised = _promised(num_images, rate)
        if not math.isclose(data["promised_rate"], promised):
            _refuse(
                f"`promised_rate` must be {promised} for {num_images} images at a rate of {rate}; "
                f"it is {data['promised_rate']}"
            )
        return cls(**data)


def calibration_notes(calibration: Calibration | None) -> list[str]:
    """What a user must know of a run's threshold, or of its having none."""
    if calibration is None:
        return [
            "Nothing was held out: there is no threshold, no verdict and no 0-to-1 score. Scores "
            "still rank pictures. Train with `holdout` above 0 to have them."
        ]
    return [f"Threshold {calibration.threshold:.4g}; {calibration.promise()}."]


def calibrate(
    scores: ArrayLike, map_maxima: ArrayLike | None = None, rate: float = 0.01
) -> Calibration:
    """Find the thresholds that keep false alarms on good pictures below a rate.

    The pixel threshold is found from the largest pixel score of each map, so that at most that
    share of good pictures shows any anomalous pixel.

    Args:
        scores: ``[n]``, image scores of normal images that the detector has not learnt from.
        map_maxima: ``[n]``, largest score of each of their maps; None if there are no maps.
        rate: Share of good pictures that may be called anomalous, in (0, 1). With fewer than
            1 / rate - 1 images the largest score becomes the threshold, which promises
            1 / (n + 1); see `Calibration.promise`.

    Raises:
        DataError: If there are no scores, one is not finite, or the two differ in length.
        SettingError: If the rate is out of range.
    """
    if not 0 < rate < 1:
        msg = f"`rate` is a share of good pictures and must be between 0 and 1; got {rate}."
        raise SettingError(msg)
    image_scores = _checked("scores", scores)
    threshold, scale = _threshold(image_scores, rate)
    pixel_threshold, pixel_scale = None, None
    if map_maxima is not None:
        pixel_scores = _checked("map_maxima", map_maxima)
        if pixel_scores.size != image_scores.size:
            msg = (
                "`scores` and `map_maxima` must have one entry for each image; "
                f"got {image_scores.size} and {pixel_scores.size}."
            )
            raise DataError(msg)
        pixel_threshold, pixel_scale = _threshold(pixel_scores, rate)
    return Calibration(
        threshold=threshold,
        scale=scale,
        pixel_threshold=pixel_threshold,
        pixel_scale=pixel_scale,
        rate=float(rate),
        promised_rate=_promised(image_scores.size, rate),
        num_images=image_scores.size,
    )


def _threshold(scores: NDArray[np.float64], rate: float) -> tuple[float, float]:
    """The conformal quantile, and the logistic scale that puts the median at 0.1."""
    ranked = np.sort(scores)
    threshold = float(ranked[_rank(scores.size, _exact(rate)) - 1])
    spread = threshold - float(np.median(ranked))
    # Differences beneath what float32 scores resolve say nothing of how good pictures vary.
    resolution = max(abs(threshold) * _FLOAT32_EPS, _FLOAT32_TINY)
    if spread <= resolution:
        spread = float(ranked[-1] - ranked[0])
    if spread <= resolution:
        spread = abs(threshold) if abs(threshold) > _FLOAT32_TINY else 1.0
    return threshold, spread / _LOW


def _rank(num_images: int, rate: Fraction) -> int:
    """Which of the sorted scores, counted from 1, is the threshold."""
    return min(num_images, math.ceil((num_images + 1) * (1 - rate)))


def _promised(num_images: int, rate: float) -> float:
    return float(1 - Fraction(_rank(num_images, _exact(rate)), num_images + 1))


def _exact(rate: float) -> Fraction:
    # 0.3 means 3 in 10; its float is a little less, and would cost a rank at n = 9.
    return Fraction(repr(float(rate)))


def _odds(rate: Fraction) -> str:
    return f"{rate.numerator} in {rate.denominator}"


def _number(score: float) -> float:
    if math.isnan(score):
        msg = "A score must be a number; got nan. It would pass as good."
        raise DataError(msg)
    return float(score)


def _checked(name: str, scores: ArrayLike) -> NDArray[np.float64]:
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
    return values


def _refuse(reason: str) -> NoReturn:
    msg = f"A saved calibration cannot be read: {reason}."
    raise ModelFileError(msg)
