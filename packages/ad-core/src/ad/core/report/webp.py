"""Small pictures and maps for pages, as WebP."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.calibration import Calibration
from ad.runtime.heatmaps import heat_of
from ad.runtime.pictures.memory import image_of
from ad.runtime.pictures.opening import WidthHeight

SIDE: Final = 256
"""Longest side of a picture, in pixels."""
MAP_SIDE: Final = 128
"""That of a map, which has nothing finer to show."""

_QUALITY, _MAP_QUALITY = 70, 80
_OWN_QUALITY = 60  # of a second map of each picture, which nobody measures in
_METHOD = 1  # a millisecond a picture; the slowest one takes ten for a tenth fewer bytes


def picture_webp(pixels: NDArray[np.uint8], side: int = SIDE) -> bytes:
    """A picture, RGB, no side longer than a number of pixels.

    Args:
        pixels: ``[H, W, 3]``, or ``[H, W, 4]``, whose fourth channel means nothing.
        side: That number.
    """
    return _small(pixels, side, _QUALITY)


def _small(pixels: NDArray[np.uint8], side: int, quality: int) -> bytes:
    """A picture ``[H, W]`` or ``[H, W, 3]`` as WebP, no side longer than that in pixels."""
    return encoded(reduced(pixels, side), quality=quality)


def map_webps(
    map_: NDArray[np.float32],
    calibration: Calibration | None,
    *,
    side: int = MAP_SIDE,
    back: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> tuple[bytes, bytes | None]:
    """A map in grey: its heat, and its heat from its own lowest to its own highest value.

    Around a pixel threshold a logistic curve presses all that is far below it into a few levels,
    and what a missed defect looks like is just that.

    Args:
        map_: ``[H, W]``; NaN where nothing is looked at, which is cold.
        calibration: What makes maps comparable.
        side: Longest side in pixels.
        back: Brings heat to the picture's shape; as it is without.

    Returns:
        127.5 at the pixel threshold, if there is one, and its own range; the latter and None if
        there is none.
    """
    found = []
    localised = calibration is not None and calibration.pixel_threshold is not None
    ways = [(calibration, _MAP_QUALITY), (None, _OWN_QUALITY)]
    for by, quality in ways if localised else ways[:1]:
        heat = heat_of(map_, by)
        heat = np.nan_to_num(heat if back is None else back(heat)).clip(0, 1)
        levels = np.rint(heat * 255).astype(np.uint8)
        found.append(_small(levels, side, quality))
    return found[0], found[1] if localised else None


def inside_webp(inside: NDArray[np.bool_], side: int | None = None) -> bytes:
    """White where something is inside ``[H, W]``, without loss."""
    levels = inside.astype(np.uint8) * 255
    image = Image.fromarray(levels) if side is None else reduced(levels, side)
    return encoded(image, lossless=True)


def reduced(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """An image no side of which is longer than a number of pixels."""
    image = image_of(pixels) if pixels.ndim == 3 else Image.fromarray(pixels)
    if max(image.size) > side:
        # The gap lets it first be reduced by a whole number: a third of the time, a level apart.
        to = within(image.size, side)
        image = image.resize(to, Image.Resampling.BILINEAR, reducing_gap=3.0)
    return image.convert("RGB") if image.mode == "RGBX" else image


def reduced_map(map_: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map ``[H, W]`` no side of which is longer than is shown; its lowest value for NaN."""
    seen = map_[~np.isnan(map_)]
    known = np.nan_to_num(map_, nan=float(seen.min()) if seen.size else 0.0)
    image = Image.fromarray(known.astype(np.float32))
    if max(image.size) > MAP_SIDE:
        image = image.resize(within(image.size, MAP_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image)


def within(size: WidthHeight, side: int) -> WidthHeight:
    """Width and height in the same proportion, the longer one of a given length."""
    longer = max(size)
    return max(1, round(size[0] * side / longer)), max(1, round(size[1] * side / longer))


def encoded(image: Image.Image, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    """An image as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", method=_METHOD, **options)
    return buffer.getvalue()
