"""Patches: feature maps of several layers, averaged over 3 x 3 cells, on one grid.

PatchCore's description of a picture, which others take over: EfficientAD's teacher imitates it,
SimpleNet adapts it. There is nothing to learn here: the weights follow from the numbers of
channels.

Source: Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022, arXiv
2106.08265, and its official code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 3  # of the neighbourhood, in cells
_LENGTH = 1024  # of a patch in PatchCore's official code, for each layer and in all


@final
class PooledPatches(nn.Module):
    """PatchCore's embedding as in its official code: equally many features for any backbone.

    Each layer is unfolded to the 3 x 3 neighbourhoods of its zero-padded cells, brought to the
    first layer's grid and average-pooled (``9 C`` long, channel by channel) to 1024 features; the
    layers are put one behind the other and pooled once more. All of that is linear, so a grouped
    3 x 3 convolution per layer does the same without the 9-fold unfolded maps.

    Args:
        channels: Channels of each layer.
        num_features: How many features a patch has.
        per_layer: How many each layer has before that.

    Source:
        Checked against unfolding and pooling as in amazon-science/patchcore-inspection.
    """

    def __init__(
        self, channels: Sequence[int], num_features: int = _LENGTH, *, per_layer: int = _LENGTH
    ) -> None:
        super().__init__()
        self.num_features = num_features
        in_all = adaptive_pooling(len(channels) * per_layer, num_features)
        self.starts: list[int] = []
        self.groups: list[int] = []
        shares = torch.split(in_all, per_layer, dim=1)
        for layer, (count, share) in enumerate(zip(channels, shares, strict=True)):
            start, weight = _layer_weight(share, count)
            groups = _num_groups(weight)
            self.starts.append(start)
            self.groups.append(groups)
            self.register_buffer(f"weight{layer}", _diagonal(weight, groups), persistent=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Embed feature maps, ``[B, C, h, w]`` each.

        Returns:
            ``[B, h, w, num_features]``, float32, on the first map's grid.
        """
        size = (maps[0].shape[2], maps[0].shape[3])
        patches: Tensor | None = None
        for layer, features in enumerate(maps):
            weight = self.get_buffer(f"weight{layer}")
            pooled = F.conv2d(features.float(), weight, padding=1, groups=self.groups[layer])
            before = self.starts[layer]
            after = self.num_features - before - weight.shape[0]
            # Not written into a slice of zeros: exported, that would copy all of it.
            part = F.pad(_on_grid(pooled.float(), size), (0, 0, 0, 0, before, after))
            patches = part if patches is None else patches.add_(part)
        assert patches is not None
        return patches.permute(0, 2, 3, 1)


@final
class ConcatenatedPatches(nn.Module):
    """The layers' 3 x 3 averages, one behind the other: 1536 features of a Wide ResNet-50.

    Padding counts as zeros in the average.

    Args:
        channels: Channels of each layer.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.num_features = sum(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Embed feature maps, ``[B, C, h, w]`` each.

        Returns:
            ``[B, h, w, sum of C]``, float32, on the first map's grid.
        """
        size = (maps[0].shape[2], maps[0].shape[3])
        averages = [F.avg_pool2d(features.float(), _SIDE, stride=1, padding=1) for features in maps]
        return torch.cat([_on_grid(a, size) for a in averages], 1).permute(0, 2, 3, 1)


def _on_grid(features: Tensor, size: tuple[int, int]) -> Tensor:
    if features.shape[2:] == size:
        return features
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


def adaptive_pooling(length: int, num_bins: int) -> Tensor:
    """The matrix of ``F.adaptive_avg_pool1d``, ``[num_bins, length]``: each row an average."""
    number = torch.arange(num_bins)[:, None]
    low = number * length // num_bins
    high = -((number + 1) * length // -num_bins)
    place = torch.arange(length)
    inside = (place >= low) & (place < high)
    return inside / (high - low).float()


def _layer_weight(share: Tensor, channels: int) -> tuple[int, Tensor]:
    """What one layer gives to the patch: the first feature it reaches and ``[n, C, 3, 3]``.

    Args:
        share: ``[num_features, per_layer]``: what the layer's pooled features give.
        channels: ``C``.
    """
    reached = share.any(1).nonzero()[:, 0]
    weight = share[reached] @ adaptive_pooling(channels * _SIDE**2, share.shape[1])
    return int(reached[0]), weight.view(-1, channels, _SIDE, _SIDE)


def _num_groups(weight: Tensor) -> int:
    """The most groups of a grouped convolution that loses no weight."""
    outputs, channels = weight.shape[:2]
    most = math.gcd(outputs, channels)
    used = weight.any(3).any(2)
    for groups in range(most, 1, -1):
        if most % groups == 0:
            output_group = torch.arange(outputs) * groups // outputs
            channel_group = torch.arange(channels) * groups // channels
            if not used[output_group[:, None] != channel_group].any():
                return groups
    return 1


def _diagonal(weight: Tensor, groups: int) -> Tensor:
    """The blocks of a block-diagonal weight: ``[n, C / groups, 3, 3]``."""
    outputs, channels = weight.shape[:2]
    blocks = weight.view(groups, outputs // groups, groups, channels // groups, _SIDE, _SIDE)
    kept = torch.stack([blocks[g, :, g] for g in range(groups)])
    return kept.view(outputs, channels // groups, _SIDE, _SIDE)
