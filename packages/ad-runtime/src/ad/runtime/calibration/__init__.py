"""Where good ends: a detector's threshold and scale, what it promises, and how it is read.

How a threshold is found is `ad.core`'s; it holds by conformal prediction: see `conformal`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration.conformal import cross_bound, exact, odds, rank_of
from ad.runtime.calibration.false_regions import FalseRegions, told
from ad.runtime.calibration.saved_calibration import MOST_SCORES, checked_values
from ad.runtime.errors import DataError, NotFittedError, SettingError

__all__ = ["MOST_SCORES", "Calibration", "FalseRegions"]

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
    rate: float | None
    """Share of good pictures that may be called anomalous, as asked for, in (0, 1); None if the
    threshold was chosen by F1 or by hand."""
    promised_rate: float | None
    """The share that this many held-out images can promise; above `rate` if they are too few. An
    estimate, if scores are cross-fitted: see `bound`."""
    num_images: int
    """Normal images that were used; the detector has learnt from none of them, or, if there are
    `folds`, from all. 0 exactly if the threshold was chosen by hand."""
    num_defective: int = 0
    """Defective images that were used; above 0 exactly if the threshold was chosen by F1."""
    f1: float | None = None
    """F1 score of the image threshold on these images; None if it was not chosen by it."""
    folds: int = 0
    """Detectors that scored these images for the threshold, each those that it has not seen; 0 if
    the detector itself did."""
    scores: tuple[float, ...] | None = None
    """Scores of the good pictures that were used, ascending: all of them, or as many of their
    quantiles as `MOST_SCORES`, each a float32 in as few digits as it takes. None in files from
    before they were kept."""
    false_regions: FalseRegions | None = None
    """Regions that were counted in these images; None if they were not, as in files from before,
    with a pixel threshold that was chosen otherwise or without one, or with a single image."""

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

    def by_hand(self, threshold: float, pixel_threshold: float | None = None) -> Self:
        """The same with a threshold that a person chose, which promises nothing.

        The scales stay, and the scores: they say how much good pictures vary, whatever the
        threshold.

        Args:
            threshold: In the units of the detector's scores.
            pixel_threshold: In those of its maps; None leaves it as it is.

        Raises:
            SettingError: If one is no finite number, or there is no pixel threshold to replace.
        """
        image = _chosen("threshold", threshold)
        pixels = self.pixel_threshold
        if pixel_threshold is not None:
            if pixels is None:
                msg = (
                    f"`pixel_threshold` {pixel_threshold} is for detectors that had maps when they "
                    "were calibrated; this one had none. Leave it out."
                )
                raise SettingError(msg)
            pixels = _chosen("pixel_threshold", pixel_threshold)
        return replace(
            self,
            threshold=image,
            pixel_threshold=pixels,
            rate=None,
            promised_rate=None,
            num_images=0,
            num_defective=0,
            f1=None,
            folds=0,
            false_regions=self.false_regions if pixel_threshold is None else None,
        )

    def promise(self) -> str:
        """Say how many false alarms to expect, and what more images would buy."""
        if self.num_images == 0:
            return "chosen by hand; no rate of false alarms is promised"
        if self.rate is None or self.rank is None:
            return (
                f"F1 {self.f1:.3f} on the {self.num_images} good and {self.num_defective} "
                "defective pictures it was chosen on; no rate of false alarms is promised"
            )
        asked = exact(self.rate)
        promised = 1 - Fraction(self.rank, self.num_images + 1)
        short = ""
        if self.needed is not None:
            short = f"; {odds(asked)} was asked for, which needs {self.needed}"
        if self.bound is not None:
            one = f"one of {self.folds} detectors" if self.folds < self.num_images else "a detector"
            return (
                f"expected false alarms: about {odds(promised)} good pictures (each of "
                f"{self.num_images} scored by {one} that had not seen it; at most "
                f"{odds(self.bound)} where learning from more pictures raises no score{short})"
            )
        return (
            f"expected false alarms: at most {odds(promised)} good pictures "
            f"({self.num_images} held out{short})"
        )

    def promise_of_regions(self, min_area: int = 1) -> str | None:
        """Say how many regions good pictures have; None without a pixel threshold.

        Args:
            min_area: Of the smallest region that is told of, in pixels of a picture.
        """
        return None if self.pixel_threshold is None else told(self.false_regions, min_area)

    @property
    def rank(self) -> int | None:
        """Which of the sorted scores, from 1, set the threshold; None if none promises a rate."""
        return None if self.rate is None else rank_of(self.num_images, exact(self.rate))

    @property
    def bound(self) -> Fraction | None:
        """The largest rate that cross-fitted scores leave possible; None if they are not.

        It holds where learning from more pictures raises no score; see `conformal.cross_bound`.
        """
        if not self.folds or self.rank is None:
            return None
        return cross_bound(self.num_images, self.folds, self.rank)

    @property
    def needed(self) -> int | None:
        """How many good pictures the rate that was asked for takes; None if there were enough."""
        if self.rate is None:
            return None
        needed = math.ceil(1 / exact(self.rate)) - 1
        return needed if self.num_images < needed else None

    def to_json(self) -> dict[str, Any]:
        """The fields, for a JSON file."""
        counted = self.false_regions
        return {
            **asdict(self),
            "scores": None if self.scores is None else list(self.scores),
            "false_regions": None if counted is None else counted.to_json(),
        }

    def facts(self) -> dict[str, Any]:
        """The fields but for the scores, for people."""
        return {name: value for name, value in self.to_json().items() if name != "scores"}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_json` gave.

        Raises:
            ModelFileError: If a key is unknown or missing, or a value cannot be right.
        """
        values = checked_values(data, {field.name for field in fields(cls)})
        scores = values["scores"]
        return cls(**{**values, "scores": None if scores is None else tuple(scores)})


def _number(score: float) -> float:
    if math.isnan(score):
        msg = "A score must be a number; got nan. It would pass as good."
        raise DataError(msg)
    return float(score)


def _chosen(name: str, value: float) -> float:
    """A threshold that somebody gave."""
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not abs(value) <= _FLOAT32_MAX:
        msg = (
            f"`{name}` must be a score, a finite float32 number such as 0.5 or -12; got {value!r}."
        )
        raise SettingError(msg)
    return float(value)
