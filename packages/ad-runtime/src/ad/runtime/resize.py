"""`ad-bilinear-1`: resize as detectors learnt to see, bit for bit as torch does, without torch.

What torch does to uint8 in ``interpolate(mode="bilinear", antialias=True)``, which is Pillow's
way with fewer bits: first the width, then the height, each a weighted sum in whole numbers that
is rounded to uint8. Pillow itself differs by a grey level in up to 18 % of the values, which moves
scores by most of the width of a calibration's curve.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import SettingError

NAME = "ad-bilinear-1"
"""What an exported model calls this way of resizing."""

LEAST = 2
"""Pixels of a side: at 1, torch's own kernels differ from one another."""

_OUTPUTS = 8  # of one product: more would multiply more zeros, fewer would be more products
_STRIP = 2**18  # values that are floating point at once, so that they stay in the cache
_EXACT_FLOAT32 = 2**24  # whole numbers below are exact in float32, in whatever order they are added


class _Part(NamedTuple):
    """Some neighbouring outputs of an axis, and the inputs that they need."""

    outputs: slice
    inputs: slice
    weights: NDArray[np.floating]
    """``[outputs, inputs]``, of sum 1 but for their rounding."""


def resize(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize a picture, bilinear with antialiasing, as a detector's training did.

    Args:
        picture: ``[H, W, 3]``.
        size: Height and width of the result; the whole picture is kept, not its aspect ratio.

    Returns:
        ``[h, w, 3]``; the picture itself if it is of that size.

    Raises:
        SettingError: If a side would be below `LEAST`, or the picture is no such array.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        msg = f"A picture must be uint8 [H, W, 3]; got {picture.dtype} {list(picture.shape)}."
        raise SettingError(msg)
    height, width = size
    if min(size) < LEAST and size != picture.shape[:2]:
        msg = (
            f"A picture cannot be resized to {height} x {width} (height x width): each side must "
            f"have {LEAST} pixels or more, as torch gives a smaller one other grey levels on other "
            "processors."
        )
        raise SettingError(msg)
    if picture.shape[1] != width:
        picture = _across(np.ascontiguousarray(picture), width)
    if picture.shape[0] != height:
        picture = _down(np.ascontiguousarray(picture), height)
    return picture


def _across(picture: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    # Red, green and blue lie side by side, so each weight is on the diagonal of a 3 x 3 block.
    parts, kind = _plan(picture.shape[1], width, 3)
    rows = picture.reshape(len(picture), -1)
    result = np.empty((len(rows), 3 * width), dtype=np.uint8)
    for strip in _strips(rows.shape):
        values = rows[strip].astype(kind)
        for part in parts:
            result[strip, part.outputs] = _rounded(values[:, part.inputs] @ part.weights.T)
    return result.reshape(len(picture), width, 3)


def _down(picture: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    parts, kind = _plan(len(picture), height, 1)
    rows = picture.reshape(len(picture), -1)
    result = np.empty((height, rows.shape[1]), dtype=np.uint8)
    for strip in _strips(rows.shape[::-1]):
        values = rows[:, strip].astype(kind)
        for part in parts:
            result[part.outputs, strip] = _rounded(part.weights @ values[part.inputs])
    return result.reshape(height, *picture.shape[1:])


def _strips(shape: tuple[int, int]) -> Iterator[slice]:
    """Slices of the first axis with some ten thousand values each."""
    step = max(1, _STRIP // shape[1])
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def _rounded(sums: NDArray[np.floating]) -> NDArray[np.uint8]:
    sums += 0.5
    return sums.astype(np.uint8)  # which cuts off what is behind the point


@functools.lru_cache(maxsize=32)
def _plan(inputs: int, outputs: int, channels: int) -> tuple[list[_Part], type[np.floating]]:
    """How an axis is resized, and in which type the sums are exact.

    Args:
        inputs: Pixels of the axis.
        outputs: Pixels that it is to have.
        channels: Values of each pixel that lie side by side in the axis.
    """
    starts, weights, bits = _whole_weights(inputs, outputs)
    largest = 255 * int(weights.sum(axis=1).max()) + 2 ** (bits - 1)
    # So torch's cut at 255 has nothing to do. The sum of the weights is wrong by half of their
    # number at most: too little, below 8,000 inputs for an output; above, none was found.
    assert largest < 2 ** (bits + 8)
    kind = np.float32 if largest < _EXACT_FLOAT32 else np.float64
    parts = []
    for first in range(0, outputs, _OUTPUTS):
        last = min(first + _OUTPUTS, outputs)
        start, stop = int(starts[first]), min(int(starts[last - 1]) + weights.shape[1], inputs)
        matrix = np.zeros((last - first, stop - start), dtype=kind)
        for row, output in enumerate(range(first, last)):
            left = int(starts[output]) - start
            own = weights[output][: matrix.shape[1] - left]
            matrix[row, left : left + len(own)] = own
        matrix *= 2.0**-bits  # exact, and so are sums of these
        matrix = np.kron(matrix, np.eye(channels, dtype=kind))
        across = slice(channels * first, channels * last), slice(channels * start, channels * stop)
        parts.append(_Part(*across, matrix))
    return parts, kind


def _whole_weights(inputs: int, outputs: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Each output's first input ``[outputs]``, its weights ``[outputs, most]``, and their bits.

    In the order of torch's own steps: the last bit of a quotient may decide how it is rounded.
    """
    scale = inputs / outputs
    support, inverse = (scale, 1 / scale) if scale >= 1 else (1.0, 1.0)
    centres = scale * (np.arange(outputs) + 0.5)
    starts = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    stops = np.minimum((centres + support + 0.5).astype(np.int64), inputs)
    offsets = np.arange((stops - starts).max())
    weights = 1 - np.abs((offsets + (starts - centres)[:, None] + 0.5) * inverse)
    weights = np.where(offsets < (stops - starts)[:, None], np.maximum(weights, 0), 0)
    weights /= np.cumsum(weights, axis=1)[:, -1:]  # one after another, as `sum` does not add
    largest = weights.max()
    enough = (int(0.5 + largest * 2 ** (bits + 1)) >= 2**15 for bits in range(22))
    bits = next((bits for bits, yes in enumerate(enough) if yes), 22)
    return starts, np.floor(0.5 + weights * 2**bits).astype(np.int64), bits
