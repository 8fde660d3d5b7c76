"""CutPaste: a part of the picture itself, its colours shifted a little, put elsewhere.

Parts are upright rectangles, or scars: thin, short and turned.

Source: Li, Sohn, Yoon, Pfister, "CutPaste", CVPR 2021, arXiv 2104.04015, sections 2.2 and 2.3. The
paper gives the size of a scar in pixels of a picture of 256; here it grows with the picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from ad.core.errors import SettingError
from ad.core.synth.anomalies import Broken, check_probability
from ad.core.synth.changes import from_hsv, luminance_of, to_hsv

AREA = (0.02, 0.15)
"""Of a rectangle, as a share of the picture."""

ASPECT = (0.3, 3.3)
"""Height to width of a rectangle."""

SCAR_LENGTH, SCAR_WIDTH = (10 / 256, 25 / 256), (2 / 256, 16 / 256)
"""Of a scar, as shares of the picture's smaller side."""


@final
class CutPaste:
    """Breaks pictures with parts of themselves.

    Args:
        probability: That a picture is broken.
        scar_prob: That a part is a scar instead of a rectangle.
        jitter: Largest change of the part's brightness, contrast and saturation, as a share, and of
            its hue, as a share of the circle; 0 for none.

    Raises:
        SettingError: If an option is not within its range.
    """

    def __init__(
        self, *, probability: float = 0.5, scar_prob: float = 0.5, jitter: float = 0.1
    ) -> None:
        check_probability("probability", probability)
        check_probability("scar_prob", scar_prob)
        if not 0 <= jitter <= 0.5:
            msg = f"`jitter` must be a share from 0 to 0.5; got {jitter}."
            raise SettingError(msg)
        self.probability = probability
        self.scar_prob = scar_prob
        self.jitter = jitter

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Broken:
        """Break pictures; a part counts as broken even where it looks like what it covers.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1]; not changed.
            generators: One for each picture, on the CPU.
        """
        numbers = torch.stack([torch.rand(13, generator=g) for g in generators])
        broken = images.clone()
        masks = torch.zeros_like(images[:, :1])
        rows = (numbers[:, 0] < self.probability).nonzero()[:, 0].tolist()
        if rows:
            u = numbers[rows].to(images.device)
            parts = images[rows]
            masks[rows], source = _places(parts, u, self.scar_prob)
            moved = parts.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, 3, -1))
            shifted = jitter(moved.view_as(parts), masks[rows], 2 * u[:, 9:] - 1, self.jitter)
            broken[rows] = torch.where(masks[rows] > 0, shifted, parts)
        labels = masks.flatten(1).any(dim=1)
        return Broken(images=broken, clean=images, masks=masks, labels=labels)


def jitter(images: Tensor, masks: Tensor, u: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast, saturation and hue of what is inside of masks.

    Args:
        images: ``[B, 3, H, W]`` in [0, 1].
        masks: ``[B, 1, H, W]``, 0 and 1: contrast is about the mean luminance inside.
        u: ``[B, 4]``, from -1 to 1: how much of the four, in this order.
        strength: Change at 1.

    Returns:
        ``[B, 3, H, W]`` in [0, 1]; outside of the masks it is of no meaning.
    """
    factor = (1 + strength * u)[..., None, None, None]
    images = (images * factor[:, 0]).clamp(0, 1)
    inside = masks.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (luminance_of(images) * masks).sum(dim=(2, 3), keepdim=True) / inside
    images = (mean + factor[:, 1] * (images - mean)).clamp(0, 1)
    grey = luminance_of(images)
    images = (grey + factor[:, 2] * (images - grey)).clamp(0, 1)
    hue, saturation, value = to_hsv(images)
    return from_hsv(hue + strength * u[:, 3, None, None], saturation, value)


def _places(images: Tensor, u: Tensor, scar_prob: float) -> tuple[Tensor, Tensor]:
    """Where parts go, ``[B, 1, H, W]``, and for each pixel which one comes there, ``[B, H, W]``.

    A rectangle is whole pixels; so is the way it goes.
    """
    height, width = images.shape[-2:]
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * u[:, 2])
    aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** u[:, 3]
    scar = u[:, 1] < scar_prob
    least = min(height, width)
    long = least * (SCAR_LENGTH[0] + (SCAR_LENGTH[1] - SCAR_LENGTH[0]) * u[:, 2])
    thin = least * (SCAR_WIDTH[0] + (SCAR_WIDTH[1] - SCAR_WIDTH[0]) * u[:, 3])
    down = torch.where(scar, long, (area * aspect).sqrt()).round().clamp(1, height)
    across = torch.where(scar, thin, (area / aspect).sqrt()).round().clamp(1, width)
    angle = torch.where(scar, math.pi / 2 * u[:, 8] - math.pi / 4, 0)
    # Top left corners of the part before and after; a turned scar may reach beyond the border.
    room_y, room_x = height - down + 1, width - across + 1
    from_y, to_y = (u[:, 4] * room_y).floor(), (u[:, 5] * room_y).floor()
    from_x, to_x = (u[:, 6] * room_x).floor(), (u[:, 7] * room_x).floor()

    y = torch.arange(height, device=u.device)[:, None] - (to_y + (down - 1) / 2)[:, None, None]
    x = torch.arange(width, device=u.device) - (to_x + (across - 1) / 2)[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along_y, along_x = cos * y + sin * x, cos * x - sin * y  # from the part's centre
    half_y, half_x = (down / 2)[:, None, None], (across / 2)[:, None, None]
    inside = (along_y.abs() < half_y) & (along_x.abs() < half_x)
    source_y = (along_y + (from_y + (down - 1) / 2)[:, None, None]).round().clamp(0, height - 1)
    source_x = (along_x + (from_x + (across - 1) / 2)[:, None, None]).round().clamp(0, width - 1)
    return inside[:, None].to(images), (source_y * width + source_x).long()
