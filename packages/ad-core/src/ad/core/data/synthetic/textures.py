"""Building blocks of natural texture: smooth noise, fibres, blots, curves.

Knows nothing of categories or defects. Lengths are in units of 1/256 of the picture's side
whatever its resolution, so a part looks the same at every size. Noise is white noise on a coarse
grid, enlarged bicubically by Pillow: a hundred times cheaper than filtering.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
"""One value per pixel, ``[n, n]``."""

SIDE = 256.0
"""Units in the side of a picture."""


_SOFTENED = np.float32(1.35)
"""Interpolation between independent cells lowers the deviation to about this share's inverse."""


@lru_cache(maxsize=8)
def grid(n: int) -> tuple[Field, Field]:
    """Coordinates of the pixels' centres, in units: rows ``[n, 1]`` and columns ``[1, n]``."""
    at = ((np.arange(n, dtype=np.float32) + 0.5) * (SIDE / n)).astype(np.float32)
    at.setflags(write=False)
    return at[:, None], at[None, :]


def turned(n: int, angle: float) -> tuple[Field, Field]:
    """Coordinates across and along a direction, in units.

    Args:
        n: Side in pixels.
        angle: Direction of "along" against the columns' axis, in radians.

    Returns:
        ``across`` and ``along``, ``[n, n]``; both are half the side in the picture's middle.
    """
    y, x = grid(n)
    half, cos, sin = np.float32(SIDE / 2), np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dy, dx = y - half, x - half
    return dy * cos - dx * sin + half, dx * cos + dy * sin + half


def smooth(rng: Generator, n: int, cell: float) -> Field:
    """Soft noise with features of ``cell`` units, mean about 0 and deviation about 1."""
    count = SIDE / cell
    cells = rng.standard_normal((int(count) + 4, int(count) + 4), dtype=np.float32)
    left, top = (float(phase) for phase in rng.uniform(1.0, 2.0, 2))
    picture = Image.fromarray(cells).resize(
        (n, n), Image.Resampling.BICUBIC, box=(left, top, left + count, top + count)
    )
    return np.asarray(picture, dtype=np.float32) * _SOFTENED


def fibres(rng: Generator, n: int, *, along: float, across: float, angle: float) -> Field:
    """Noise drawn out in one direction: brush marks, wood fibres, yarn.

    Args:
        rng: Source of chance.
        n: Side in pixels.
        along: Length of a feature, in units.
        across: Width of a feature, in units.
        angle: Direction of the fibres against the columns' axis, in radians.

    Returns:
        ``[n, n]``, mean about 0 and deviation about 1.
    """
    reach = SIDE * (abs(np.cos(angle)) + abs(np.sin(angle)))
    rows, columns = int(reach / across) + 5, int(reach / along) + 5
    cells = rng.standard_normal((rows, columns), dtype=np.float32)
    unit = SIDE / n
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    # Pillow wants the source position (column, row) of each target pixel; the picture's middle
    # is put into the grid's middle plus a random phase.
    shift_x, shift_y = rng.uniform(0.0, 1.0, 2)
    to_x, to_y = unit / along, unit / across
    middle = n / 2
    source_x = (columns - 1) / 2 + shift_x - to_x * middle * (cos + sin)
    source_y = (rows - 1) / 2 + shift_y - to_y * middle * (cos - sin)
    affine = (to_x * cos, to_x * sin, source_x, -to_y * sin, to_y * cos, source_y)
    picture = Image.fromarray(cells).transform(
        (n, n), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.asarray(picture, dtype=np.float32) * _SOFTENED


def fractal(rng: Generator, n: int, *, largest: float, octaves: int, fall: float = 0.5) -> Field:
    """Noise on several scales: each octave has half the cell and `fall` times the amplitude."""
    total = np.zeros((n, n), np.float32)
    power = 0.0
    for octave in range(octaves):
        weight = fall**octave
        total += np.float32(weight) * smooth(rng, n, largest / 2**octave)
        power += weight**2
    return total / np.float32(np.sqrt(power))


def blot(rng: Generator, n: int, *, at: tuple[float, float], radius: float, rough: float) -> Field:
    """Signed distance to the ragged outline of a blot, in units; negative inside.

    Args:
        rng: Source of chance.
        n: Side in pixels.
        at: Row and column of the middle, in units.
        radius: Mean radius, in units.
        rough: How ragged the outline is; 0 is an ellipse, 1 is torn.
    """
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.45)
    y, x = grid(n)
    dy, dx = y - np.float32(at[0]), x - np.float32(at[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = (dx * cos + dy * sin) / np.float32(stretch)
    v = (dy * cos - dx * sin) * np.float32(stretch)
    ragged = fractal(rng, n, largest=max(radius * 0.9, 2.0), octaves=3)
    outline: Field = np.float32(radius) * (1 + np.float32(0.3 * rough) * ragged)
    return length(u, v) - outline


def curve(
    rng: Generator,
    *,
    at: tuple[float, float],
    length: float,
    angle: float,
    bend: float,
    points: int = 20,
) -> NDArray[np.float32]:
    """A wandering line through a place.

    Args:
        rng: Source of chance.
        at: Row and column of the line's middle, in units.
        length: Its length, in units.
        angle: Its direction in the middle against the columns' axis, in radians.
        bend: How much it turns from end to end, in radians (deviation).
        points: Number of corners.

    Returns:
        ``[points, 2]`` rows and columns, in units.
    """
    turn = np.linspace(-0.5, 0.5, points) * rng.normal(0, bend)
    wander = np.cumsum(rng.normal(0, bend / 8, points))
    heading = angle + turn + wander - wander[points // 2]
    step = length / points
    path = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1) * step, axis=0)
    through: NDArray[np.float32] = (path - path[points // 2] + at).astype(np.float32)
    return through


def along_curve(n: int, path: NDArray[np.float32]) -> tuple[Field, Field]:
    """Where pixels are as seen from a line.

    Args:
        n: Side in pixels.
        path: ``[P, 2]`` corners, rows and columns in units.

    Returns:
        Signed distance to the line in units, positive on its right, and position along it in
        [0, 1]; both ``[n, n]``. Distances above 8 units are
        not worked out; they are 8.
    """
    rows, columns = grid(n)
    signed = np.full((n, n), 8, np.float32)
    position = np.zeros((n, n), np.float32)
    (top, left), (bottom, right) = path.min(axis=0) - 8, path.max(axis=0) + 8
    near_rows = np.flatnonzero((rows > top) & (rows < bottom))
    near_columns = np.flatnonzero((columns > left) & (columns < right))
    if not len(near_rows) or not len(near_columns):
        return signed, position
    window = (
        slice(int(near_rows[0]), int(near_rows[-1]) + 1),
        slice(int(near_columns[0]), int(near_columns[-1]) + 1),
    )
    y, x = rows[window[0]], columns[:, window[1]]
    gap, share_of = signed[window], position[window]  # views: changed in place
    for k, ((y0, x0), (y1, x1)) in enumerate(zip(path[:-1], path[1:], strict=True)):
        dy, dx = y1 - y0, x1 - x0
        squared = max(float(dy * dy + dx * dx), 1e-9)
        share = np.clip(((y - y0) * dy + (x - x0) * dx) / np.float32(squared), 0, 1)
        gap_y, gap_x = y - y0 - share * dy, x - x0 - share * dx
        distance = length(gap_y, gap_x)
        closer = distance < np.abs(gap)
        np.copyto(gap, np.copysign(distance, gap_y * dx - gap_x * dy), where=closer)
        np.copyto(share_of, (k + share) / np.float32(len(path) - 1), where=closer)
    return signed, position


def ramp(x: Field, low: float, high: float) -> Field:
    """Rise smoothly from 0 at ``low`` to 1 at ``high``; falls if ``high`` is below ``low``."""
    t: Field = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def length(y: NDArray[np.floating], x: NDArray[np.floating]) -> Field:
    """Length of vectors; `numpy.hypot` guards against overflow and takes four times as long."""
    result: Field = np.sqrt(y * y + x * x).astype(np.float32, copy=False)
    return result
