"""Pictures turned by an angle of their own, all of a batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn pictures about their centres, bilinearly; what comes in from outside is 0.

    Args:
        images: ``[B, C, H, W]``, float32.
        degrees: ``[B]``; counter-clockwise for a person who looks at the picture.

    Returns:
        ``[B, C, H, W]``, of the same size: corners are lost.
    """
    height, width = images.shape[-2:]
    with torch.autocast(images.device.type, enabled=False):  # positions are lost in bf16
        radians = torch.deg2rad(degrees.to(images))
        cos, sin = radians.cos(), radians.sin()
        zero = torch.zeros_like(cos)
        # Where each pixel comes from; coordinates run from -1 to 1 along both sides.
        across = torch.stack([cos, -sin * (height / width), zero], dim=-1)
        down = torch.stack([sin * (width / height), cos, zero], dim=-1)
        theta = torch.stack([across, down], dim=1)  # [B, 2, 3]
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
