"""A tray of printed parts: nine white plastic tags in the pockets of a grey tray.

Draws tray, tags and print, and builds the defects that are a matter of building: a tag that is
missing, broken or turned, a print that went wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from ad.core.data.synthetic.scene import Flaw, Surface, linear
from ad.core.data.synthetic.textures import SIDE, Field, fractal, length, ramp, smooth, turned

PITCH = 80.0
"""Distance of neighbouring pockets, in units."""
POCKET = 34.0
"""Half the side of a pocket, in units."""
TAG = 28.0
"""Half the side of a tag, in units."""
LEE = np.float32(2.2)
"""How far a tag's shadow falls to the right and downwards, in units."""

_STROKES: dict[str, list[tuple[tuple[float, float], ...]]] = {
    "A": [((0, 8), (2.5, 0), (5, 8)), ((1, 5), (4, 5))],
    "D": [((0, 0), (0, 8), (3, 8), (5, 6), (5, 2), (3, 0), (0, 0))],
    "4": [((4, 8), (4, 0), (0, 5.5), (5.2, 5.5))],
    "7": [((0, 0), (5, 0), (2, 8))],
    "2": [((0, 1.5), (1.5, 0), (3.5, 0), (5, 1.5), (5, 3), (0, 8), (5, 8))],
    "-": [((1, 4.3), (4, 4.3))],
}
"""Letters as lines in a box 5 wide and 8 high."""


def tray(rng: Generator, n: int, flaw: Flaw | None) -> Surface:
    """Nine tags in a tray, each lying a little differently.

    Builds the defects ``missing_part``, ``broken_part``, ``turned_part`` and ``misprint``.
    """
    angle = np.radians(rng.normal(0, 0.8))
    across, along = turned(n, angle)
    shift_y, shift_x = rng.normal(0, 2.0, 2)
    v = across - np.float32(SIDE / 2 + shift_y)
    u = along - np.float32(SIDE / 2 + shift_x)

    surface = _empty(rng, n, v, u, float(angle))
    faulty = int(flaw.rng.integers(9)) if flaw else -1
    places = []
    for cell in range(9):
        row, column = cell // 3 - 1, cell % 3 - 1
        dy, dx = rng.normal(0, 1.1, 2)
        twist = rng.normal(0, np.radians(1.3))
        chance = np.random.default_rng(rng.integers(2**63))  # so that tags do not affect each other
        at = (row * PITCH + dy, column * PITCH + dx)
        places.append(_place(at, angle, shift_y, shift_x))
        here = flaw if flaw and cell == faulty else None
        if here and here.kind == "missing_part":
            continue
        if here and here.kind == "turned_part":
            twist += _turn(here)
        window = _window(n, places[-1], TAG * 1.5 + 8)
        from_v, from_u = v[window] - np.float32(at[0]), u[window] - np.float32(at[1])
        _lay_tag(surface, chance, window, from_v, from_u, twist, here)
    surface.places = np.asarray(places, np.float32)
    return surface


def _empty(rng: Generator, n: int, v: Field, u: Field, angle: float) -> Surface:
    """The tray without tags: a grained plate with nine sunken pockets, ribbed inside."""
    in_v, in_u = _in_pocket(v), _in_pocket(u)
    inside = (np.abs(v) < 1.5 * PITCH) & (np.abs(u) < 1.5 * PITCH)
    edge = np.where(inside, _box(in_v, in_u, POCKET, 5.0), np.float32(20))
    deep = ramp(edge, 0.0, -3.0)
    # Ribs on the pocket's floor, a ring and a cross, carry the tag.
    away = length(in_v, in_u)
    cross = np.minimum(np.abs(in_v), np.abs(in_u))
    rib = np.minimum(np.abs(away - np.float32(15)), np.where(away < 26, cross, np.float32(9)))
    grain = smooth(rng, n, 1.6)
    tone = np.exp(
        np.float32(0.05) * grain + np.float32(0.04) * fractal(rng, n, largest=80, octaves=2)
    )
    base = np.asarray(linear(74, 80, 88), np.float32)
    colour = base * (tone * (1 - np.float32(0.16) * deep))[..., None]
    height = np.float32(0.03) * grain - np.float32(3.0) * deep
    height = height + np.float32(1.4) * ramp(rib, 2.2, 0.4) * deep
    # The pocket's walls keep light from its rim, most where they stand towards the lamp.
    lee = np.where(inside, _box(in_v - LEE, in_u - LEE, POCKET, 5.0), np.float32(20))
    shadow = (
        1
        - np.float32(0.45) * deep * ramp(lee, -6.0, 1.0)
        - np.float32(0.15) * ramp(edge, -5, 0) * deep
    )
    return Surface(
        colour.astype(np.float32), height, shadow, angle, np.empty((0, 2), np.float32), 0.25
    )


def _in_pocket(x: Field) -> Field:
    """Offset from the middle of the nearest pocket, in units."""
    offset: Field = np.mod(x + np.float32(PITCH / 2), np.float32(PITCH)) - np.float32(PITCH / 2)
    return offset


def _lay_tag(
    surface: Surface,
    rng: Generator,
    window: tuple[slice, slice],
    v: Field,
    u: Field,
    twist: float,
    flaw: Flaw | None,
) -> None:
    """Draw one tag into the window of the surface that holds it.

    Args:
        surface: The tray; changed.
        rng: Chance of this tag.
        window: Rows and columns around the tag.
        v: Rows of the window's pixels from the tag's middle, along the tray, in units.
        u: The same for columns.
        twist: How far the tag is turned in its pocket, in radians.
        flaw: What is wrong with this tag.
    """
    cos, sin = np.float32(np.cos(twist)), np.float32(np.sin(twist))
    y, x = v * cos - u * sin, u * cos + v * sin
    body = _box(y, x, TAG, 5.0)
    behind = _box(y - LEE, x - LEE, TAG, 5.0)  # seen from there, the lamp is behind the tag
    broken = np.zeros_like(body)
    if flaw and flaw.kind == "broken_part":
        bite = _bite(flaw)
        body, behind = np.maximum(body, bite(y, x)), np.maximum(behind, bite(y - LEE, x - LEE))
        broken = ramp(bite(y, x), -2.2, -1.2)
    cover = ramp(body, 0.5, -0.5)
    shade = np.float32(0.62) * ramp(behind, 3.0, -2.5)
    lit = surface.shadow[window] * (1 - shade)
    surface.shadow[window] = lit + cover * (1 - lit)

    plastic = np.asarray(linear(226, 222, 210), np.float32) * np.float32(
        np.exp(rng.normal(0, 0.03))
    )
    fracture = np.asarray(linear(246, 245, 240), np.float32)
    plastic = plastic + (fracture - plastic) * broken[..., None]
    ink, logo = _print(rng, y, x, flaw)
    for layer, colour in ((ink, linear(38, 40, 46)), (logo, linear(20, 112, 136))):
        layer = layer * (body < -1.0)
        plastic = plastic + (np.asarray(colour, np.float32) - plastic) * layer[..., None]
    below = surface.colour[window]
    surface.colour[window] = below + (plastic - below) * cover[..., None]
    # A rounded rim of 2.5 units on a flat tag that tilts a little in its pocket.
    rim = np.float32(2.2) * np.sqrt(np.clip(1 - (1 + np.clip(body, -2.5, 0) / 2.5) ** 2, 0, 1))
    tilt = y * np.float32(rng.normal(0, 0.015)) + x * np.float32(rng.normal(0, 0.015))
    floor = surface.height[window]
    surface.height[window] = floor + (rim + tilt - floor) * cover


def _print(rng: Generator, y: Field, x: Field, flaw: Flaw | None) -> tuple[Field, Field]:
    """Coverage of black and coloured ink at places of the tag, both in [0, 1]."""
    off_y, off_x = rng.normal(0, 0.5, 2)  # register of the printing machine
    strength = np.float32(rng.uniform(0.94, 0.99))
    ink, logo = _printed(y - np.float32(off_y), x - np.float32(off_x))
    if flaw and flaw.kind == "misprint":
        ink, logo = _misprint(flaw, ink, logo, y, x)
    return ink * strength, logo * strength


def _misprint(flaw: Flaw, ink: Field, logo: Field, y: Field, x: Field) -> tuple[Field, Field]:
    """One of four faults of printing: faded, doubled, smeared, out of place."""
    s, rng = flaw.severity, flaw.rng
    fault = rng.choice(["faded", "doubled", "smeared", "displaced"])
    way = rng.uniform(0, 2 * np.pi)
    dy, dx = np.sin(way), np.cos(way)
    if fault == "faded":
        side = y * np.float32(dy) + x * np.float32(dx)
        keep = 1 - np.float32(0.55 + 0.45 * s) * ramp(side, 14 - 30 * s, 4 - 30 * s)
        return ink * keep, logo * keep
    if fault == "doubled":
        far = 2.0 + 3.0 * s
        again = _printed(y - np.float32(dy * far), x - np.float32(dx * far))
        ghost = np.float32(0.45 + 0.4 * s)
        return np.maximum(ink, ghost * again[0]), np.maximum(logo, ghost * again[1])
    if fault == "smeared":
        steps = 8
        far = (5.0 + 12.0 * s) / steps
        for k in range(1, steps):
            again = _printed(y - np.float32(dy * far * k), x - np.float32(dx * far * k))
            fade = np.float32((0.35 + 0.35 * s) * (1 - k / steps))
            ink, logo = np.maximum(ink, fade * again[0]), np.maximum(logo, fade * again[1])
        return ink, logo
    far = 3.5 + 6.0 * s
    return _printed(y - np.float32(dy * far), x - np.float32(dx * far))


def _printed(y: Field, x: Field) -> tuple[Field, Field]:
    """Look the print up at places of the tag, in units from its middle."""
    art = _artwork()
    scale = np.float32(art.shape[1] / (2 * TAG))
    at = (y + np.float32(TAG)) * scale - 0.5, (x + np.float32(TAG)) * scale - 0.5
    ink, logo = (map_coordinates(layer, at, order=1, mode="nearest") for layer in art)
    return ink, logo


@lru_cache(maxsize=1)
def _artwork() -> Field:
    """The print, ``[2, t, t]``: black ink and coloured ink, drawn large and reduced."""
    per_unit, reduce = 12, 4
    side = int(2 * TAG * per_unit)
    ink, logo = Image.new("L", (side, side)), Image.new("L", (side, side))
    pen, brush = ImageDraw.Draw(ink), ImageDraw.Draw(logo)

    def box(left: float, top: float, right: float, bottom: float) -> list[float]:
        return [left * per_unit, top * per_unit, right * per_unit, bottom * per_unit]

    brush.ellipse(box(6, 6, 28, 28), fill=255)
    brush.ellipse(box(10, 10, 24, 24), fill=0)
    brush.polygon([k * per_unit for k in (15, 13, 19, 13, 26, 27, 21, 27)], fill=255)
    modules = np.random.default_rng(7).random((8, 8)) < 0.5  # the code on every tag is the same
    modules[:, 0] = modules[-1, :] = True
    for row, column in np.argwhere(modules):
        left, top = 32 + 2.3 * float(column), 7 + 2.3 * float(row)
        pen.rectangle(box(left, top, left + 2.3, top + 2.3), fill=255)
    for k, letter in enumerate("AD-742"):
        for line in _STROKES[letter]:
            corners = [((6.5 + 7.6 * k + x) * per_unit, (35 + y * 1.1) * per_unit) for x, y in line]
            pen.line(corners, fill=255, width=int(1.5 * per_unit), joint="curve")
    pen.rectangle(box(6, 47.5, 50, 48.7), fill=255)
    layers = [np.asarray(layer.reduce(reduce), np.float32) / 255 for layer in (ink, logo)]
    return np.stack(layers)


def _bite(flaw: Flaw) -> Callable[[Field, Field], Field]:
    """The piece that broke off an edge or a corner, as a distance that is positive inside it."""
    rng = flaw.rng
    way = rng.uniform(0, 2 * np.pi)
    far = TAG / max(abs(np.sin(way)), abs(np.cos(way)))
    mid_y, mid_x = np.float32(np.sin(way) * far), np.float32(np.cos(way) * far)
    radius = np.float32(4.5 + 11 * flaw.severity)
    waves = [(k, rng.normal(0, 0.09), rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5, 7)]

    def bite(y: Field, x: Field) -> Field:
        angle = np.arctan2(y - mid_y, x - mid_x)
        ragged = np.zeros_like(y)
        for k, size, at in waves:
            ragged += np.float32(size) * np.sin(k * angle + np.float32(at))
        return radius * (1 + ragged) - length(y - mid_y, x - mid_x)

    return bite


def _turn(flaw: Flaw) -> float:
    """A tag that lies crooked, or was put in a quarter or half round."""
    if flaw.severity > 0.6:
        return float(flaw.rng.choice([np.pi / 2, np.pi, -np.pi / 2]))
    return float(np.radians(7 + 14 * flaw.severity) * flaw.rng.choice([-1, 1]))


def _box(y: Field, x: Field, half: float, corner: float) -> Field:
    """Signed distance to a square with rounded corners; negative inside."""
    inner = np.float32(half - corner)
    over_y, over_x = np.abs(y) - inner, np.abs(x) - inner
    outside = length(np.maximum(over_y, 0), np.maximum(over_x, 0))
    return outside + np.minimum(np.maximum(over_y, over_x), 0) - np.float32(corner)


def _window(n: int, at: list[float], reach: float) -> tuple[slice, slice]:
    """Rows and columns of the pixels that are near a place, in units."""
    rows, columns = (
        slice(max(int((k - reach) * n / SIDE), 0), min(int((k + reach) * n / SIDE) + 1, n))
        for k in at
    )
    return rows, columns


def _place(at: tuple[float, float], angle: float, shift_y: float, shift_x: float) -> list[float]:
    """Where a tag's middle is in the picture, rows and columns in units."""
    v, u = at[0] + shift_y, at[1] + shift_x
    return [
        float(SIDE / 2 + v * np.cos(angle) + u * np.sin(angle)),
        float(SIDE / 2 + u * np.cos(angle) - v * np.sin(angle)),
    ]
