"""The figures that a run reports, by the names that files and tables use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.core.metrics.counting import RankCounts
from ad.core.metrics.ranking import count_labelled
from ad.core.metrics.regions import count_pixels, region_overlap_area
from ad.core.metrics.streamed import Labelled, count_streamed_pixels


def image_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """How well image scores tell bad pictures from good ones.

    Args:
        scores: ``[N]``, finite, higher is more anomalous.
        labels: ``[N]``, bool, or integers 0 (normal) and 1 (anomalous).

    Returns:
        ``image_auroc``, ``image_ap``, ``image_f1max``, each in [0, 1] or None if undefined.

    Raises:
        DataError: If scores are not finite, labels are no labels, or their shapes differ.
    """
    return _ranking(count_labelled(scores, labels), "image")


def pixel_metrics(
    maps: Sequence[NDArray[Any]] | NDArray[Any],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    counted: Sequence[NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
) -> dict[str, float | None]:
    """How well anomaly maps show where the defects are.

    All five figures share one sort of the normal pixels and one of the defective ones. 35 million
    float32 pixels take one to two seconds on two cores, and one float32 copy of the normal ones.

    Args:
        maps: ``[N, H, W]``, or N times ``[H, W]`` whose sizes may differ; finite, higher is more
            anomalous. Give good pictures too: their pixels are normal pixels.
        masks: Of the same shapes; True on defects.
        counted: Of the same shapes; False on pixels that are left out, whatever they score. None
            leaves out none.

    Returns:
        ``pixel_auroc``, ``pixel_ap``, ``pixel_f1max``, ``aupro`` (false-positive rate up to 0.3)
        and ``aupro_05`` (up to 0.05), each in [0, 1] or None if undefined.

    Raises:
        DataError: If a map is not finite, a mask is not bool, or their shapes differ.
    """
    return _pixel_figures(count_pixels(maps, masks, counted))


def streamed_pixel_metrics(
    pictures: Callable[[bool], Iterable[Labelled]],
) -> dict[str, float | None]:
    """As `pixel_metrics`, to the last bit, of more maps than fit into memory.

    Args:
        pictures: See `ad.core.metrics.streamed.count_streamed_pixels`.

    Raises:
        DataError: As `pixel_metrics` does.
        OutputError: If a temporary file does not fit onto its disk.
    """
    return _pixel_figures(count_streamed_pixels(pictures))


def _pixel_figures(counts: RankCounts) -> dict[str, float | None]:
    return _ranking(counts, "pixel") | {
        "aupro": region_overlap_area(counts, 0.3),
        "aupro_05": region_overlap_area(counts, 0.05),
    }


def _ranking(counts: RankCounts, level: str) -> dict[str, float | None]:
    best = counts.f1_max()
    return {
        f"{level}_auroc": counts.auroc(),
        f"{level}_ap": counts.average_precision(),
        f"{level}_f1max": None if best is None else best.value,
    }
