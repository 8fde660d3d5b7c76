"""Decoders that mirror a ResNet: from its deepest map back to the shallower ones.

What Reverse Distillation and UniNet have as a student. Nothing here is pretrained.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, for the blocks; Deng,
Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022, for their
mirror image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from torch import Tensor, nn

from ad.core.networks.fused import FusedSequential, conv_norm, fused_layers

RESNETS: Mapping[str, tuple[tuple[int, int, int], int | None]] = {
    "resnet18": ((2, 2, 2), None),
    "resnet34": ((3, 4, 6), None),
    "resnet50": ((3, 4, 6), 1),
    "wide_resnet50_2": ((3, 4, 6), 2),
}
"""What a decoder mirrors: blocks of each stage from deep to shallow, and the width of the inner
convolution of a bottleneck against ResNet-50's; None where blocks have two 3 x 3 convolutions."""


@final
class ResidualDecoder(nn.Module):
    """Rebuilds the maps from the code, deepest first.

    Args:
        width: Of the inner convolution of a bottleneck; None for basic blocks.
        stages: Blocks of each stage, from deep to shallow.
    """

    def __init__(self, width: int | None, stages: Sequence[int]) -> None:
        super().__init__()
        expansion = 1 if width is None else 4
        channels = 512 * expansion
        self.stages = nn.ModuleList()
        for planes, count in zip((256, 128, 64), stages, strict=True):
            blocks = [ResidualBlock(channels, planes, width, resize="double")]
            channels = planes * expansion
            blocks += [ResidualBlock(channels, planes, width) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, code: Tensor) -> list[Tensor]:
        """Rebuild the maps, shallow to deep, from ``[B, 512 E, h, w]``."""
        maps = []
        for stage in self.stages:
            code = stage(code)
            maps.append(code)
        return maps[::-1]


@final
class ResidualBlock(nn.Module):
    """A residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1.

    Args:
        channels: Of what comes in.
        planes: Of what goes out, times 4 for three convolutions.
        width: Of the inner convolution against ``planes``; None for two convolutions.
        resize: Whether the map's sides are halved, doubled or kept.
    """

    def __init__(
        self, channels: int, planes: int, width: int | None, resize: str | None = None
    ) -> None:
        super().__init__()
        out = planes if width is None else planes * 4
        if width is None:
            layers = [
                *_resizing(channels, planes, 3, resize), nn.ReLU(),
                *_resizing(planes, planes, 3, None),
            ]  # fmt: skip
        else:
            inner = planes * width
            layers = [
                *_resizing(channels, inner, 1, None), nn.ReLU(),
                *_resizing(inner, inner, 3, resize), nn.ReLU(),
                *_resizing(inner, out, 1, None),
            ]  # fmt: skip
        self.main = nn.Sequential(*layers)
        self.act = nn.ReLU()
        same = resize is None and channels == out
        self.side = nn.Identity() if same else FusedSequential(*_resizing(channels, out, 1, resize))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to ``[B, out, h', w']``."""
        *layers, conv, norm = self.main
        y = fused_layers(x, layers)
        return conv_norm(y, conv, norm, self.act, self.side(x))


def _resizing(channels: int, out: int, kernel: int, resize: str | None) -> list[nn.Module]:
    if resize == "double":
        return [nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), nn.BatchNorm2d(out)]
    stride = 2 if resize == "halve" else 1
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out)]


def halving(channels: int, out: int) -> list[nn.Module]:
    """A 3 x 3 convolution that halves a map's sides, batch norm and ReLU."""
    return [*_resizing(channels, out, 3, "halve"), nn.ReLU()]
