"""What was found in one picture."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ad.runtime.budget import free_memory
from ad.runtime.calibration import Calibration
from ad.runtime.errors import PictureError, SettingError
from ad.runtime.framing import Framing, Size
from ad.runtime.pictures.reading import Source
from ad.runtime.regions import Region, check_min_area, regions_in

Maps = NDArray[np.float32] | None
"""``[B, h, w]`` of some pictures, or ``[h, w]`` of one; None where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one picture."""

    path: Path | None
    """The picture's file, or a `Frame` of a video; None for an image, bytes or an array."""
    score: float | None
    """Raw anomaly score, higher is worse; None if the picture could not be read."""
    normalized: float | None = None
    """Score from 0 to 1 with 0.5 at the threshold; None without calibration."""
    anomalous: bool | None = None
    """The verdict; None without calibration."""
    map: NDArray[np.float32] | None = None
    """``[H, W]``: score per pixel at the detector's input size, or of the whole picture if it was
    cut into tiles, NaN outside the region of interest if it has one; None if it cannot localise.
    `Framing.back` brings it to the picture's pixels."""
    outline: NDArray[np.float32] | None = None
    """As ``map``: above 0 where a test of the detector's own finds something; None where it has
    none or was not asked."""
    regions: tuple[Region, ...] | None = None
    """Where it is above the pixel threshold, in the picture's own pixels, largest first, at most
    100: connected pixels, by a side or a corner, of the map that `Framing.back` gives. None
    without maps or without a pixel threshold."""
    num_regions: int | None = None
    """How many there are; None exactly if `regions` is."""
    error: str | None = None
    """Why the picture could not be read, or None."""

    @property
    def verdict(self) -> str:
        """``good``, ``defective``, ``unknown`` (no threshold) or ``error``."""
        if self.error is not None:
            return "error"
        if self.anomalous is None:
            return "unknown"
        return "defective" if self.anomalous else "good"


class SomePictures(Protocol):
    """Some of many pictures that were read."""

    indices: list[int]
    """Which ones, ``B`` of them; those that could not be read are not among them."""
    errors: list[tuple[int, PictureError]]
    """Index and reason of those that could not be read."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Height and width of each of the ``B``, upright, in its own pixels."""


def findings_of(
    sources: Sequence[Source],
    batch: SomePictures,
    scores: NDArray[np.float32],
    maps: Maps,
    calibration: Calibration | None,
    *,
    framing: Framing,
    min_area: int = 1,
    outlines: Maps = None,
) -> list[Finding]:
    """What was found in some pictures, in their order.

    Args:
        sources: All pictures.
        batch: Which of them.
        scores: ``[B]``.
        maps: ``[B, h, w]``, or None.
        calibration: What verdicts are made by; None for none.
        framing: How pictures became what was scored.
        min_area: Of the smallest region, in pixels of the picture.
        outlines: ``[B, h, w]``, or None.
    """
    found = {
        index: Finding(path=_path(sources[index]), score=None, error=str(error))
        for index, error in batch.errors
    }
    for row, index in enumerate(batch.indices):
        map_, outline = (None if all_ is None else all_[row] for all_ in (maps, outlines))
        found[index] = finding_of(
            sources[index],
            float(scores[row]),
            map_,
            calibration,
            outline,
            size=Size(*batch.sizes[row]),
            framing=framing,
            min_area=min_area,
        )
    return [found[index] for index in sorted(found)]


def finding_of(
    source: Source,
    score: float,
    map_: Maps,
    calibration: Calibration | None,
    outline: Maps = None,
    *,
    size: Size,
    framing: Framing,
    min_area: int | None = 1,
) -> Finding:
    """What was found in one picture, with the verdict on it.

    Args:
        source: The picture.
        score: Raw.
        map_: ``[h, w]``, or None.
        calibration: What the verdict is made by; None for none.
        outline: ``[h, w]``, or None.
        size: Of the picture, upright, in its own pixels.
        framing: How it became what was scored.
        min_area: Of the smallest region, in these pixels; None if regions are not asked for.
    """
    regions, count = None, None
    threshold = None if calibration is None else calibration.pixel_threshold
    if min_area is not None and map_ is not None and threshold is not None:
        regions, count = regions_in(map_, size, framing, threshold, min_area)
    return Finding(
        path=_path(source),
        score=score,
        normalized=float(calibration.normalize(score)) if calibration else None,
        anomalous=bool(calibration.is_anomalous(score)) if calibration else None,
        map=map_,
        outline=outline,
        regions=regions,
        num_regions=count,
    )


_MANY = 2**28
"""Bytes of maps of findings from which on it is looked at whether they may fill the memory."""


def all_findings(findings: Iterable[Finding]) -> list[Finding]:
    """All of them; warns, once, when what is kept of maps reaches half of the memory there was."""
    kept: list[Finding] = []
    size, limit = 0, _MANY
    for finding in findings:
        kept.append(finding)
        size += sum(one.nbytes for one in (finding.map, finding.outline) if one is not None)
        if size < limit:
            continue
        free = free_memory()
        if free is None or size <= free:
            limit = sys.maxsize if free is None else (size + free) // 2 + 1
            continue
        warnings.warn(
            f"`predict` gives all findings at once: the maps of the first {len(kept):,} take "
            f"{size / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are left. `stream` "
            "gives one finding at a time.",
            stacklevel=3,
        )
        limit = sys.maxsize
    return kept


def _path(source: Source) -> Path | None:
    return source if isinstance(source, Path) else None


def check_batch_size(batch_size: int) -> None:
    """Refuse a number of pictures at once that cannot be.

    Raises:
        SettingError: If it is no whole number from 1.
    """
    if type(batch_size) is not int or batch_size < 1:
        msg = f"`batch_size` must be a whole number from 1; got {batch_size!r}."
        raise SettingError(msg)


def least_area(
    min_area: int | None, calibration: Calibration | None, *, name: str, localises: bool
) -> int:
    """The area of the smallest region that is told, in pixels of the picture.

    Args:
        min_area: As it was given; None for all regions.
        calibration: What verdicts are made by.
        name: Of the model, for an error.
        localises: Whether it has maps.

    Raises:
        SettingError: If it cannot be, or there are no regions that it could be of.
    """
    if min_area is None:
        return 1
    check_min_area(min_area)
    if not localises:
        why = f"`{name}` judges pictures as a whole and has no regions"
    elif calibration is None or calibration.pixel_threshold is None:
        why = f"`{name}` has no pixel threshold, so that there are no regions above it"
    else:
        return min_area
    msg = f"`min_area` {min_area}: {why}. Leave it out."
    raise SettingError(msg)
