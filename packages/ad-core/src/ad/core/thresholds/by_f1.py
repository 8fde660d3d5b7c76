"""Thresholds and 0-to-1 scores from labelled pictures: those of the largest F1 score.

They promise nothing of new pictures; those from good ones do: see `ad.runtime.calibration.by_rate`.
Knows nothing of detectors; numpy alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.core.errors import DataError
from ad.core.metrics import f1_max
from ad.core.metrics.counting import parts
from ad.core.metrics.streamed import LabelledPixels
from ad.core.metrics.ties import median_of
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.by_rate import checked_scores, kept_of, margin_of, scale_of
from ad.runtime.spill import Column


def calibrate_by_f1(
    scores: ArrayLike,
    defective: ArrayLike,
    map_maxima: ArrayLike | None = None,
    pixels: tuple[NDArray[Any], NDArray[np.bool_]] | LabelledPixels | None = None,
) -> Calibration:
    """Find the thresholds of the largest F1 score on labelled pictures.

    A threshold lies midway between the lowest score that is called anomalous and the next lower
    one; of several that do as well, the highest is taken. Pixels are judged by their truth where
    there is any, and else by the largest of each map, as the picture is labelled.

    Args:
        scores: ``[n]``, image scores of pictures that the detector has not learnt from.
        defective: ``[n]``, bool.
        map_maxima: ``[n]``, largest score of each of their maps; None if there are no maps.
        pixels: Scores of the pixels whose truth is known, of any shape, and whether each is
            defective, or these as `ad.core.metrics.streamed.LabelledPixels` keeps many; None if
            there is no truth.

    Raises:
        DataError: If there are no scores, one is not finite, they differ in length, or all
            pictures are of one kind.
    """
    image_scores = checked_scores("scores", scores)
    bad = np.asarray(defective, dtype=bool)
    if bad.shape != image_scores.shape or bad.all() or not bad.any():
        msg = (
            "F1 needs good and defective pictures, each with a score; got "
            f"{int((~bad).sum())} good, {int(bad.sum())} defective and {image_scores.size} scores."
        )
        raise DataError(msg)
    threshold, f1 = _best_f1(image_scores, bad)
    pixel_threshold, pixel_scale = None, None
    if map_maxima is not None:
        pixel_scores = checked_scores("map_maxima", map_maxima, like=image_scores)
        pixel_threshold = _pixel_threshold(pixels, (pixel_scores, bad))
        pixel_scale = scale_of(pixel_threshold, pixel_scores[~bad])
    return Calibration(
        threshold=threshold,
        scale=scale_of(threshold, image_scores[~bad]),
        pixel_threshold=pixel_threshold,
        pixel_scale=pixel_scale,
        rate=None,
        promised_rate=None,
        num_images=int((~bad).sum()),
        num_defective=int(bad.sum()),
        f1=f1,
        scores=kept_of(image_scores[~bad]),
    )


def _pixel_threshold(
    pixels: tuple[NDArray[Any], NDArray[np.bool_]] | LabelledPixels | None,
    pictures: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> float:
    """That of pixels, or of the largest of each map where no defective pixel is known."""
    if isinstance(pixels, LabelledPixels):
        if pixels.defective and pixels.columns is not None:
            return _best_f1_on_disk(pixels, pixels.columns[0])
        pixels = pixels.held() if pixels.defective else None
    return _best_f1(*(pictures if pixels is None or not pixels[1].any() else pixels))[0]


def _best_f1(scores: NDArray[Any], defective: NDArray[np.bool_]) -> tuple[float, float]:
    """A threshold to be above of, and its F1 score."""
    best = f1_max(scores, defective)
    assert best is not None  # there are defective ones
    below = scores[scores < best.threshold]
    if not below.size:  # all are called defective
        return best.threshold - margin_of(best.threshold, scores), best.value
    return _midway(float(below.max()), best.threshold), best.value


def _best_f1_on_disk(pixels: LabelledPixels, scores: Column) -> float:
    """The threshold of `_best_f1`, of more scores than fit into memory."""
    best = pixels.f1_max()
    assert best is not None  # there are defective ones
    lower, highest = -math.inf, -math.inf
    for part in parts(scores.size):
        some = scores[part]
        below = some[some < best.threshold]
        lower = max([lower, *([float(below.max())] if below.size else [])])
        highest = max(highest, float(some.max()))
    if math.isinf(lower):
        # A margin is of their median and their ends; the lowest is the threshold.
        those = np.array([best.threshold, median_of(scores), highest], scores.dtype)
        return best.threshold - margin_of(best.threshold, those)
    return _midway(lower, best.threshold)


def _midway(lower: float, upper: float) -> float:
    middle = (upper + lower) / 2
    return middle if middle < upper else lower
