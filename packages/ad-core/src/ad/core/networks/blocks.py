"""EfficientNets and MobileNets of timm as networks with the maps of any of their blocks.

Timm names as features the last block of each resolution alone; some methods use the one before it.
Nothing after the last block that is used is built into the result or run.

Of `timm.models.efficientnet` (EfficientNet, MobileNetV2, MNASNet, TinyNet, ...) and
`timm.models.mobilenetv3`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import timm
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn


def has_blocks(model: nn.Module) -> bool:
    """Whether a model of timm is one that `BlockMaps` takes."""
    return isinstance(model, EfficientNet | MobileNetV3)


def blocks_of(model: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - timm's models are untyped
    """What there is to know of each block, as timm's ``feature_info`` says it of some.

    Args:
        model: One that `has_blocks`.
    """
    named = {
        int(number): info
        for info in model.feature_info
        for kind, _, number in [info["module"].partition(".")]
        if kind == "blocks"  # the stem may be named, too
    }
    return [
        {
            "module": f"blocks.{number}",
            "num_chs": block[-1].feature_info("bottleneck")["num_chs"],
            # Timm names the last block of each resolution: the next named one has this one's.
            "reduction": named[min(last for last in named if last >= number)]["reduction"],
        }
        for number, block in enumerate(model.blocks)
    ]


@final
class BlockMaps(nn.Module):
    """The maps of some blocks. Its parameters have timm's names.

    Args:
        name: Full timm name of a model that `has_blocks`.
        indices: Numbers of the blocks, from shallow to deep.
        pretrained: Whether timm downloads its weights.
    """

    def __init__(self, name: str, indices: Sequence[int], *, pretrained: bool) -> None:
        super().__init__()
        net: Any = timm.create_model(name, pretrained=pretrained, features_only=True)
        self.conv_stem = net.conv_stem
        self.bn1 = net.bn1
        self.act1 = getattr(net, "act1", nn.Identity())  # in `bn1`, where there is none
        self.blocks = net.blocks[: max(indices) + 1]
        self.indices = tuple(indices)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract maps.

        Args:
            images: ``[B, 3, H, W]``, normalised as the network wants them.

        Returns:
            ``[B, D, h, w]`` for each block.
        """
        x = self.act1(self.bn1(self.conv_stem(images)))
        found = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.indices:
                found.append(x)
        return found
