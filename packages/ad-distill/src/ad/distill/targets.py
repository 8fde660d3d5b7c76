"""What EfficientAD's teacher imitates: PatchCore's features of a large frozen network.

Two layers, each cell with its neighbours, averaged down to 384 numbers. All of that behind the
network is linear, so here it is one convolution for each layer, quick enough to be computed anew
for every batch.

Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv
2106.08265, and how its official code averages; 384 numbers as in EfficientAD, arXiv 2303.14535.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core.networks import FeatureExtractor
from ad.distill.pdn import CHANNELS

_EMBEDDING = 1024  # numbers of a cell in each layer, before both are averaged to 384


@final
class TargetFeatures(nn.Module):
    """PatchCore's features of a frozen network, 384 numbers for each cell.

    Each layer's cells with their 3 x 3 neighbourhood, in order of channel, row and column, are
    averaged to 1024 numbers; both layers' numbers, one after the other, to 384. Averaging is
    linear and each layer's share of it is a convolution; the deeper map is resized after it, which
    is the same as before it, since resizing treats every channel alike.

    Args:
        extractor: The frozen network, with the layers.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        count = len(extractor.channels)
        outer = pooling(count * _EMBEDDING, CHANNELS)
        for number, channels in enumerate(extractor.channels):
            share = outer[:, number * _EMBEDDING : (number + 1) * _EMBEDDING]
            weight = (share @ pooling(9 * channels, _EMBEDDING)).view(CHANNELS, channels, 3, 3)
            weight = weight.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"weight_{number}", weight, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [0, 1] to ``[B, 384, H / 8, W / 8]``, float32, not yet scaled."""
        bf16 = self.extractor.precision == "bf16"
        total: Tensor | None = None
        for number, features in enumerate(self.extractor(images)):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                part = F.conv2d(features, self.get_buffer(f"weight_{number}"), padding=1)
            if total is None:
                total = part.float()
            else:
                grid = (total.shape[2], total.shape[3])
                total = total + F.interpolate(
                    part.float(), grid, mode="bilinear", align_corners=False
                )
        assert total is not None
        return total


def pooling(inputs: int, outputs: int) -> Tensor:
    """The matrix of ``F.adaptive_avg_pool1d``.

    Returns:
        ``[outputs, inputs]``, float32; each row an average.
    """
    row = torch.arange(outputs)
    start = row * inputs // outputs
    end = -(-(row + 1) * inputs // outputs)
    column = torch.arange(inputs)
    inside = (column >= start[:, None]) & (column < end[:, None])
    return inside / (end - start)[:, None]
