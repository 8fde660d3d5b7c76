"""Light, lens and sensor: from a surface to the picture of it.

None of it depends on a defect, so a good and a defective picture of one scene differ in the
defect alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ad.core.data.synthetic.scene import Surface
from ad.core.data.synthetic.textures import SIDE, Field, grid

Picture = NDArray[np.uint8]
"""``[size, size, 3]``, RGB."""


@dataclass(frozen=True, slots=True)
class Light:
    """How one picture is lit and focused."""

    towards: tuple[float, float, float]
    """Row, column and height components of the direction of the lamp, of length 1."""
    field: Field
    """Strength over the picture, ``[n, n]``: gradient, lamp's spot, lens vignette."""
    tone: tuple[float, float, float]
    """White balance."""
    focus: float
    """Deviation of the lens blur, in units."""


def light(rng: Generator, n: int) -> Light:
    """Draw the light of one picture: the lamp sways, exposure and colour drift a little."""
    azimuth = np.radians(rng.normal(225, 7))
    elevation = np.radians(rng.normal(52, 3))
    towards = (
        float(np.sin(azimuth) * np.cos(elevation)),
        float(np.cos(azimuth) * np.cos(elevation)),
        float(np.sin(elevation)),
    )
    y, x = grid(n)
    tilt_y, tilt_x = rng.normal(0, 0.06, 2)
    tilt_y, tilt_x = tilt_y - 0.06, tilt_x - 0.06  # the lamp stands top left
    middle_y, middle_x = rng.normal(SIDE / 2, 18, 2)
    away = ((y - middle_y) ** 2 + (x - middle_x) ** 2) / np.float32((SIDE / 2) ** 2)
    vignette = 1 - np.float32(0.07) * away
    tilt = 1 + np.float32(tilt_y) * (y / 128 - 1) + np.float32(tilt_x) * (x / 128 - 1)
    exposure = np.exp(rng.normal(0, 0.06))
    warm = rng.normal(0, 0.02)
    tone = (float(exposure * (1 + warm)), float(exposure), float(exposure * (1 - warm)))
    return Light(towards, (tilt * vignette).astype(np.float32), tone, float(rng.uniform(0.5, 0.62)))


def expose(surface: Surface, lamp: Light, size: int) -> NDArray[np.float32]:
    """The light that reaches the sensor.

    Args:
        surface: ``n`` pixels wide, a multiple of ``size``.
        lamp: Light of the same width.
        size: Side of the picture.

    Returns:
        ``[size, size, 3]``, linear.
    """
    n = len(surface.height)
    unit = np.float32(SIDE / n)
    slope_y, slope_x = np.gradient(surface.height, unit)
    to_y, to_x, to_z = (np.float32(part) for part in lamp.towards)
    facing = (to_z - to_y * slope_y - to_x * slope_x) / np.sqrt(1 + slope_y**2 + slope_x**2)
    lit = np.float32(0.4) + np.float32(0.6) * np.maximum(facing, 0) / to_z
    light = lit * surface.shadow * lamp.field
    radiance = surface.colour * light[..., None]
    if surface.gloss:
        glint = np.maximum(facing - to_z, 0) ** 2 * surface.shadow * lamp.field
        radiance += np.float32(surface.gloss) * glint[..., None]
    radiance *= np.asarray(lamp.tone, np.float32)
    sigma = lamp.focus / float(unit)
    blurred = gaussian_filter(radiance, (sigma, sigma, 0), mode="nearest", truncate=3)
    per_pixel = n // size
    blocks = blurred.reshape(size, per_pixel, size, per_pixel, 3)
    reduced: NDArray[np.float32] = blocks.mean((1, 3), dtype=np.float32)
    return reduced


def develop(radiance: NDArray[np.float32], rng: Generator) -> Picture:
    """Turn light into grey values: photon and read noise, tone curve, 8 bits.

    Args:
        radiance: ``[size, size, 3]``, linear.
        rng: Chance of the sensor; two pictures with the same one get the same noise.
    """
    raw = rng.standard_normal(radiance.shape, dtype=np.float32)
    # Colour interpolation of a real sensor spreads noise over neighbours.
    noise = gaussian_filter(raw, (0.5, 0.5, 0), truncate=2) * np.float32(1.25)
    light = np.clip(radiance, 0, None)
    light = light + noise * np.sqrt(np.float32(3e-6) + np.float32(9e-5) * light)
    return (tone(light) * 255 + np.float32(0.5)).astype(np.uint8)


def tone(radiance: NDArray[np.float32]) -> NDArray[np.float32]:
    """The camera's tone curve: linear light to screen values in [0, 1]."""
    # A soft shoulder instead of burnt-out highlights.
    bright = np.float32(0.8) + np.float32(0.2) * np.tanh((radiance - np.float32(0.8)) * 5)
    light = np.where(radiance > 0.8, bright, radiance)
    return np.clip(light, 0, 1) ** np.float32(1 / 2.2)
