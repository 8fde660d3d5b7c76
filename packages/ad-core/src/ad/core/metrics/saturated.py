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
from ad.core.metrics.counting import RankCounts, Scores, count_negatives, group_ties
from ad.core.metrics.ranking import score_type
from ad.core.metrics.regions import check_limit, checked_pair, region_overlap_area

_PIXELS_AT_ONCE = 1 << 26  # normal pixels that are held and sorted together: 256 MiB


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
    divided by the number of defects. Memory is for those and for one picture at a time, however
    many there are.

    Args:
        pictures: Called twice, to go through all pictures once for the defects and once for what
            is normal.

    Raises:
        DataError: As for `au_spro`.
    """
    bringing: list[Scores] = []
    shares: list[NDArray[np.float64]] = []
    for index, (scores, defects) in enumerate(pictures()):
        for defect in defects:
            found = _highest(index, scores, defect)
            bringing.append(found)
            shares.append(np.full(found.size, 1 / found.size))
    if not bringing:
        nothing = np.zeros(0, dtype=np.int64)
        empty = np.zeros(0)
        return RankCounts(empty, nothing, nothing, nothing, empty, 0, 0)
    positives = np.concatenate(bringing, dtype=score_type(*bringing))
    thresholds, at, weights = group_ties(positives, np.concatenate(shares) / len(shares))
    above = np.zeros(thresholds.size, dtype=np.int64)
    at_or_above = np.zeros(thresholds.size, dtype=np.int64)
    num_normal = 0
    for normal in _normal_pixels(pictures()):
        more_above, more_from = count_negatives(normal, thresholds, floor=thresholds[0])
        above += more_above
        at_or_above += more_from
        num_normal += normal.size
    return RankCounts(
        thresholds=thresholds[::-1],
        positives_at=at[::-1],
        negatives_above=above[::-1],
        negatives_from=at_or_above[::-1],
        weights=weights[::-1],
        num_positives=positives.size,
        num_negatives=num_normal,
    )


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
    """Scores of the pixels in no defect, of as many pictures together as may be held at once."""
    held: list[Scores] = []
    for index, (scores, defects) in enumerate(pictures):
        anywhere = np.zeros(np.shape(scores), dtype=np.bool_)
        for defect in defects:
            anywhere |= defect.mask
        scores, anywhere = checked_pair(index, scores, anywhere)
        held.append(scores[~anywhere])
        if sum(normal.size for normal in held) >= _PIXELS_AT_ONCE:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)
