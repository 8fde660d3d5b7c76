"""Feature maps without learnt weights: local energies of a fixed bank of filters.

For trying things out offline. Gaussian derivatives at four scales respond to edges, lines and
blots in brightness and in two colour contrasts; their squared responses are pooled to cells of 8
pixels, as in the energy model of texture perception: Adelson & Bergen, "Spatiotemporal energy
models for the perception of motion", JOSA A 1985; filters steered to any direction by their
pooled products: Freeman & Adelson, "The design and use of steerable filters", PAMI 1991. Fourth
roots make a faint change in a quiet place count as much as a strong one in a busy place.

Local by design: it knows nothing of objects. Exposure and slow changes of light hardly matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ad.core.errors import SettingError, listed

FILTER_BANK = "filter_bank"
"""What option `backbone` calls it."""

LAYERS = ("fine", "coarse")
"""Names of the feature maps: scales of 1 and 2 pixels; 4 and 8 pixels, and local colour."""

STRIDE = 8
"""Input pixels per feature cell."""

_SCALES = {"fine": (0, 1), "coarse": (2, 3)}  # halvings of the picture
_DIRECTIONS = 6
_RADIUS = 4  # of the derivative filters, in pixels of their level; their deviation is 1
_ENERGIES = 2 * _DIRECTIONS + 8
_FLOOR = 1e-6  # below sensor noise: keeps the fourth root from blowing it up
_SURROUND = 3.0  # deviation of the surround that local colour is compared with, in cells

# Weights of a distance, by measurement on the synthetic pictures.
_EDGE, _LINE, _BLOT, _COLOUR, _MEAN = 1.0, 1.5, 1.0, 0.7, 0.5
_ROOT_GAIN = 0.3


@final
class FilterBank(nn.Module):
    """Energies of edges, lines and blots around each cell, in place of a backbone's layers.

    Nothing in it is learnt, drawn or stored in a file: two of them are always equal.

    Args:
        layers: Some of `LAYERS`, from fine to coarse.

    Raises:
        SettingError: If a layer does not exist, or they are not in order.
    """

    derivatives: Tensor
    energies: Tensor
    gains: Tensor
    halving: Tensor
    opponent: Tensor
    surround: Tensor

    def __init__(self, layers: Sequence[str] = LAYERS) -> None:
        super().__init__()
        if not layers or list(layers) != [name for name in LAYERS if name in layers]:
            msg = (
                f"`layers` of backbone `filter_bank` must be some of {listed(LAYERS)}, fine before "
                f"coarse; got {', '.join(f'`{name}`' for name in layers) or 'none'}."
            )
            raise SettingError(msg)
        self.layers = tuple(layers)
        per_layer = {"fine": 2 * _ENERGIES, "coarse": 2 * _ENERGIES + 3}
        self.channels: tuple[int, ...] = tuple(per_layer[name] for name in self.layers)
        """Channels of each layer's map."""
        self.strides: tuple[int, ...] = (STRIDE,) * len(self.layers)
        """Input pixels per feature cell of each layer."""
        # Constants of the method, not something learnt: kept out of the saved model.
        opponent = _opponent()
        for name, constant in (
            ("derivatives", _derivative_filters(opponent)),
            ("energies", _energy_forms()),
            ("gains", _energy_gains()),
            ("halving", torch.eye(3)[:, :, None, None] * _outer(torch.tensor([1.0, 4, 6, 4, 1]))),
            ("opponent", opponent),
            ("surround", _outer(_gaussian(_SURROUND, 9)).expand(3, 1, 19, 19)),
        ):
            self.register_buffer(name, constant.float().contiguous(), persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Describe the neighbourhood of each cell.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], RGB, not normalised.

        Returns:
            One ``[B, D, h, w]`` map per layer, float32, with h = ceil(H / 8), w = ceil(W / 8).
        """
        height, width = images.shape[-2:]
        with torch.autocast(images.device.type, enabled=False):  # small differences are the signal
            pad = (0, -width % STRIDE, 0, -height % STRIDE)
            picture = F.pad(images.float(), pad, mode="replicate")
            maps, level, last = [], picture, 0
            for name in self.layers:
                found = []
                for scale in _SCALES[name]:
                    for _ in range(scale - last):
                        smooth = F.pad(level, (2, 2, 2, 2), mode="replicate")
                        level = F.conv2d(smooth, self.halving, stride=2)
                    last = scale
                    found.append(self._energies(level, STRIDE >> scale))
                if name == "coarse":
                    found.append(self._local_colour(picture))
                maps.append(torch.cat(found, 1))
        return maps

    def _energies(self, level: Tensor, stride: int) -> Tensor:
        """Pooled energies of one scale, ``[B, 20, h, w]``."""
        padded = F.pad(level, (_RADIUS,) * 4, mode="replicate")
        responses = F.conv2d(padded, self.derivatives)  # y, x, yy, xy, xx, ...
        products = (
            responses.square(),
            responses[:, :4] * responses[:, 1:5],
            responses[:, 2:3] * responses[:, 4:5],
            responses[:, -3:].clamp(min=0).square(),
        )
        pooled = torch.cat([_pool(maps, stride) for maps in products], 1)  # [B, 20, h, w]
        energies = F.conv2d(pooled, self.energies).clamp(min=0)
        return (energies + _FLOOR).pow(0.25) * self.gains

    def _local_colour(self, picture: Tensor) -> Tensor:
        """Mean colour of each cell against that of its surround, ``[B, 3, h, w]``."""
        mean = F.conv2d(F.avg_pool2d(picture, STRIDE), self.opponent)
        around = F.conv2d(F.pad(mean, (9,) * 4, mode="replicate"), self.surround, groups=3)
        return _MEAN * (mean - around)


def _pool(maps: Tensor, stride: int) -> Tensor:
    """Average over overlapping windows of twice the stride (3 for stride 1)."""
    if stride == 1:
        return F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 3, 1)
    halves = F.avg_pool2d(maps, stride // 2) if stride > 2 else maps  # the bulk of it, cheaply
    return F.avg_pool2d(F.pad(halves, (1, 1, 1, 1), mode="replicate"), 4, 2)


def _opponent() -> Tensor:
    """RGB to brightness, red against green, blue against yellow, ``[3, 3, 1, 1]``.

    The colour contrasts count twice: they are small in most pictures.
    """
    rows = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [2.0, -2.0, 0.0], [-1.0, -1.0, 2.0]])
    return rows[:, :, None, None]


def _derivative_filters(opponent: Tensor) -> Tensor:
    """Gaussian derivatives of brightness and of both colour contrasts.

    Returns:
        ``[12, 3, 9, 9]``: y, x, yy, xy, xx of brightness; y, x of red against green; y, x of blue
        against yellow; yy + xx of all three.
    """
    at = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    g0 = _gaussian(1.0, _RADIUS)
    g1 = -at * g0
    g2 = (at**2 - 1) * g0
    g2 = g2 - g2.mean()  # no response to flat ground
    y, x, xy = torch.outer(g1, g0), torch.outer(g0, g1), torch.outer(g1, g1)
    yy, xx = torch.outer(g2, g0), torch.outer(g0, g2)
    bright, red_green, blue_yellow = opponent.double()
    filters = [bright * shape for shape in (y, x, yy, xy, xx)]
    filters += [colour * shape for colour in (red_green, blue_yellow) for shape in (y, x)]
    filters += [colour * (yy + xx) for colour in (bright, red_green, blue_yellow)]
    return torch.stack(filters)


def _energy_forms() -> Tensor:
    """Energies as sums of the pooled products, ``[20, 20, 1, 1]``.

    The derivative in direction (c, s) is c x + s y, the second one c² xx + 2 c s xy + s² yy; the
    mean square of either is a sum of means of products. Dark blots answer positively ("l+"); bright
    ones are all blots less the dark.
    """
    squares = ("y²", "x²", "yy²", "xy²", "xx²", "ry²", "rx²", "by²", "bx²", "l²", "r²", "b²")
    names = (*squares, "yx", "x·yy", "yy·xy", "xy·xx", "yy·xx", "l+", "r+", "b+")
    column = {name: k for k, name in enumerate(names)}
    forms: list[dict[str, float]] = []
    angles = [math.pi * k / _DIRECTIONS for k in range(_DIRECTIONS)]
    for c, s in ((math.cos(a), math.sin(a)) for a in angles):
        forms.append({"x²": c * c, "yx": 2 * c * s, "y²": s * s})
    for c, s in ((math.cos(a), math.sin(a)) for a in angles):
        p, q, r = c * c, 2 * c * s, s * s
        mixed = {"xy·xx": 2 * p * q, "yy·xx": 2 * p * r, "yy·xy": 2 * q * r}
        forms.append({"xx²": p * p, "xy²": q * q, "yy²": r * r, **mixed})
    forms += [{"ry²": 1, "rx²": 1}, {"by²": 1, "bx²": 1}]
    forms += [{"l+": 1}, {"r+": 1}, {"b+": 1}]
    forms += [{"l²": 1, "l+": -1}, {"r²": 1, "r+": -1}, {"b²": 1, "b+": -1}]
    matrix = torch.zeros(_ENERGIES, len(names), dtype=torch.float64)
    for row, form in enumerate(forms):
        for name, factor in form.items():
            matrix[row, column[name]] = factor
    return matrix[:, :, None, None]


def _energy_gains() -> Tensor:
    """What each energy's fourth root counts in a distance, ``[20, 1, 1]``."""
    colour = [_COLOUR] * 2
    blots = [_BLOT, _COLOUR, _COLOUR] * 2  # dark, then bright
    gains = [_EDGE] * _DIRECTIONS + [_LINE] * _DIRECTIONS + colour + blots
    return _ROOT_GAIN * torch.tensor(gains)[:, None, None]


def _gaussian(deviation: float, radius: int) -> Tensor:
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-(at**2) / (2 * deviation**2))
    return weights / weights.sum()


def _outer(weights: Tensor) -> Tensor:
    return torch.outer(weights, weights) / weights.sum() ** 2
