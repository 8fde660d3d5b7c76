"""What EfficientAD's teacher imitates: PatchCore's features of a large frozen network.

Two layers, each cell with its neighbours, averaged down to 384 numbers, which is quick enough to be
computed anew for every batch.

Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv
2106.08265; 384 numbers as in EfficientAD, arXiv 2303.14535.
"""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from ad.core import in_precision
from ad.core.networks import FeatureExtractor, PooledPatches
from ad.distill.pdn import CHANNELS


@final
class TargetFeatures(nn.Module):
    """PatchCore's features of a frozen network, 384 numbers for each cell.

    Args:
        extractor: The frozen network, with the layers.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.patches = PooledPatches(extractor.channels, CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [0, 1] to ``[B, 384, H / 8, W / 8]``, float32, not yet scaled."""
        maps = self.extractor(images)
        with in_precision(self.extractor.precision, images.device):
            patches: Tensor = self.patches(maps)
        return patches.permute(0, 3, 1, 2)
