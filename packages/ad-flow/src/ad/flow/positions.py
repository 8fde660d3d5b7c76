"""Where in a map a position is, in sines and cosines: a condition of flows.

Source: Gudovskiy et al., "CFLOW-AD", WACV 2022; Wang, Liu, 2019, for the two axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def position_code(channels: int, height: int, width: int) -> Tensor:
    """The code of each position of a map.

    The first half of the channels is of the column, the second of the row; in each, sines and
    cosines alternate, with wavelengths from 2 pi to nearly 20,000 pi cells.

    Args:
        channels: A multiple of 4.
        height: Of the map, in cells.
        width: Of the map, in cells.

    Returns:
        ``[channels, height, width]``, float32, from -1 to 1.
    """
    half = channels // 2
    even = torch.arange(0, half, 2, dtype=torch.float64)
    frequencies = 10_000.0 ** (-even / half)

    def axis(length: int) -> Tensor:
        angles = torch.arange(length, dtype=torch.float64) * frequencies[:, None]
        return torch.stack([angles.sin(), angles.cos()], 1).flatten(0, 1)  # [half, length]

    columns = axis(width)[:, None, :].expand(half, height, width)
    rows = axis(height)[:, :, None].expand(half, height, width)
    return torch.cat([columns, rows]).float()
