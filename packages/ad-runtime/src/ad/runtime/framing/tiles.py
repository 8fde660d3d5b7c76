"""Pictures much larger than what a detector sees, cut into tiles and their maps joined again.

What a detector says near a tile's border is of another kind than what it says inside, where it sees
all that is around: the same pixel was measured to differ by up to 72 scales within 16 pixels of the
border, and by 2.5 beyond 64. So a margin of each tile counts for nothing, but at the picture's own
border, where there is no other tile. Tiles lie at multiples of 32 pixels, the stride of the
coarsest layer in use: the same pixels lie alike in the cells of both tiles that hold them.

A picture has as many tiles as cover it; beyond its right and lower border its edge goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.framing.size import Size, size_of, wrong_size

STEP = 32
"""Tiles and their positions are multiples of it, in pixels."""

MARGIN = 64
"""How much of a tile's border counts for nothing if the overlap allows it, in pixels."""

LEAST_SCALE, MOST_SCALE = 0.01, 8.0
"""Of a picture before it is cut."""


class Place(NamedTuple):
    """Where a tile's first pixel lies on the scaled picture."""

    y: int
    x: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How pictures are cut, and maps of the tiles joined."""

    tile: Size
    """Of a tile: what a detector sees."""
    overlap: int
    """How far neighbours overlap, in pixels."""
    margin: int
    """How far from its border on a tile counts for nothing, in pixels; twice that is at most the
    overlap, so that each pixel of a picture counts in some tile."""
    scale: float = 1.0
    """Pictures are resized by it before they are cut."""

    @classmethod
    def of(cls, tile: Size, overlap: int | None = None, scale: float = 1.0) -> Tiling:
        """The one that a user asks for, with the margin that the overlap allows.

        Args:
            tile: Of a tile.
            overlap: Half of the shorter side by default, in steps of 32.
            scale: Of pictures before they are cut.
        """
        if overlap is None:
            overlap = min(tile) // 2 // STEP * STEP
        return cls(tile=tile, overlap=overlap, margin=min(MARGIN, overlap // 2), scale=scale)

    def scaled(self, picture: Size) -> Size:
        """Size of a picture when it is cut."""
        return Size(*(max(1, round(side * self.scale)) for side in picture))

    def places(self, scaled: Size, looked_at: NDArray[np.bool_] | None = None) -> list[Place]:
        """Where the tiles of a picture lie, row by row.

        Args:
            scaled: Size of the picture when it is cut.
            looked_at: ``[H, W]``: what counts of it; tiles that show nothing of it are left out.
        """
        down, across = (self._starts(*sides) for sides in zip(scaled, self.tile, strict=True))
        places = [Place(y, x) for y in down for x in across]
        if looked_at is None:
            return places
        height, width = self.tile
        return [at for at in places if looked_at[at.y : at.y + height, at.x : at.x + width].any()]

    def cut(self, scaled: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
        """One tile of a picture.

        Args:
            scaled: ``[H, W, 3]``, the picture.
            place: Of the tile.

        Returns:
            ``[h, w, 3]``, of the tile's size; beyond the picture its edge goes on. A view where the
            tile lies within.
        """
        tile = scaled
        for axis, (at, side) in enumerate(zip(place, self.tile, strict=True)):
            whole = scaled.shape[axis]
            if at + side <= whole:
                tile = tile[(slice(None),) * axis + (slice(at, at + side),)]
            else:
                tile = tile.take(np.minimum(np.arange(at, at + side), whole - 1), axis=axis)
        return tile

    def to_json(self) -> dict[str, Any]:
        """As it is saved with a model."""
        return {
            "tile": self.tile.plain,
            "overlap": self.overlap,
            "margin": self.margin,
            "scale": self.scale,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Tiling:
        """Read what `to_json` wrote, if it is not `wrong_tiling`."""
        return cls(**{**values, "tile": size_of(values["tile"])})

    def _starts(self, whole: int, tile: int) -> list[int]:
        stride = tile - self.overlap
        return [stride * at for at in range(1 + max(0, -(-(whole - tile) // stride)))]

    def _weights(self, whole: int, tile: int) -> NDArray[np.float32]:
        """How much each pixel of each tile of one axis counts, ``[tiles, tile]``."""
        count = len(self._starts(whole, tile))
        # 0 in the margin, then rising over what is left of the overlap, at once if nothing is.
        rise = self.overlap - 2 * self.margin
        at = np.arange(tile) - self.margin + 0.5
        ramp = np.clip(at / rise, 0, 1) if rise else (at > 0).astype(np.float64)
        weights = np.ones((count, tile))
        weights[1:] *= ramp  # but at the picture's own border
        weights[:-1] *= ramp[::-1]
        return weights.astype(np.float32)


class Joined:
    """The map of one picture, made of those of its tiles as they come.

    Args:
        tiling: How it was cut.
        scaled: Size of the picture when it was cut.
    """

    def __init__(self, tiling: Tiling, scaled: Size) -> None:
        self._tiling = tiling
        self._scaled = scaled
        self._down, self._across = (
            tiling._weights(*sides) for sides in zip(scaled, tiling.tile, strict=True)
        )
        self._sum = np.zeros(scaled, dtype=np.float32)

    def add(self, place: Place, map_: NDArray[np.float32]) -> None:
        """Take in the map of one tile.

        Args:
            place: Of the tile.
            map_: ``[h, w]``, of the tile's size.
        """
        (y, x), tile = place, self._tiling.tile
        stride = [side - self._tiling.overlap for side in tile]
        height = min(tile.height, self._scaled.height - y)
        width = min(tile.width, self._scaled.width - x)
        down = self._down[y // stride[0]][:height, None]
        across = self._across[x // stride[1]][:width]
        self._sum[y : y + height, x : x + width] += down * across * map_[:height, :width]

    def map(self) -> NDArray[np.float32]:
        """The mean of what the tiles say of each pixel, ``[H, W]``, once all have been added."""
        totals = []
        for weights, whole, tile in zip(
            (self._down, self._across), self._scaled, self._tiling.tile, strict=True
        ):
            total = np.zeros(whole + tile, dtype=np.float32)
            for at, row in zip(self._tiling._starts(whole, tile), weights, strict=True):
                total[at : at + tile] += row
            totals.append(total[:whole])
        return np.asarray(self._sum / (totals[0][:, None] * totals[1]))


def wrong_tiling(values: object) -> str | None:
    """Why something cannot be a tiling's JSON; None if it can."""
    if not isinstance(values, dict) or set(values) != {"tile", "overlap", "margin", "scale"}:
        return "`tiling` must have `tile`, `overlap`, `margin` and `scale`"
    margin, scale = values["margin"], values["scale"]
    if wrong_size(values["tile"]) or type(values["overlap"]) is not int:
        return "`tile` and `overlap` must be whole numbers of pixels"
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        return "`scale` must be a number"
    if reason := wrong_tile(size_of(values["tile"]), values["overlap"], scale):
        return reason
    if type(margin) is not int or not 0 <= 2 * margin <= values["overlap"]:
        return "`margin` must be from 0 to half the overlap"
    return None


def wrong_tile(tile: Size, overlap: int | None, scale: float) -> str | None:
    """Why pictures cannot be cut so; None if they can. Names are those of a run's settings."""
    if not tile.divides(STEP, 2 * STEP):
        return (
            f"`tile` must be a multiple of {STEP} from {2 * STEP} pixels on, so that the same "
            f"pixels lie alike in all tiles: got {tile.typed}. Near it is "
            f"{tile.near(STEP, 2 * STEP).replace('--img-size', '--tile')}."
        )
    most = min(tile) - STEP
    if overlap is not None and not (overlap % STEP == 0 and 0 <= overlap <= most):
        return (
            f"`overlap` must be a multiple of {STEP} from 0 to {most} pixels, {STEP} less than the "
            f"tile; got {overlap}."
        )
    if not LEAST_SCALE <= scale <= MOST_SCALE:
        return f"`tile_scale` must be from {LEAST_SCALE} to {MOST_SCALE:g}; got {scale}."
    return None
