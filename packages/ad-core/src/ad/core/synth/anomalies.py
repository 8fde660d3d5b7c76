"""DRAEM's synthetic defects: blotches of another texture, blended into good pictures.

Source: Zavrtanik, Kristan, Skočaj, "DRAEM", ICCV 2021, arXiv 2108.07610, section 3.3. As in the
authors' code, `beta` is the opacity of the original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from ad.core.errors import SettingError
from ad.core.synth.changes import augment
from ad.core.synth.perlin import perlin_masks
from ad.core.synth.rotation import turn_some
from ad.core.synth.textures import TextureSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Pictures with synthetic defects, ``B`` of them, some perhaps without any."""

    images: Tensor
    """``[B, 3, H, W]``, float32 in [0, 1]: perhaps broken."""
    clean: Tensor
    """``[B, 3, H, W]``, float32 in [0, 1]: what they were, perhaps turned; what to rebuild. If
    nothing is turned, the very tensor that was given."""
    masks: Tensor
    """``[B, 1, H, W]``, float32: 1 where broken, 0 elsewhere."""
    labels: Tensor
    """``[B]``, bool: whether anything of the mask is 1."""


@final
class PerlinAnomalies:
    """Breaks pictures under Perlin masks.

    Args:
        textures: What to fill blotches with.
        probability: That a picture is broken.
        beta: Least and greatest opacity of the original under the texture.
        rotate_prob: Probability that a picture is turned before, by up to 90 degrees either way,
            its corners black; 0 for parts that always lie in the same way.
        augment_textures: Whether textures undergo three of ten changes first.

    Raises:
        SettingError: If a probability or `beta` is not within 0 to 1.
    """

    def __init__(
        self,
        textures: TextureSource,
        *,
        probability: float = 0.5,
        beta: tuple[float, float] = (0.0, 0.8),
        rotate_prob: float = 0.3,
        augment_textures: bool = True,
    ) -> None:
        check_probability("probability", probability)
        check_probability("rotate_prob", rotate_prob)
        if not 0 <= beta[0] <= beta[1] <= 1:
            msg = f"`beta` must be two numbers from 0 to 1, the smaller first; got {beta}."
            raise SettingError(msg)
        self.textures = textures
        self.probability = probability
        self.beta = beta
        self.rotate_prob = rotate_prob
        self.augment_textures = augment_textures

    def __call__(self, images: Tensor, generators: Sequence[torch.Generator]) -> Broken:
        """Break pictures.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1]; not changed.
            generators: One for each picture, on the CPU.
        """
        numbers = torch.stack([torch.rand(4, generator=g) for g in generators])
        clean = turn_some(images, numbers[:, :2], self.rotate_prob)
        broken = clean.clone()
        masks = torch.zeros_like(images[:, :1])
        rows = (numbers[:, 2] < self.probability).nonzero()[:, 0].tolist()
        if rows:
            own = [generators[row] for row in rows]
            parts = clean[rows]
            size = (images.shape[2], images.shape[3])
            masks[rows] = perlin_masks(size, own, device=images.device)
            textures = self.textures.draw(parts, own)
            if self.augment_textures:
                textures = augment(textures, own)
            beta = self.beta[0] + (self.beta[1] - self.beta[0]) * numbers[rows, 3]
            broken[rows] = blend(parts, textures, masks[rows], beta)
        labels = masks.flatten(1).any(dim=1)
        return Broken(images=broken, clean=clean, masks=masks, labels=labels)


def blend(images: Tensor, textures: Tensor, masks: Tensor, beta: Tensor) -> Tensor:
    """Lay textures over pictures where the masks are 1.

    Args:
        images: ``[B, 3, H, W]``.
        textures: ``[B, 3, H, W]``.
        masks: ``[B, 1, H, W]``, 0 and 1.
        beta: ``[B]``: opacity of the picture under its texture, from 0 to 1.

    Returns:
        ``[B, 3, H, W]``; the pictures themselves where the masks are 0.
    """
    opacity = beta.to(images)[:, None, None, None]
    return torch.where(masks > 0, (1 - opacity) * textures + opacity * images, images)


def check_probability(name: str, value: float) -> None:
    """Check a user's option.

    Raises:
        SettingError: If it is no number from 0 to 1.
    """
    if not 0 <= value <= 1:
        msg = f"`{name}` must be a probability from 0 to 1; got {value}."
        raise SettingError(msg)
