"""Continuous surfaces: woven fabric, brushed metal, grained wood.

Each renderer draws one random piece of the same product. The laid-out parts are in
`ad.core.data.synthetic.tray`.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ad.core.data.synthetic.scene import Flaw, Surface, linear
from ad.core.data.synthetic.textures import (
    SIDE,
    Field,
    fibres,
    fractal,
    length,
    ramp,
    smooth,
    turned,
)

YARN = 5.0
"""Distance of neighbouring yarns, in units."""


def fabric(rng: Generator, n: int, flaw: Flaw | None) -> Surface:
    """Twill of blue warp and pale weft, two over and two under.

    Builds the defect ``missing_yarn`` itself: a weft yarn or two are not there, the warp lies bare.
    """
    angle = np.radians(rng.normal(0, 1.0))
    across, along = turned(n, angle)
    phase_y, phase_x = rng.uniform(0, 400, 2).astype(np.float32)
    v = (across + phase_y + np.float32(0.7) * smooth(rng, n, 80)) / np.float32(YARN)
    u = (along + phase_x + np.float32(0.7) * smooth(rng, n, 80)) / np.float32(YARN)
    v += np.float32(0.04) * fibres(rng, n, along=14, across=YARN, angle=angle)
    u += np.float32(0.04) * fibres(rng, n, along=YARN, across=14, angle=angle)
    weft, warp = np.floor(v).astype(np.int32), np.floor(u).astype(np.int32)
    in_weft, in_warp = v - weft - np.float32(0.5), u - warp - np.float32(0.5)

    # Where each yarn is in its float: 0 and 1 at the crossings where it dives.
    warp_float = np.mod(v + warp, 4) / 2
    weft_float = np.mod(u + weft - 2, 4) / 2
    warp_up = np.mod(weft + warp, 4) < 2
    gone = _missing_weft(flaw, weft, along) if flaw and flaw.kind == "missing_yarn" else None
    if gone is not None:
        warp_up |= gone

    warp_height = _round(in_warp) * (
        np.float32(0.55) + np.float32(0.45) * np.sin(np.pi * np.clip(warp_float, 0, 1))
    )
    weft_height = _round(in_weft) * (
        np.float32(0.55) + np.float32(0.45) * np.sin(np.pi * np.clip(weft_float, 0, 1))
    )
    if gone is not None:
        warp_height = np.where(gone, np.float32(0.35) * _round(in_warp), warp_height)
    top = np.where(warp_up, warp_height, weft_height)

    # Every yarn is dyed and spun a little differently; its twist shows as slanting lines.
    warp_shade = rng.normal(0, 0.05, 256).astype(np.float32)[warp % 256]
    weft_shade = rng.normal(0, 0.04, 256).astype(np.float32)[weft % 256]
    warp_shade = warp_shade + np.float32(0.1) * fibres(rng, n, along=1.1, across=9, angle=angle)
    weft_shade = weft_shade + np.float32(0.1) * fibres(rng, n, along=9, across=1.1, angle=angle)
    twist = np.where(warp_up, v + in_warp * 1.2, u + in_weft * 1.2) * np.float32(2 * np.pi * 2.5)
    shade = np.where(warp_up, warp_shade, weft_shade) + np.float32(0.06) * np.sin(twist)
    shade = shade + np.float32(0.05) * fractal(rng, n, largest=90, octaves=2)
    colour = np.where(
        warp_up[..., None],
        np.asarray(linear(92, 112, 140), np.float32),
        np.asarray(linear(196, 194, 186), np.float32),
    )
    colour = colour * np.exp(shade)[..., None]
    shadow = np.float32(0.3) + np.float32(0.7) * np.sqrt(np.clip(top, 0, 1))
    return Surface(colour, top * np.float32(1.5), shadow, float(angle), _anywhere())


def metal(rng: Generator, n: int, flaw: Flaw | None) -> Surface:  # noqa: ARG001
    """Brushed steel: brush marks along one direction under a broad glint across it."""
    angle = np.radians(rng.normal(0, 1.5))
    across, along = turned(n, angle)
    marks = (
        np.float32(0.55) * fibres(rng, n, along=150, across=1.0, angle=angle)
        + np.float32(0.45) * fibres(rng, n, along=50, across=0.8, angle=angle + rng.normal(0, 0.01))
        + np.float32(0.4) * fibres(rng, n, along=14, across=0.8, angle=angle)
        + np.float32(0.4) * fibres(rng, n, along=260, across=9, angle=angle)
    )
    hairs = fibres(rng, n, along=70, across=0.9, angle=angle + rng.normal(0, 0.02))
    hairs = ramp(hairs, 2.1, 3.2) - ramp(-hairs, 2.1, 3.2)
    glint_at = rng.normal(SIDE / 2, 35)
    glint = np.exp(-(((along - np.float32(glint_at)) / np.float32(rng.uniform(75, 100))) ** 2))
    tone = 1 + np.float32(0.055) * marks + np.float32(0.10) * hairs
    tone = tone + np.float32(0.02) * fractal(rng, n, largest=120, octaves=2)
    bright = (np.float32(0.36) + np.float32(0.17) * glint) * tone
    colour = bright[..., None] * np.asarray((0.985, 1.0, 1.02), np.float32)
    ones = np.ones((n, n), np.float32)
    height = np.float32(0.01) * marks
    return Surface(colour, height, ones, float(angle), _anywhere(), gloss=1.5)


def wood(rng: Generator, n: int, flaw: Flaw | None) -> Surface:  # noqa: ARG001
    """A planed board of larch: growth rings cut lengthwise, fibres, resin streaks."""
    angle = np.radians(90 + rng.normal(0, 1.2))
    across, along = turned(n, angle)
    # The cut runs past the pith, outside the picture, at a depth that changes slowly.
    side = -1 if rng.random() < 0.5 else 1
    pith = SIDE / 2 + side * rng.uniform(0.65, 1.4) * SIDE
    slow = fibres(rng, n, along=200, across=80, angle=angle)
    depth = rng.uniform(70, 150) + (along - 128) * rng.normal(0, 0.06) + np.float32(1.5) * slow
    radius = length(across - np.float32(pith), depth)
    radius = radius + np.float32(0.5) * fibres(rng, n, along=80, across=9, angle=angle)
    radius = radius + np.float32(0.12) * fibres(rng, n, along=16, across=2.5, angle=angle)
    years = np.cumsum(np.exp(rng.normal(np.log(10.5), 0.2, 90)))
    ring = np.interp(radius, years, np.arange(90)).astype(np.float32)
    season = ring - np.floor(ring)
    strength = rng.uniform(0.75, 1.0, 91).astype(np.float32)[np.floor(ring).astype(np.int32)]
    late = ramp(season, 0.3, 0.95) * ramp(season, 1.0, 0.94) * strength
    fibre = (
        np.float32(0.6) * fibres(rng, n, along=60, across=1.1, angle=angle)
        + np.float32(0.5) * fibres(rng, n, along=20, across=0.8, angle=angle)
        + np.float32(0.5) * fibres(rng, n, along=160, across=5, angle=angle)
    )
    pores = ramp(fibres(rng, n, along=13, across=0.9, angle=angle), 1.9, 3.0)
    mix = np.clip(late + np.float32(0.06) * fibre, 0, 1)[..., None]
    colour = (1 - mix) * np.asarray(linear(214, 176, 128), np.float32)
    colour = colour + mix * np.asarray(linear(176, 124, 78), np.float32)
    shade = np.float32(0.055) * fibre + np.float32(0.06) * fractal(rng, n, largest=130, octaves=2)
    colour = colour * np.exp(shade - np.float32(0.28) * pores)[..., None]
    height = np.float32(0.02) * late + np.float32(0.03) * fibre - np.float32(0.1) * pores
    ones = np.ones((n, n), np.float32)
    return Surface(colour.astype(np.float32), height, ones, float(angle), _anywhere())


def _round(offset: Field) -> Field:
    """Height of a round yarn at an offset from its middle, in yarn distances."""
    height: Field = np.sqrt(np.clip(1 - (offset * np.float32(2)) ** 2, np.float32(0.02), 1))
    return height


def _missing_weft(flaw: Flaw, weft: NDArray[np.int32], along: Field) -> NDArray[np.bool_]:
    n = len(weft)
    row, column = flaw.rng.uniform(0.25, 0.75, 2)
    yarn = weft[int(row * n), int(column * n)]
    half = (25 + 110 * flaw.severity) * flaw.rng.uniform(0.8, 1.2)
    near = np.abs(along - np.float32(column * SIDE)) < np.float32(half)
    count = 1 if flaw.severity < 0.5 else 2
    gone: NDArray[np.bool_] = near & (weft >= yarn) & (weft < yarn + count)
    return gone


def _anywhere() -> NDArray[np.float32]:
    """Places all over the picture but for a margin, so that a defect does not leave it."""
    y, x = np.meshgrid(np.linspace(40, 216, 23), np.linspace(40, 216, 23), indexing="ij")
    return np.stack([y.ravel(), x.ravel()], 1).astype(np.float32)
