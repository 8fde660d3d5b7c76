"""ResNets, which most methods stand on: timm's networks without timm, whose import takes seconds.

Names of parameters, files of weights, random weights of a seed, steps of learning and what is
computed layer by layer are timm's, to the last bit; where nothing learns, `ad.core.networks.fused`
does several layers at once. timm's ResNets of other kinds (deeper stems, groups, attention) are
left to it.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Zagoruyko, Komodakis,
"Wide Residual Networks", BMVC 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ad.core.networks.fused import conv_norm, fused_if_finite
from ad.core.networks.layers import layer_indices

PLAIN_RESNETS: Mapping[str, tuple[tuple[int, int, int, int], int | None]] = {
    "resnet18": ((2, 2, 2, 2), None),
    "resnet34": ((3, 4, 6, 3), None),
    "resnet50": ((3, 4, 6, 3), 1),
    "resnet101": ((3, 4, 23, 3), 1),
    "resnet152": ((3, 8, 36, 3), 1),
    "wide_resnet50_2": ((3, 4, 6, 3), 2),
    "wide_resnet101_2": ((3, 4, 23, 3), 2),
}
"""Blocks of each stage, and the width of the inner convolution of a bottleneck against ResNet-50's;
None where blocks have two 3 x 3 convolutions."""

_LAYERS = ("act1", "layer1", "layer2", "layer3", "layer4")
_CLASSES = 1000
_DRAWS = (nn.init.kaiming_uniform_, nn.init.uniform_)  # of convolutions, and of the classifier


def is_plain_resnet(name: str) -> bool:
    """Whether a backbone's name, with or without tag, is that of a network built here."""
    return name.partition(".")[0] in PLAIN_RESNETS


@final
class ResNetPlan:
    """What is to be built of a ResNet.

    Args:
        name: Its full timm name.
        layers: Names of the layers that are used.

    Raises:
        SettingError: If a layer does not exist.
    """

    def __init__(self, name: str, layers: Sequence[str]) -> None:
        self.name = name
        self.tokens = False  # what only a vision transformer has
        self._blocks, self._width = PLAIN_RESNETS[name.partition(".")[0]]
        self._layers = tuple(layers)
        indices = layer_indices(name, _LAYERS, layers)
        expansion = 1 if self._width is None else 4
        self.channels = tuple(32 * 2**n * expansion if n else 64 for n in indices)
        self.strides = tuple(2 ** (n + 1) for n in indices)

    def random(self, seed: int) -> nn.Module:
        """Build it with random weights: a module from pictures to a list of maps."""
        # The seed makes them repeatable; the caller's generator must not notice.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = ResNet(self._blocks, self._width)
            net.draw()
        return net.up_to(self._layers)

    def blank(self) -> nn.Module:
        """Build it for weights that are about to be loaded: no time is spent on random ones."""
        with _Undrawn():
            net = ResNet(self._blocks, self._width)
        return net.up_to(self._layers)


@final
class ResNet(nn.Module):
    """A ResNet with the maps of some layers.

    Args:
        blocks: Blocks of each of the four stages.
        width: Of a bottleneck's inner convolution; None for blocks of two convolutions.
    """

    def __init__(self, blocks: Sequence[int], width: int | None) -> None:
        super().__init__()
        self.layers: tuple[str, ...] = _LAYERS
        channels = 64
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for stage, count in enumerate(blocks):
            planes = 64 * 2**stage
            stacked: list[nn.Module] = []
            for number in range(count):
                stride = 2 if stage and number == 0 else 1
                if width is None:
                    stacked.append(BasicBlock(channels, planes, stride))
                else:
                    stacked.append(Bottleneck(channels, planes, planes * width, stride))
                channels = planes if width is None else 4 * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*stacked))
        self.fc = nn.Linear(channels, _CLASSES)  # whose weights a seed draws, too

    def draw(self) -> None:
        """Give it timm's random weights, after those that its parts have drawn for themselves."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def up_to(self, layers: Sequence[str]) -> ResNet:
        """Leave out what comes after the last of the layers that are used."""
        self.layers = tuple(layers)
        names = [name for name, _ in self.named_children()]
        for name in names[1 + names.index(self.layers[-1]) :]:
            delattr(self, name)
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract maps.

        Args:
            images: ``[B, 3, H, W]``, normalised as the network wants them.

        Returns:
            ``[B, D, h, w]`` for each layer.
        """
        with fused_if_finite(images):
            x = conv_norm(images, self.conv1, self.bn1, self.act1)
            found = [x] if "act1" in self.layers else []
            for name, module in self.named_children():
                if name == "maxpool" or name.startswith("layer"):
                    x = module(x)
                if name.startswith("layer") and name in self.layers:
                    found.append(x)
        return found


@final
class BasicBlock(nn.Module):
    """A block of two 3 x 3 convolutions.

    Args:
        channels: Of what comes in.
        planes: Of what goes out.
        stride: 2 where it halves the map's sides.
    """

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        downsample = _downsample(channels, planes, stride)  # timm draws its random weights first
        self.conv1 = nn.Conv2d(channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The one that random networks start at zero."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to ``[B, planes, h', w']``."""
        y = conv_norm(x, self.conv1, self.bn1, self.act1)
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        return conv_norm(y, self.conv2, self.bn2, self.act2, shortcut)


@final
class Bottleneck(nn.Module):
    """A block of three convolutions: 1 x 1, 3 x 3, 1 x 1.

    Args:
        channels: Of what comes in.
        planes: A quarter of what goes out.
        inner: Of the 3 x 3 convolution.
        stride: 2 where it halves the map's sides.
    """

    def __init__(self, channels: int, planes: int, inner: int, stride: int) -> None:
        super().__init__()
        downsample = _downsample(channels, 4 * planes, stride)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(inner, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = downsample

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The one that random networks start at zero."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to ``[B, 4 * planes, h', w']``."""
        y = conv_norm(x, self.conv1, self.bn1, self.act1)
        y = conv_norm(y, self.conv2, self.bn2, self.act2)
        shortcut = x if self.downsample is None else conv_norm(x, *self.downsample)
        return conv_norm(y, self.conv3, self.bn3, self.act3, shortcut)


def _downsample(channels: int, out: int, stride: int) -> nn.Sequential | None:
    """What makes of a block's input something to add to its output; None where it is that."""
    if stride == 1 and channels == out:
        return None
    conv = nn.Conv2d(channels, out, 1, stride=stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


@final
class _Undrawn(TorchFunctionMode):
    """Leaves weights as memory happens to be, where their layers would draw them.

    Not torch's meta device: going from there to memory imports what compiles.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        return None if func in _DRAWS else func(*args, **(kwargs or {}))
