"""How much of each defect is found: AUPRO, the area under the per-region overlap curve.

Per-region overlap at a threshold is the share of a defect's pixels that score at least as much,
averaged over all defects of all pictures, so that a small defect counts as much as a large one.
The curve runs over the false-positive rate of the normal pixels of all pictures, good ones
included, and its area is taken up to a limit and divided by the limit.

Source: Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021), section 5; regions
are 8-connected as there. Where its curve is sampled at thresholds, this one is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.errors import DataError, SettingError
from ad.core.metrics.counting import RankCounts, count_ranks, parts, summed
from ad.core.metrics.ranking import score_type


def aupro(
    maps: Sequence[NDArray[Any]] | NDArray[Any],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    limit: float = 0.3,
) -> float | None:
    """Area under the per-region overlap curve up to a false-positive rate.

    Args:
        maps: ``[N, H, W]``, or N times ``[H, W]`` whose sizes may differ; finite, higher is more
            anomalous.
        masks: Of the same shapes; True on defects.
        limit: Largest false-positive rate, in (0, 1].

    Returns:
        In [0, 1]; None if there is no defect or no normal pixel.

    Raises:
        DataError: If a map is not finite, a mask is not bool, or their shapes differ.
        SettingError: If the limit is out of range.
    """
    check_limit(limit)
    return region_overlap_area(count_pixels(maps, masks, limit=limit), limit)


def region_overlap_area(counts: RankCounts, limit: float) -> float | None:
    """AUPRO from the counts of `count_pixels`.

    Args:
        counts: Their weights say how much of the overlap each score brings; they sum to 1.
        limit: Largest false-positive rate, in (0, 1].

    Returns:
        In [0, 1]; None without positives or without negatives.

    Raises:
        SettingError: If the limit is out of range.
    """
    check_limit(limit)
    if not counts.num_positives or not counts.num_negatives:
        return None
    # Overlap gained at a score rises from the false-positive rate before it to the one at it in a
    # straight line, ties being undecided, and stays gained from there to the limit. Rates rise from
    # score to score, so that the limit falls into the gain of one score at most.
    whole = 0
    for part in parts(counts.thresholds.size):
        right = counts.negatives_from[part] / counts.num_negatives
        inside = int(np.count_nonzero(right <= limit))
        whole += inside
        if inside < right.size:
            break

    def gained(part: slice) -> NDArray[np.float64]:
        left = counts.negatives_above[part] / counts.num_negatives
        right = counts.negatives_from[part] / counts.num_negatives
        gain: NDArray[np.float64] = counts.weights[part] * (limit - (left + right) / 2)
        return gain

    area = summed(gained, whole)
    if whole < counts.thresholds.size:
        cut = slice(whole, whole + 1)
        left = counts.negatives_above[cut] / counts.num_negatives
        if left[0] < limit:
            width = counts.negatives_from[cut] / counts.num_negatives - left
            area += np.sum(counts.weights[cut] * (limit - left) ** 2 / (2 * width))
    return float(area / limit)


def count_pixels(
    maps: Sequence[NDArray[Any]] | NDArray[Any],
    masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
    counted: Sequence[NDArray[np.bool_]] | NDArray[np.bool_] | None = None,
    *,
    limit: float = 1.0,
) -> RankCounts:
    """Count all pixels; a defective one weighs 1 / (pixels of its region x number of regions).

    Needs one copy of the normal pixels (float32 if the maps are) and about 80 bytes for each
    defective pixel, beyond the maps and masks; with a limit below 1 also a second copy of the
    normal pixels that reach it.

    Args:
        maps: As for `aupro`.
        masks: As for `aupro`.
        counted: Of the same shapes; False on pixels that are left out. A region is what of it
            counts. None leaves out none.
        limit: False-positive rate up to which the counts will be used; see `count_ranks`.

    Raises:
        DataError: As for `aupro`.
    """
    if len(maps) != len(masks):
        msg = f"There must be one mask for each map; got {len(maps)} maps and {len(masks)} masks."
        raise DataError(msg)
    if counted is not None and len(counted) != len(maps):
        msg = f"There must be one of `counted` for each map; got {len(counted)} and {len(maps)}."
        raise DataError(msg)
    ways = [None] * len(maps) if counted is None else counted
    pairs = [
        checked_pair(index, maps[index], masks[index], ways[index]) for index in range(len(maps))
    ]
    dtype = score_type(*(scores for scores, _ in pairs))
    num_pixels = sum(
        mask.size if counts is None else np.count_nonzero(counts)
        for (_, mask), counts in zip(pairs, ways, strict=True)
    )
    num_positives = sum(np.count_nonzero(mask) for _, mask in pairs)
    positives, weights = np.empty(num_positives, dtype), np.empty(num_positives)
    negatives = np.empty(num_pixels - num_positives, dtype)
    num_regions = found = passed = 0
    for (scores, mask), counts in zip(pairs, ways, strict=True):
        defective = scores[mask]
        normal = scores[~mask] if counts is None else scores[counts & ~mask]
        if defective.size:
            positives[found : found + defective.size] = defective
            shares, regions = region_shares(mask)
            weights[found : found + defective.size] = shares
            num_regions += regions
        negatives[passed : passed + normal.size] = normal
        found, passed = found + defective.size, passed + normal.size
    weights /= max(num_regions, 1)
    return count_ranks(positives, negatives, weights, limit=limit)


def region_shares(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], int]:
    """The share that each defective pixel has in its 8-connected region.

    Args:
        mask: ``[H, W]``, at least one pixel True.

    Returns:
        ``[P]``, 1 / (pixels of the region) for each True pixel in reading order, and the number
        of regions.
    """
    from scipy import ndimage  # 0.3 s of import that only AUPRO needs

    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    # Defects are small: labelling their bounding box alone saves most of the time.
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    regions, num_regions = ndimage.label(box, structure=np.ones((3, 3)))
    region_of_pixel = regions[box]
    return 1 / np.bincount(region_of_pixel)[region_of_pixel], int(num_regions)


def check_limit(limit: float) -> None:
    """Check a false-positive rate to integrate to.

    Raises:
        SettingError: If it is out of range.
    """
    if not 0 < limit <= 1:
        msg = f"`limit` is a false-positive rate and must be above 0 and at most 1; got {limit}."
        raise SettingError(msg)


def checked_pair(
    index: int,
    scores: NDArray[Any],
    mask: NDArray[np.bool_],
    counted: NDArray[np.bool_] | None = None,
) -> _Pair:
    """Check the map and the mask of one picture.

    Returns:
        Both; of the mask, what of it is ``counted``.

    Raises:
        DataError: If the map is not finite, the mask is not bool, or their shapes differ.
    """
    scores, mask = np.asarray(scores), np.asarray(mask)
    if scores.ndim != 2 or scores.shape != mask.shape:
        msg = (
            f"Map and mask of picture {index} must both be [H, W] and of one size; "
            f"got {scores.shape} and {mask.shape}."
        )
        raise DataError(msg)
    if mask.dtype != np.bool_:
        msg = f"The mask of picture {index} must be bool; got {mask.dtype}. Use `mask > 0`."
        raise DataError(msg)
    score_type(scores)
    finite = np.isfinite(scores)
    if counted is not None:
        if counted.shape != mask.shape or counted.dtype != np.bool_:
            msg = (
                f"`counted` of picture {index} must be bool and of the map's size; got "
                f"{counted.dtype} {counted.shape} and {mask.shape}."
            )
            raise DataError(msg)
        mask, finite = mask & counted, finite | ~counted
    if not finite.all():
        row, column = np.unravel_index(int(np.argmin(finite)), scores.shape)
        msg = (
            f"Scores must be finite; the map of picture {index} is {scores[row, column]} "
            f"at row {row}, column {column}."
        )
        raise DataError(msg)
    return scores, mask


_Pair = tuple[NDArray[Any], NDArray[np.bool_]]
