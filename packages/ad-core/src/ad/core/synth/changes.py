"""Ten changes of a texture's colours and direction; each texture undergoes three of them.

All work on whole grey levels, as on a picture of 8 bits, and on several pictures at once. Where
Pillow has the operation, the result is Pillow's within a level.

Source: Zavrtanik et al., "DRAEM", ICCV 2021, with the ranges of the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ad.core.synth.rotation import rotate

Change = Callable[[Tensor, Tensor], Tensor]
"""Pictures ``[B, 3, H, W]`` of whole numbers from 0 to 255, and ``[B, 4]`` uniform random numbers
from 0 to below 1 to choose strengths by, to pictures of that shape with values from 0 to 255."""


def augment(images: Tensor, generators: Sequence[torch.Generator], *, count: int = 3) -> Tensor:
    """Change each picture by some of the ten, drawn without replacement, in the order drawn.

    Args:
        images: ``[B, 3, H, W]``, float32 in [0, 1]; rounded to 256 levels.
        generators: One for each picture, on the CPU.
        count: How many changes, from 0 to 10.

    Returns:
        ``[B, 3, H, W]``, float32 in [0, 1].
    """
    orders, numbers = [], []
    for generator in generators:
        orders.append(torch.randperm(len(CHANGES), generator=generator)[:count])
        numbers.append(torch.rand(count, 4, generator=generator))
    order, strengths = torch.stack(orders), torch.stack(numbers)  # [B, count], [B, count, 4]
    levels = (images * 255).round_().contiguous()
    with torch.autocast(images.device.type, enabled=False):
        for step in range(count):
            for number, change in enumerate(CHANGES):
                rows = (order[:, step] == number).nonzero()[:, 0]
                if len(rows):
                    strength = strengths[rows, step].to(images.device)
                    rows = rows.to(images.device)
                    changed = change(levels.index_select(0, rows), strength)
                    levels.index_copy_(0, rows, changed.round_().clamp_(0, 255))
    return levels.div_(255)


def gamma(levels: Tensor, u: Tensor) -> Tensor:
    """Gamma contrast: each channel to its own power, from 0.5 to 2."""
    power = 0.5 + 1.5 * u[:, :3, None, None]
    return 255 * (levels / 255) ** power


def brightness(levels: Tensor, u: Tensor) -> Tensor:
    """Scale the luminance by 0.8 to 1.2 and shift it by up to 30; colour differences stay."""
    luminance = luminance_of(levels)
    changed = luminance * _between(u[:, 0], 0.8, 1.2) + _between(u[:, 1], -30, 30)
    return levels + changed.clamp(0, 255) - luminance


def sharpness(levels: Tensor, u: Tensor) -> Tensor:
    """Away from or towards a smoothed picture, by a factor from 0.1 to 1.9, 1 being as it was."""
    if min(levels.shape[-2:]) < 3:
        return levels  # all of it is border, which stays
    rows = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = levels.clone()
    smooth[..., 1:-1, 1:-1] = ((around + 4 * levels[..., 1:-1, 1:-1]) / 13).round()
    return smooth + (levels - smooth) * _between(u[:, 0], 0.1, 1.9)


def hue_and_saturation(levels: Tensor, u: Tensor) -> Tensor:
    """Shift the hue and, apart from it, the saturation by up to 50 of 255."""
    hue, saturation, value = to_hsv(levels / 255)
    shift = (100 * u[:, :2, None, None] - 50) / 255
    return 255 * from_hsv(hue + shift[:, 0], (saturation + shift[:, 1]).clamp(0, 1), value)


def solarize(levels: Tensor, u: Tensor) -> Tensor:
    """In half of the cases, invert what is not below a threshold from 32 to 128."""
    threshold = 32 + (97 * u[:, 1, None, None, None]).floor()
    do = (u[:, 0] < 0.5)[:, None, None, None]
    return torch.where(do & (levels >= threshold), 255 - levels, levels)


def posterize(levels: Tensor, u: Tensor) -> Tensor:
    """Keep the 1 to 8 highest bits."""
    step = 2 ** (7 - (8 * u[:, 0, None, None, None]).floor())
    return (levels / step).floor() * step


def invert(levels: Tensor, u: Tensor) -> Tensor:
    """Dark to light and back."""
    return 255 - levels


def autocontrast(levels: Tensor, u: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255; 0 to 20 % of its pixels are first cut off at both ends."""
    places, counts, every = _histograms(levels)
    cut = counts.sum(dim=-1, keepdim=True) * (21 * u[:, 0, None, None]).floor().long() // 100
    low = (counts.cumsum(dim=-1) <= cut).sum(dim=-1, keepdim=True)
    high = 255 - (counts.flip(-1).cumsum(dim=-1) <= cut).sum(dim=-1, keepdim=True)
    span = (high - low).clamp_min(1).double()
    scale = torch.full_like(span, 255) / span  # `255 / span` rounds twice and loses white
    table = (every * scale - low * scale).long().clamp(0, 255)
    table = torch.where(high > low, table, every)
    return table.to(levels.dtype).take(places)


def equalize(levels: Tensor, u: Tensor) -> Tensor:
    """Make all levels of a channel about equally frequent."""
    places, counts, every = _histograms(levels)
    last = counts.gather(-1, (every * (counts > 0)).amax(dim=-1, keepdim=True))
    step = (counts.sum(dim=-1, keepdim=True) - last) // 255
    below = counts.cumsum(dim=-1) - counts
    table = ((step // 2 + below) // step.clamp_min(1)).clamp_max(255)
    table = torch.where(step > 0, table, every)
    return table.to(levels.dtype).take(places)


def turn(levels: Tensor, u: Tensor) -> Tensor:
    """Turn by up to 45 degrees either way; corners become black."""
    return rotate(levels, 90 * u[:, 0] - 45)


CHANGES: tuple[Change, ...] = (
    *(gamma, brightness, sharpness, hue_and_saturation, solarize),
    *(posterize, invert, autocontrast, equalize, turn),
)
"""The ten, in the order of their numbers."""


def luminance_of(images: Tensor) -> Tensor:
    """Luminance of ``[B, 3, H, W]``, ITU-R 601, as ``[B, 1, H, W]`` in the same unit."""
    weights = images.new_tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)


def to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value, each ``[B, H, W]`` in [0, 1], of RGB ``[B, 3, H, W]`` in [0, 1].

    Grey has hue 0, black has saturation 0.
    """
    red, green, blue = images.unbind(dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    span = value - torch.minimum(torch.minimum(red, green), blue)
    per_span = 1 / torch.where(span > 0, span, 1)
    sector = torch.where(
        value == red,
        (green - blue) * per_span,
        torch.where(value == green, 2 + (blue - red) * per_span, 4 + (red - green) * per_span),
    )
    hue = torch.where(sector < 0, sector + 6, sector) / 6
    return hue, span / torch.where(value > 0, value, 1), value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB ``[B, 3, H, W]`` in [0, 1]; see `to_hsv`. Hue wraps around."""
    turn = 6 * (hue - hue.floor())
    colour = value * saturation
    channels = []
    for start in (5, 3, 1):
        k = turn + start
        k = torch.where(k >= 6, k - 6, k)
        channels.append(value - colour * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, dim=1)


def _between(u: Tensor, low: float, high: float) -> Tensor:
    return (low + (high - low) * u)[:, None, None, None]


def _histograms(levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count each channel's levels.

    Returns:
        For each pixel ``[B, 3, H, W]`` the place of its level in a table ``[B, 3, 256]``, how often
        each level is met in such a table, and all levels ``[256]``.
    """
    batch, channels = levels.shape[:2]
    first = 256 * torch.arange(batch * channels, device=levels.device)
    places = levels.long() + first.view(batch, channels, 1, 1)
    counts = torch.bincount(places.flatten(), minlength=256 * batch * channels)
    every = torch.arange(256, device=levels.device)
    return places, counts.view(batch, channels, 256), every
