"""Perlin noise, a batch at once, and masks of blotches from it.

The weights of a lattice point are a product of one for the row and one for the column, so noise is
``(W D) gy V^T + W gx (V E)^T``: ``gy``, ``gx`` are the gradients at the lattice points, ``W`` and
``V`` weigh the lattice lines for each row and column of pixels, ``D`` and ``E`` are the distances
to them, multiplied in element by element. Matrix products, without a gather.

Source: Perlin, "Improving Noise", SIGGRAPH 2002, for the quintic fade; masks as in Zavrtanik et
al., "DRAEM", ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ad.core.synth.rotation import rotate

MAX_EXPONENT = 5
"""The lattice of a mask has 2^0 to 2^5 cells along each side."""

_LINES = 2**MAX_EXPONENT + 1


def perlin_noise(angles: Tensor, cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute gradient noise.

    Sides that are no power of two are cut out of the next one's noise, top left.

    Args:
        angles: ``[B, L, L]``, float32: direction of the gradient at each lattice point in radians,
            0 is down. Of each, the first ``cells + 1`` rows and columns count.
        cells: ``[B, 2]``, whole numbers below ``L``: how many down and across.
        size: Height and width of the noise, in pixels.

    Returns:
        ``[B, H, W]``, float32 in about [-1, 1], on the device of ``angles``; 0 at the lattice
        points.
    """
    with torch.autocast(angles.device.type, enabled=False):
        weight_y, moment_y = _weights(cells[:, 0], size[0], angles)
        weight_x, moment_x = _weights(cells[:, 1], size[1], angles)
        of_rows = torch.cat([moment_y, weight_y], dim=2)  # [B, H, 2 L]
        of_columns = torch.cat(
            [
                angles.cos() @ weight_x.transpose(1, 2),
                angles.sin() @ moment_x.transpose(1, 2),
            ],
            dim=1,
        )  # [B, 2 L, W]
        return math.sqrt(2) * (of_rows @ of_columns)


def perlin_masks(
    size: tuple[int, int],
    generators: Sequence[torch.Generator],
    *,
    device: torch.device | str,
    threshold: float = 0.5,
    ensure_nonempty: bool = False,
    least_cell: int = 2,
) -> Tensor:
    """Draw masks of blotches: where rotated Perlin noise is above a threshold.

    Cells per side are a power of two, drawn from 2^0 to 2^5 for each direction, but never so many
    that a cell gets too small. The noise is turned by up to 90 degrees either way.

    Args:
        size: Height and width, in pixels.
        generators: One for each mask, on the CPU.
        device: Where the masks are wanted.
        threshold: Of the noise, which reaches from -1 to 1.
        ensure_nonempty: Stretch noise that is nowhere above the threshold to [-1, 1], so that some
            is. By default such a mask, one in twenty at 0.5, is empty.
        least_cell: Side that cells of the lattice have at least, in pixels, a power of two.

    Returns:
        ``[B, 1, H, W]``, float32, 1 inside of blotches and 0 elsewhere.
    """
    numbers = torch.stack([torch.rand(3 + _LINES**2, generator=g) for g in generators]).to(device)
    most = [
        min(MAX_EXPONENT, max(0, (power_of_two(side) // least_cell).bit_length() - 1))
        for side in size
    ]
    exponents = numbers[:, :2] * (torch.tensor(most, device=numbers.device) + 1)
    angles = 2 * math.pi * numbers[:, 3:].reshape(-1, _LINES, _LINES)
    noise = perlin_noise(angles, 2 ** exponents.long(), size)
    noise = rotate(noise[:, None], 180 * numbers[:, 2] - 90)
    if ensure_nonempty:
        low, high = noise.amin(dim=(1, 2, 3), keepdim=True), noise.amax(dim=(1, 2, 3), keepdim=True)
        span = (high - low).clamp_min(torch.finfo(noise.dtype).tiny)
        noise = torch.where(high > threshold, noise, 2 * (noise - low) / span - 1)
    return (noise > threshold).float()


def power_of_two(side: int) -> int:
    """The smallest power of two that is not below a side."""
    return 1 << (side - 1).bit_length()


def _weights(cells: Tensor, side: int, angles: Tensor) -> tuple[Tensor, Tensor]:
    """How much each lattice line counts for each pixel, and that times its distance in cells."""
    pixels = torch.arange(side, device=angles.device, dtype=angles.dtype)
    lines = torch.arange(angles.shape[1], device=angles.device, dtype=angles.dtype)
    places = pixels * (cells[:, None].to(angles) / power_of_two(side))  # [B, side]
    gap = places[..., None] - lines  # [B, side, L]
    near = gap.abs().clamp_max(1)
    weight = 1 - near**3 * (near * (near * 6 - 15) + 10)  # 1 on the line, 0 from the next one on
    return weight, weight * gap
