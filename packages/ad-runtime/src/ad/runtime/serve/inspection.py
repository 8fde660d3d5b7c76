"""One picture for a person or a controller: its verdict, where it is bad, and how that looks."""

from __future__ import annotations

import base64
import io
import math
from email.message import Message
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.calibration import Calibration
from ad.runtime.findings import Finding
from ad.runtime.framing import Framing, Size
from ad.runtime.heatmaps import colour_table, heat_of
from ad.runtime.overlays import overlay_of
from ad.runtime.pictures.opening import drawn_png
from ad.runtime.pictures.reading import glimpse
from ad.runtime.runtime import Runtime
from ad.runtime.serve.limits import Refused

OVERLAYS: Final = ("png", "inline")
"""``png``: the answer is a sheet to look at. ``inline``: the answer has the heat in it, too."""

_LONG_SIDE = 1024  # pixels of the heat that is laid over a picture


def picture_in(body: bytes, content_type: str) -> bytes:
    """The picture's file in a request: its body, or the one file of a form.

    Args:
        body: Of the request.
        content_type: As it was sent.

    Raises:
        Refused: If a form holds something else.
    """
    header = Message()
    header["content-type"] = content_type
    if header.get_content_maintype() != "multipart":
        return body
    boundary = header.get_boundary("")
    if header.get_content_type() != "multipart/form-data" or not boundary:
        msg = "The body must be a picture's file, or a form (multipart/form-data) with one."
        raise Refused(415, msg)
    before, *parts = b"\r\n".join([b"", body]).split(b"\r\n--" + boundary.encode("latin-1"))
    if before.strip() or len(parts) != 2 or not parts[1].startswith(b"--"):
        msg = (
            f"The form must have one part, a picture's file, and an end; got {len(parts)} pieces. "
            "Send other things, such as `category`, in the address: ?category=NAME."
        )
        raise Refused(400, msg)
    head, empty_line, content = parts[0].partition(b"\r\n\r\n")
    if not empty_line or b"filename" not in head.lower():
        msg = "The form's part must be a file: give it a `filename`."
        raise Refused(400, msg)
    return content


def overlay_png(
    finding: Finding,
    content: bytes,
    runtime: Runtime,
    made_by: Calibration | None,
    *,
    min_area: int = 1,
) -> bytes:
    """The sheet that `ad-runtime predict --heatmaps` writes.

    Args:
        finding: With a map.
        content: Of the picture's file.
        runtime: By which it was found.
        made_by: The calibration of its verdict.
        min_area: Of the smallest region.
    """
    picture = glimpse(content, white=runtime.config.white_level)
    framing = runtime.config.framing
    sheet = overlay_of(finding, picture, framing, made_by, min_area=min_area)
    return drawn_png(sheet, compress_level=1)


def heat_png(finding: Finding, size: Size, framing: Framing, made_by: Calibration | None) -> str:
    """The heat of a picture to lay over it: clear where nothing is, of the picture's proportions.

    Args:
        finding: With a map.
        size: Of the picture.
        framing: How it became what was scored.
        made_by: The calibration of its verdict.

    Returns:
        A PNG as a ``data:`` address.
    """
    assert finding.map is not None
    step = max(1, math.ceil(max(size) / _LONG_SIDE))
    reduced = Size(*(max(1, round(side / step)) for side in size))
    heat = framing.back_small(heat_of(finding.map, made_by), size, reduced)
    if heat.shape == size:
        heat = heat[::step, ::step]
    levels: NDArray[np.uint8] = np.rint(np.nan_to_num(heat).clip(0, 1) * 255).astype(np.uint8)
    pixels = colour_table()[levels]
    pixels[np.isnan(heat)] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def told(finding: Finding, calibration: Calibration | None) -> dict[str, Any]:
    """The verdict and the regions as JSON values; null where there is no calibration."""
    regions = finding.regions or ()
    return {
        "score": finding.score,
        "normalized": finding.normalized,
        "anomalous": finding.anomalous,
        "threshold": None if calibration is None else calibration.threshold,
        "regions": [[*one[:4], one.peak, one.area] for one in regions],
        "num_regions": finding.num_regions,
    }
