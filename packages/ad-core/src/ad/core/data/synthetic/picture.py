"""One picture of the synthetic data set: scene, light, defect, mask."""

from __future__ import annotations

from itertools import count
from zlib import crc32

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ad.core.data.synthetic.camera import Picture, develop, expose, light
from ad.core.data.synthetic.defects import DAMAGE, touched
from ad.core.data.synthetic.scene import Flaw, Surface
from ad.core.data.synthetic.surfaces import fabric, metal, wood
from ad.core.data.synthetic.tray import tray

_RENDERERS = {"fabric": fabric, "metal": metal, "wood": wood, "tray": tray}

_SHARPEST = 192
"""Pixels that the finest textures need; smaller pictures are reduced from at least that many."""

_SMALLEST_MASK = 3e-4
"""Share of the picture that a defect must cover to count: 20 pixels of 256 by 256."""


def draw(
    category: str, index: int, *, seed: int, size: int, defect: str | None
) -> tuple[Picture, NDArray[np.bool_]]:
    """Draw a picture; the arguments are checked by `ad.core.data.synthetic.render`."""
    n = size * -(-_SHARPEST // size)
    lamp = light(_chance(seed, index, category, "light"), n)
    surface = _build(category, index, seed, n, None)
    good = expose(surface, lamp, size)
    sensor = _chance(seed, index, category, "sensor")
    if defect is None:
        return develop(good, sensor), np.zeros((size, size), np.bool_)
    # The golden ratio spreads severities evenly over any run of indices.
    severity = (_chance(seed, 0, category, defect).random() + index * 0.6180339887498949) % 1
    for attempt in count():  # whatever cannot be seen is no defect: try again, and harder
        rng = _chance(seed, index, category, defect, attempt)
        flaw = Flaw(defect, min(severity + 0.1 * attempt, 1.0), rng)
        if defect in DAMAGE[category]:
            flawed = surface.copy()
            DAMAGE[category][defect](flawed, flaw)
        else:
            flawed = _build(category, index, seed, n, flaw)
        radiance, mask = touched(good, expose(flawed, lamp, size))
        if mask.mean() >= _SMALLEST_MASK:
            break
    return develop(radiance, sensor), mask


def _build(category: str, index: int, seed: int, n: int, flaw: Flaw | None) -> Surface:
    return _RENDERERS[category](_chance(seed, index, category, "scene"), n, flaw)


def _chance(seed: int, index: int, category: str, purpose: str, attempt: int = 0) -> Generator:
    """Independent chance for every purpose, so that a defect changes nothing else."""
    names = [crc32(category.encode()), crc32(purpose.encode())]
    return np.random.default_rng([seed, index, attempt, *names])
