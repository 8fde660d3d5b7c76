"""Damage done to a surface after it was made, and the exact mask of it.

Defects of making (a missing part, a misprint, a missing yarn) are built by the renderers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, binary_fill_holes

from ad.core.data.synthetic.camera import tone
from ad.core.data.synthetic.scene import Flaw, Surface, linear
from ad.core.data.synthetic.textures import (
    along_curve,
    blot,
    curve,
    fibres,
    fractal,
    grid,
    length,
    ramp,
)

VISIBLE = 4.0
"""Grey levels (of 255) by which a defect changes the pixels that count as defective."""

Damage = Callable[[Surface, Flaw], None]

RIGHT_ANGLE = float(np.pi / 2)


def touched(
    good: NDArray[np.float32], defective: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Confine a defect to the pixels where it can be seen.

    Args:
        good: The light of the scene without the defect, ``[size, size, 3]``.
        defective: The same with it.

    Returns:
        The light with the defect inside the mask and without it elsewhere, and the mask
        ``[size, size]``. Gaps of the visible change are closed, so that a mask is a region as a
        person would mark it.
    """
    change = np.abs(tone(defective) - tone(good)).max(axis=2) > VISIBLE / 255
    margin = max(1, round(3 * len(change) / 256))
    wide = np.pad(change, margin)  # closing would otherwise eat masks at the picture's edge
    disc = np.hypot(*np.mgrid[-margin : margin + 1, -margin : margin + 1]) <= margin
    closed = binary_closing(wide, structure=disc)[margin:-margin, margin:-margin]
    mask: NDArray[np.bool_] = binary_fill_holes(closed)
    return np.where(mask[..., None], defective, good), mask


def stain(surface: Surface, flaw: Flaw, *, colour: tuple[float, float, float]) -> None:
    """A liquid that soaked in and dried: ragged, mottled, darker at its rim."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    radius = (8 + 20 * s) * rng.uniform(0.8, 1.3)
    away = blot(rng, n, at=_somewhere(surface, flaw), radius=radius, rough=0.7)
    mottled = 1 + np.float32(0.25) * fractal(rng, n, largest=24, octaves=3)
    rim = np.exp(-(((away + np.float32(1.2)) / 1.4) ** 2))
    depth = ramp(away, 1.0, -2.0) * mottled + np.float32(rng.uniform(0.2, 0.7)) * rim
    surface.tint(colour, np.float32(0.45 + 0.7 * s) * np.clip(depth, 0, None))


def scratch(
    surface: Surface, flaw: Flaw, *, colour: tuple[float, float, float], reach: float, width: float
) -> None:
    """A sharp thing was drawn across the grain: a groove with a burr, bare at its bottom.

    Args:
        surface: Is changed.
        flaw: How bad it is.
        colour: What shows in the groove.
        reach: Length of the longest scratch, in units.
        width: Half the width of the finest scratch, in units.
    """
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    angle = surface.grain + rng.uniform(0.35, np.pi - 0.35)
    long = reach * (0.3 + 0.7 * s) * rng.uniform(0.7, 1.1)
    path = curve(rng, at=_somewhere(surface, flaw), length=long, angle=angle, bend=0.25)
    gap, position = along_curve(n, path)
    pressure = ramp(position, 0, 0.12) * ramp(position, 1, 0.7)
    pressure = pressure * np.clip(
        1 + np.float32(0.3) * fractal(rng, n, largest=16, octaves=2), 0, 1
    )
    width = 0.7 + 0.7 * s * rng.uniform(0.6, 1.2)
    groove = ramp(np.abs(gap), width + 0.5, width - 0.5) * pressure
    burr = np.exp(-(((gap - np.float32(width + 0.6)) / np.float32(0.7)) ** 2)) * pressure
    surface.paint(colour, np.float32(0.45 + 0.5 * s) * groove)
    surface.height += np.float32(0.45 + 0.5 * s) * (np.float32(0.6) * burr - groove)


def dent(surface: Surface, flaw: Flaw) -> None:
    """Something fell on it: a shallow bowl, with a bruise where it hit."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    radius = (6 + 11 * s) * rng.uniform(0.85, 1.2)
    at = _somewhere(surface, flaw)
    y, x = grid(n)
    way, stretch = rng.uniform(0, np.pi), rng.uniform(1, 1.35)
    dy, dx = y - np.float32(at[0]), x - np.float32(at[1])
    cos, sin = np.float32(np.cos(way)), np.float32(np.sin(way))
    along = (dx * cos + dy * sin) / np.float32(radius * stretch)
    across = (dy * cos - dx * sin) / np.float32(radius / stretch)
    away = length(along, across)
    bowl = np.clip(1 - away**2, 0, None) ** 2
    surface.height -= np.float32(radius * (0.10 + 0.25 * s)) * bowl
    bruise = blot(rng, n, at=at, radius=radius * 0.3, rough=0.8)
    surface.tint((0.75, 0.75, 0.75), np.float32(s) * ramp(bruise, 1.0, -1.5))


def pits(surface: Surface, flaw: Flaw) -> None:
    """Corrosion: small dark craters with a bright rim and a rusty halo."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    middle = np.asarray(_somewhere(surface, flaw))
    for _ in range(1 + int(rng.integers(0, 3 + int(6 * s)))):
        at = middle + rng.normal(0, 5 + 6 * s, 2)
        radius = (1.2 + 2.6 * s) * rng.uniform(0.6, 1.2)
        away = blot(rng, n, at=(float(at[0]), float(at[1])), radius=radius, rough=0.6)
        surface.tint((0.72, 0.58, 0.45), np.float32(0.2 + 0.7 * s) * ramp(away, 2.0 * radius, 0))
        surface.paint(linear(52, 46, 42), np.float32(0.9) * ramp(away, 0.5, -0.7))
        surface.height -= np.float32(0.8) * ramp(away, 0.8, -0.8)


def torn_hole(surface: Surface, flaw: Flaw) -> None:
    """Yarns are cut through: the dark ground shows, ends fray into the gap."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    at = _somewhere(surface, flaw)
    radius = (5.0 + 11 * s) * rng.uniform(0.85, 1.2)
    away = blot(rng, n, at=at, radius=radius, rough=0.5)
    for turn in (0.0, RIGHT_ANGLE):
        ends = fibres(rng, n, along=40, across=3.0, angle=surface.grain + turn)
        away = away + np.float32(0.9) * ends
    pucker = np.exp(-(((away - np.float32(2)) / 3) ** 2))
    surface.height += np.float32(0.8) * pucker
    open_ = ramp(away, 0.7, -0.7)
    surface.paint(linear(40, 38, 38), open_)
    surface.height *= 1 - open_
    surface.shadow += open_ * (
        np.float32(0.55) + np.float32(0.45) * ramp(away, 0, -5) - surface.shadow
    )
    y, x = grid(n)
    for _ in range(5 + int(9 * s)):
        way = rng.uniform(0, 2 * np.pi)
        start = at[0] + radius * np.sin(way), at[1] + radius * np.cos(way)
        path = curve(
            rng, at=start, length=radius * rng.uniform(0.7, 1.5), angle=way, bend=1.0, points=8
        )
        gap, position = along_curve(n, path)
        fibre = ramp(np.abs(gap), 0.8, 0.2) * ramp(position, 1, 0.6)
        pale = linear(190, 190, 184) if rng.random() < 0.6 else linear(110, 128, 154)
        surface.paint(pale, np.float32(0.8) * fibre)
        surface.shadow += fibre * (np.float32(0.9) - surface.shadow)


def pulled_yarn(surface: Surface, flaw: Flaw) -> None:
    """A yarn was caught and drawn out: it lies proud of the cloth and ends in a loop."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    angle = surface.grain + (0.0 if rng.random() < 0.5 else RIGHT_ANGLE)
    at = _somewhere(surface, flaw)
    long = (30 + 100 * s) * rng.uniform(0.8, 1.2)
    path = curve(rng, at=at, length=long, angle=angle, bend=0.3)
    # The slack curls up where the yarn was caught.
    last, side = path[-1] - path[-2], rng.choice([-1.0, 1.0])
    turns = side * np.linspace(0, rng.uniform(1.5, 3.8), 14) ** 1.2
    heading = np.arctan2(last[0], last[1]) + turns
    step = (2.2 + 1.3 * s) * rng.uniform(0.8, 1.2)
    curl = np.cumsum(np.stack([np.sin(heading), np.cos(heading)], 1) * step, axis=0)
    loop = np.concatenate([path[-1:], path[-1] + curl])
    pale = np.asarray(linear(214, 212, 206), np.float32)
    for line in (path, loop.astype(np.float32)):
        gap, position = along_curve(n, line)
        width = 1.5 + 0.6 * s
        ends = ramp(position, 0, 0.08) if line is path else np.float32(1)
        yarn = ramp(np.abs(gap), width + 0.4, width - 0.4) * ends
        beside = ramp(np.abs(gap), width + 3.0, width) * ends
        surface.shadow *= 1 - np.float32(0.3 + 0.35 * s) * beside
        twist = np.sin(position * np.float32(len(line) * 2.5 * np.pi) + gap * 2)
        surface.paint(pale * np.float32(rng.uniform(0.85, 1.0)), np.float32(0.65 + 0.3 * s) * yarn)
        surface.shadow += yarn * (np.float32(0.92) - surface.shadow)
        arch = np.sqrt(np.clip(1 - (gap / np.float32(width + 0.4)) ** 2, 0, 1)) * ends
        surface.height += np.float32(1.2) * arch + np.float32(0.12) * twist * yarn


def worm_holes(surface: Surface, flaw: Flaw) -> None:
    """Round black holes with a crushed, darkened edge: woodworm, or a nail that was drawn."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    middle = np.asarray(_somewhere(surface, flaw))
    for _ in range(1 + int(rng.integers(0, 2 + int(3 * s)))):
        at = middle + rng.normal(0, 9, 2)
        radius = (1.8 + 4.0 * s) * rng.uniform(0.8, 1.2)
        away = blot(rng, n, at=(float(at[0]), float(at[1])), radius=radius, rough=0.15)
        surface.tint((0.6, 0.5, 0.42), np.float32(0.3 + 0.4 * s) * ramp(away, 2.2, -0.5))
        open_ = ramp(away, 0.6, -0.6)
        surface.paint(linear(38, 26, 18), np.float32(0.93) * open_)
        surface.height -= np.float32(1.0) * open_


def crack(surface: Surface, flaw: Flaw) -> None:
    """The board split while it dried: a black gap that follows the fibres in steps."""
    s, rng, n = flaw.severity, flaw.rng, len(surface.height)
    at, long = _somewhere(surface, flaw), (50 + 120 * s) * rng.uniform(0.8, 1.2)
    path = curve(
        rng, at=at, length=long, angle=surface.grain + rng.normal(0, 0.05), bend=0.15, points=24
    )
    across = np.asarray([np.cos(surface.grain), -np.sin(surface.grain)])
    steps = np.cumsum(rng.normal(0, 0.35, 24)) + rng.normal(0, 0.25, 24)
    gap, position = along_curve(n, (path + steps[:, None] * across).astype(np.float32))
    width = np.float32(0.8 + 1.8 * s) * np.sqrt(np.clip(4 * position * (1 - position), 0, 1))
    open_ = ramp(np.abs(gap) - width, 0.45, -0.45)
    surface.tint((0.7, 0.62, 0.55), np.float32(0.5) * ramp(np.abs(gap) - width, 1.8, 0.0))
    surface.paint(linear(48, 32, 22), np.float32(0.75 + 0.2 * s) * open_)
    surface.height -= np.float32(1.2) * open_


DAMAGE: dict[str, dict[str, Damage]] = {
    "fabric": {
        "hole": torn_hole,
        "pulled_yarn": pulled_yarn,
        "stain": partial(stain, colour=(0.34, 0.24, 0.15)),
    },
    "metal": {
        "dent": dent,
        "pits": pits,
        "scratch": partial(scratch, colour=linear(222, 224, 228), reach=130, width=0.8),
        "stain": partial(stain, colour=(0.66, 0.58, 0.47)),
    },
    "wood": {
        "crack": crack,
        "hole": worm_holes,
        "scratch": partial(scratch, colour=linear(248, 234, 210), reach=140, width=1.0),
        "stain": partial(stain, colour=(0.45, 0.36, 0.34)),
    },
    "tray": {
        "scratch": partial(scratch, colour=linear(82, 76, 72), reach=80, width=1.1),
        "stain": partial(stain, colour=(0.62, 0.47, 0.28)),
    },
}
"""Damage by category and kind of defect."""


def _somewhere(surface: Surface, flaw: Flaw) -> tuple[float, float]:
    row, column = flaw.rng.choice(surface.places) + flaw.rng.uniform(-8, 8, 2)
    return float(row), float(column)
