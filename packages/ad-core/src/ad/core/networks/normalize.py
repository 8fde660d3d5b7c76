"""Pictures as networks that learnt from ImageNet want them."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@final
class ImagenetNorm(nn.Module):
    """Scales pictures by ImageNet's mean and deviation: what most networks were taught with.

    Args:
        scale: Whether it does; if not, values stay as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, scale: bool = True) -> None:
        super().__init__()
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if scale else ((0.0,) * 3, (1.0,) * 3)
        # Constants of the method, not something learnt: kept out of the saved model.
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [0, 1] to the same shape, channels-last in memory."""
        x = (images - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)
