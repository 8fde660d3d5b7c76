"""How much of each defect is found, up to the part that has to be: AU-sPRO, for MVTec LOCO.

Something that is missing could be in many places. All of them are marked, and finding as many
pixels as the thing would cover is enough: the defect's saturation. Saturated overlap at a threshold
is the number of a defect's pixels that score at least as much, at most its saturation, divided by
the saturation, and averaged over all defects of all pictures. The curve runs over the
false-positive rate of the pixels in no defect; its area up to a limit is divided by the limit.

Source: Bergmann et al., "Beyond dents and scratches: logical constraints in unsupervised anomaly
detection and localization" (IJCV 2022), section 5. Where its curve is sampled at thresholds, this
one is exact. With each 8-connected region as a defect that saturates at its size, it is AUPRO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.core.errors import DataError
from ad.core.metrics.counting import RankCounts, Scores
from ad.core.metrics.regions import check_limit, checked_pair, region_overlap_area
from ad.core.metrics.streamed import Positives


class Defect(NamedTuple):
    """One defect of a picture; defects may overlap."""

    mask: NDArray[np.bool_]
    """``[H, W]``, True on the defect."""
    saturation: int
    """Pixels of it that have to be found, from 1 to all of them."""


Picture = tuple[NDArray[Any], Sequence[Defect]]
"""The map of a picture and its defects, of one size."""


def au_spro(
    maps: Sequence[NDArray[Any]], defects: Sequence[Sequence[Defect]], limit: float = 0.05
) -> float | None:
    """Area under the curve of saturated per-region overlap up to a false-positive rate.

    Args:
        maps: N times ``[H, W]``, whose sizes may differ; finite, higher is more anomalous.
        defects: Of each picture; none of a good one.
        limit: Largest false-positive rate, in (0, 1].

    Returns:
        In [0, 1]; None if there is no defect or no normal pixel.

    Raises:
        DataError: If a map is not finite, a mask is not bool, is empty or of another shape, or a
            saturation is out of range.
        SettingError: If the limit is out of range.
    """
    check_limit(limit)
    if len(maps) != len(defects):
        msg = f"There must be defects for each map; got {len(maps)} maps and {len(defects)} lists."
        raise DataError(msg)
    counts = count_saturated(lambda: zip(maps, defects, strict=True))
    return region_overlap_area(counts, limit)


def count_saturated(pictures: Callable[[], Iterable[Picture]]) -> RankCounts:
    """Count the pixels that bring saturated overlap, and the normal ones above each of them.

    Of a defect that saturates at s pixels, only the s highest scores bring anything: 1 / s each,
    divided by the number of defects. Memory is for those, up to a budget, and for some millions of
    the normal ones, however many there are.

    Args:
        pictures: Called twice, to go through all pictures once for the defects and once for what
            is normal.

    Raises:
        DataError: As for `au_spro`.
    """
    positives = Positives()
    num_defects = 0
    for index, (scores, defects) in enumerate(pictures()):
        for defect in defects:
            found = _highest(index, scores, defect)
            positives.add(found, np.full(found.size, 1 / found.size))
            num_defects += 1
    return positives.count(num_defects, _normal_pixels(pictures()))


def _highest(index: int, scores: NDArray[Any], defect: Defect) -> Scores:
    scores, mask = checked_pair(index, scores, defect.mask)
    inside = scores[mask]
    if not 1 <= defect.saturation <= inside.size:
        msg = (
            f"The saturation of a defect must be from 1 to its {inside.size} pixels; got "
            f"{defect.saturation} in picture {index}."
        )
        raise DataError(msg)
    highest: Scores = np.partition(inside, inside.size - defect.saturation)[-defect.saturation :]
    return highest


def _normal_pixels(pictures: Iterable[Picture]) -> Iterator[Scores]:
    """Scores of the pixels of each picture that are in no defect."""
    for index, (scores, defects) in enumerate(pictures):
        anywhere = np.zeros(np.shape(scores), dtype=np.bool_)
        for defect in defects:
            anywhere |= defect.mask
        scores, anywhere = checked_pair(index, scores, anywhere)
        yield scores[~anywhere]
