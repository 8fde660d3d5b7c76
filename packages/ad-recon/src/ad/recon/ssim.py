"""Structural similarity of two pictures, pixel by pixel, as a loss and as a map.

Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment", IEEE TIP 13(4), 2004, with the
authors' window of 11 x 11 pixels and deviation 1.5. Beyond the border pictures are 0, so that the
map has their size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RADIUS = 5
_SIGMA = 1.5


def ssim(x: Tensor, y: Tensor, *, data_range: float = 1.0) -> Tensor:
    """Compare two batches; float32 inside and out, whatever autocast says.

    Variances are differences of nearly equal numbers, of which bf16 leaves nothing.

    Args:
        x: ``[B, C, H, W]``.
        y: Of that shape.
        data_range: Largest value less the smallest one that pictures can have.

    Returns:
        ``[B, H, W]``, the mean over channels, at most 1; 1 where the pictures agree.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        # One pass for the five moments; on a CPU channels-last is quicker by two thirds.
        stacked = torch.cat([x, y, x * x, y * y, x * y], dim=1)
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        channels = stacked.shape[1]
        tap = torch.arange(-_RADIUS, _RADIUS + 1, device=x.device, dtype=torch.float32)
        weight = torch.exp(-0.5 * (tap / _SIGMA) ** 2)
        weight = (weight / weight.sum()).expand(channels, 1, 1, -1)
        across = F.conv2d(stacked, weight, padding=(0, _RADIUS), groups=channels)
        down = weight.transpose(2, 3)
        moments = F.conv2d(across, down, padding=(_RADIUS, 0), groups=channels)
        mean_x, mean_y, xx, yy, xy = moments.chunk(5, dim=1)
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        product, squares = mean_x * mean_y, mean_x * mean_x + mean_y * mean_y
        structure = (2 * (xy - product) + c2) / (xx + yy - squares + c2)
        similarity = structure * (2 * product + c1) / (squares + c1)
        return similarity.mean(dim=1)
