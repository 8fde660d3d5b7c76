"""One finding as a picture for people: the part beside itself under its heat map, and a label."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.calibration import Calibration
from ad.runtime.findings import Finding
from ad.runtime.framing import Framing, Size
from ad.runtime.heatmaps import heat_of, overlay, shown_size
from ad.runtime.regions import mask_of

Colours = Literal["threshold", "picture"]
"""From the threshold up, or each picture's own range."""


def overlay_of(
    finding: Finding,
    picture: NDArray[np.uint8],
    framing: Framing,
    calibration: Calibration | None,
    *,
    blue: str | None = None,
    min_area: int = 1,
    colours: Colours = "threshold",
) -> Image.Image:
    """Lay what was found over the picture it was found in; see `ad.runtime.heatmaps.overlay`.

    Without a pixel threshold colours are of the picture's own range, which the label says. With it
    the finding's regions are outlined.

    Args:
        finding: With a map.
        picture: ``[H, W, 3]``, RGB; or ``[H, W, 4]``, whose fourth channel means nothing.
        framing: How the picture became what was scored.
        calibration: What its verdict was made by.
        blue: What its outline, if it has one, is of.
        min_area: Of the smallest region, as the finding was made by.
        colours: Whether these start just below the pixel threshold, or go from the picture's own
            lowest to its highest value, whatever that is, and the label says so.
    """
    assert finding.map is not None
    threshold = None if calibration is None else calibration.pixel_threshold
    own = colours == "picture" or threshold is None
    label = f"score {finding.score:.4g}"
    if calibration is not None and finding.normalized is not None:
        label = f"{finding.verdict}   {label}   {finding.normalized:.2f} of 1"
    if own:
        label += "   colours: this picture's own range"
    if finding.outline is not None:
        label += f"   blue: {blue}"
    size = Size(*picture.shape[:2])
    # Not at the size of a picture that is shown reduced: that would take longer than all else.
    width, height = shown_size(size[::-1])
    shown = Size(min(height, size.height), min(width, size.width))
    heat = framing.back_small(heat_of(finding.map, None if own else calibration), size, shown)
    second = None if finding.outline is None else framing.back_small(finding.outline, size, shown)
    if threshold is None:
        return overlay(picture, heat, label, outline=False, second=second)
    outline = mask_of(finding.map, size, framing, threshold, min_area)
    return overlay(picture, heat, label, outline=outline, second=second)
