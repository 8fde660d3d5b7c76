"""What was found in one picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found in one picture."""

    path: Path | None
    """The picture's file; None for an image, bytes or an array."""
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
