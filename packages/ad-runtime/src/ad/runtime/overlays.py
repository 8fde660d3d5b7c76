"""One finding as a picture for people: the part beside itself under its heat map, and a label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.calibration import Calibration
from ad.runtime.findings import Finding
from ad.runtime.framing import Framing
from ad.runtime.heatmaps import heat_of, overlay

Colours = Literal["threshold", "picture"]
"""From the threshold up, or each picture's own range."""


def overlay_of(
    finding: Finding,
    picture: NDArray[np.uint8],
    framing: Framing,
    calibration: Calibration | None,
    *,
    blue: str | None = None,
    colours: Colours = "threshold",
) -> Image.Image:
    """Lay what was found over the picture it was found in; see `ad.runtime.heatmaps.overlay`.

    Without a pixel threshold colours are of the picture's own range, which the label says.

    Args:
        finding: With a map.
        picture: ``[H, W, 3]``, RGB.
        framing: How the picture became what was scored.
        calibration: What its verdict was made by.
        blue: What its outline, if it has one, is of.
        colours: Whether these start just below the pixel threshold, or go from the picture's own
            lowest to its highest value, whatever that is. The threshold is outlined in both.
    """
    assert finding.map is not None
    localised = calibration is not None and calibration.pixel_threshold is not None
    own = colours == "picture" or not localised
    label = f"score {finding.score:.4g}"
    if calibration is not None and finding.normalized is not None:
        label = f"{finding.verdict}   {label}   {finding.normalized:.2f} of 1"
    if own:
        label += "   colours: this picture's own range"
    if finding.outline is not None:
        label += f"   blue: {blue}"
    height, width, _ = picture.shape
    heat = framing.back(heat_of(finding.map, None if own else calibration), (height, width))
    second = None if finding.outline is None else framing.back(finding.outline, (height, width))
    rim = None
    if own and localised:
        rim = framing.back(heat_of(finding.map, calibration), (height, width))
    return overlay(picture, heat, label, outline=localised, rim=rim, second=second)
