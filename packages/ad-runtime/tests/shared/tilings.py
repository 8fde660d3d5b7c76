"""Tilings for tests."""

from ad.runtime.framing import Size
from ad.runtime.framing.tiles import Tiling


def tiling(tile=64, overlap=32, margin=None, scale=1.0):
    made = Tiling.of(Size(tile, tile) if isinstance(tile, int) else Size(*tile), overlap, scale)
    return made if margin is None else Tiling(
        tile=made.tile, overlap=overlap, margin=margin, scale=scale
    )  # fmt: skip
