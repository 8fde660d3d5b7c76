"""Pictures of what a detector found, for people to look at."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ad.runtime.calibration import Calibration
from ad.runtime.pictures.memory import image_of
from ad.runtime.pictures.opening import WidthHeight

# From "nothing" over yellow to red; alpha too, so that what is normal stays visible.
_STOPS = np.array([0.0, 0.35, 0.5, 0.75, 1.0])
_COLOURS = np.array(
    [[255, 255, 120], [255, 240, 80], [255, 200, 0], [255, 90, 0], [200, 0, 30]], dtype=float
)
_ALPHAS = np.array([0.0, 0.0, 0.35, 0.6, 0.75])
FIRST = (255, 0, 60)
"""Colour of the outline of what is above the threshold: red, green, blue."""
SECOND = (0, 90, 255)
"""Colour of the second outline: red, green, blue."""
_GAP = 8
_SHORT_SIDE, _LONG_SIDE = 256, 1024  # of the picture on the sheet, in pixels


def heat_of(map_: NDArray[np.float32], calibration: Calibration | None) -> NDArray[np.float32]:
    """What is shown of a map: from 0 to 1.

    Args:
        map_: ``[H, W]``; NaN where nothing is looked at.
        calibration: With a pixel threshold, that is 0.5; otherwise the map has its own range.

    Returns:
        ``[H, W]``; NaN where the map is.
    """
    seen = ~np.isnan(map_)
    heat = np.full(map_.shape, np.nan, dtype=np.float32)
    values = map_[seen]
    if calibration is not None and calibration.pixel_threshold is not None:
        heat[seen] = calibration.normalize_map(values)
    elif values.size:
        low, high = values.min(), values.max()
        heat[seen] = (values - low) / max(high - low, np.finfo(np.float32).tiny)
    return heat


def overlay(
    picture: NDArray[np.uint8],
    heat: NDArray[np.floating],
    label: str,
    *,
    outline: bool | NDArray[np.bool_] = True,
    second: NDArray[np.floating] | None = None,
) -> Image.Image:
    """Lay a heat map over a picture, beside the picture itself.

    Args:
        picture: ``[H, W, 3]``, RGB; or ``[H, W, 4]``, whose fourth channel means nothing.
        heat: ``[h, w]`` in [0, 1]; 0.5 is the pixel threshold. NaN is left as it is.
        label: One line of text under the pictures: score and verdict.
        outline: Whether to outline where the heat passes the threshold; or, to outline in place of
            that, which pixels of the picture, ``[H, W]``.
        second: ``[h, w]``: what to outline in blue, where it is above 0; NaN is outside.

    Returns:
        The picture on the left, the same under the heat map on the right, the label below.
        Small pictures are enlarged so that the label can be read, large ones reduced.
    """
    plain = image_of(picture)
    size = shown_size(plain.size)
    if size != plain.size:
        # The gap lets it first be reduced by a whole number: half the time, two grey levels apart.
        plain = plain.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.5)
    plain = plain.convert("RGB")
    smooth = _resized(np.nan_to_num(heat), size)
    if (outside := np.isnan(heat)).any():  # what is not looked at is cold, however hot it is beside
        nearest = Image.fromarray(outside).resize(size, Image.Resampling.NEAREST)
        smooth = np.where(np.asarray(nearest), np.float32(0), smooth)
    mixed = _mixed(np.asarray(plain), np.rint(smooth.clip(0, 1) * 255).astype(np.uint8))
    if not isinstance(outline, bool):
        mixed[_rim(_any(outline, size))] = FIRST
    elif outline:
        mixed[_rim(smooth >= 0.5)] = FIRST
    if second is not None:
        mixed[_rim(_resized(np.nan_to_num(second), size) > 0)] = SECOND

    text_height = 22
    sheet = Image.new("RGB", (2 * size[0] + _GAP, size[1] + text_height), "white")
    sheet.paste(plain, (0, 0))
    sheet.paste(Image.fromarray(mixed), (size[0] + _GAP, 0))
    ImageDraw.Draw(sheet).text((4, size[1] + 3), label, fill="black", font_size=14)
    return sheet


def shown_size(picture: WidthHeight) -> WidthHeight:
    """Width and height at which `overlay` shows a picture of that width and height."""
    scale = max(1.0, _SHORT_SIDE / min(picture))
    scale = min(scale, _LONG_SIDE / max(picture))
    return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))


def _mixed(picture: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay the colours of heat ``[H, W]``, 0 to 255, over a picture ``[H, W, 3]``."""
    mixed = np.empty_like(picture)
    row = levels.astype(np.uint16) << 8
    for channel, mixtures in enumerate(_mixtures()):
        mixed[..., channel] = mixtures.take(row | picture[..., channel])
    return mixed


@functools.cache
def _mixtures() -> NDArray[np.uint8]:
    """What becomes of each value of red, green and blue under each level of heat.

    Returns:
        ``[3, 65536]``: for level 0 the values 0 to 255, then for level 1, and so on.
    """
    colours, alpha = np.split(_table().astype(np.float32), [3], axis=1)
    mixed = np.arange(256, dtype=np.uint8) * (1 - alpha) + (colours * alpha).T[..., None]
    return np.rint(mixed).astype(np.uint8).reshape(3, -1)


def _resized(map_: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float32]:
    image = Image.fromarray(map_.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _any(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another width and height: where it is reduced nothing that is thin is lost."""
    for axis, want in enumerate(reversed(size)):
        have = mask.shape[axis]
        if want < have:
            some = np.flatnonzero(mask.any(axis=1 - axis))  # of most rows and columns nothing
            starts = np.arange(want) * have // want
            places, firsts = np.unique(starts.searchsorted(some, "right") - 1, return_index=True)
            whole = np.zeros((want, mask.shape[1]) if axis == 0 else (len(mask), want), dtype=bool)
            if some.size:
                parts = np.logical_or.reduceat(mask.take(some, axis=axis), firsts, axis=axis)
                whole[(slice(None),) * axis + (places,)] = parts
            mask = whole
        elif want > have:
            mask = mask.take((np.arange(want) * 2 + 1) * have // (2 * want), axis=axis)
    return mask


def _rim(above: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of areas that have a neighbour outside."""
    inner = above.copy()
    inner[1:-1, 1:-1] = (
        above[1:-1, 1:-1] & above[:-2, 1:-1] & above[2:, 1:-1] & above[1:-1, :-2] & above[1:-1, 2:]
    )
    return above & ~inner


def colour_table() -> NDArray[np.uint8]:
    """The colours of heat maps, for those who lay them over pictures elsewhere.

    Returns:
        ``[256, 4]``: red, green, blue and alpha of heat 0 to 1; alpha is 255 where opaque.
    """
    table = _table()
    table[:, 3] *= 255
    return np.rint(table).astype(np.uint8)


def _table() -> NDArray[np.float64]:
    levels = np.linspace(0, 1, 256)
    return np.stack([np.interp(levels, _STOPS, c) for c in (*_COLOURS.T, _ALPHAS)], axis=-1)
