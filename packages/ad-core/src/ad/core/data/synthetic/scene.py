"""What lies under the camera, before light and lens: colour, height, shadow.

Renderers build a `Surface`, defects change it, `ad.core.data.synthetic.camera` takes its picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ad.core.data.synthetic.textures import Field


@dataclass(slots=True)
class Surface:
    """A part's surface, ``n`` pixels wide and high."""

    colour: NDArray[np.float32]
    """Share of light that is reflected, ``[n, n, 3]``, linear, in [0, 1]."""
    height: Field
    """Height in units towards the camera; only its slopes show."""
    shadow: Field
    """Share of light that reaches the surface, in [0, 1]."""
    grain: float
    """Direction of brush marks, fibres or yarn against the columns' axis, in radians."""
    places: NDArray[np.float32]
    """Rows and columns where damage is likely to be seen, ``[P, 2]``, in units."""
    gloss: float = 0.0
    """How much slopes glint, on top of their diffuse shading."""

    def copy(self) -> Surface:
        """The same surface, to be changed on its own."""
        return replace(
            self, colour=self.colour.copy(), height=self.height.copy(), shadow=self.shadow.copy()
        )

    def paint(self, colour: tuple[float, float, float] | NDArray[np.float32], cover: Field) -> None:
        """Lay a colour over the surface, where ``cover`` in [0, 1] says how opaquely."""
        self.colour += (np.asarray(colour, np.float32) - self.colour) * cover[..., None]

    def tint(self, colour: tuple[float, float, float], depth: Field) -> None:
        """Let a transparent colour sink in: the surface is multiplied by ``colour ** depth``."""
        log = np.log(np.asarray(colour, np.float32))
        self.colour *= np.exp(log * depth[..., None])


@dataclass(frozen=True, slots=True)
class Flaw:
    """A defect to be made."""

    kind: str
    """Its name, as in `ad.core.data.synthetic.DEFECTS`."""
    severity: float
    """From 0, just visible, to 1, blatant."""
    rng: Generator
    """Chance of its own, so that the good picture of the same scene stays the same."""


def linear(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """Screen colour (0 to 255) to linear light (0 to 1)."""
    return (red / 255) ** 2.2, (green / 255) ** 2.2, (blue / 255) ** 2.2
