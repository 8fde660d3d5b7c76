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
    radians = torch.deg2rad(degrees.to(images))[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    # Distances from the centre in pixels, then where each pixel comes from, from -1 to 1. What
    # `affine_grid` does, without its product of a tall matrix, which costs more than the rest.
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, device=images.device) - (height - 1) / 2)[:, None]
    across = (cos * x - sin * y) * (2 / width)
    down = (sin * x + cos * y) * (2 / height)
    with torch.autocast(images.device.type, enabled=False):  # levels are lost in bf16
        grid = torch.stack([across, down], dim=-1)
        return F.grid_sample(images, grid, align_corners=False)


def turn_some(images: Tensor, numbers: Tensor, probability: float) -> Tensor:
    """Turn some pictures by up to 90 degrees either way; their corners get black.

    Args:
        images: ``[B, C, H, W]``, float32 in [0, 1]; not changed.
        numbers: ``[B, 2]``, from 0 to below 1: whether each is turned, and by how much.
        probability: That one is turned.

    Returns:
        Of that shape and range; the pictures themselves if none is turned.
    """
    rows = (numbers[:, 0] < probability).nonzero()[:, 0].tolist()
    if not rows:
        return images
    turned = images.clone()
    turned[rows] = rotate(images[rows], 180 * numbers[rows, 1] - 90).clamp(0, 1)
    return turned
