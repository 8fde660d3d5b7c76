"""Patch description networks: a few convolutions that describe each 33 x 33 patch of a picture.

EfficientAD's teacher is one whose weights were distilled from a large network (see
`ad.distill.teacher`); its student is one with twice the outputs. Here are both architectures,
where a teacher's weights are looked for, and the scale of its outputs.

A teacher's weights are looked for in this order, and never made up:

1. an explicit file (the model's option ``teacher``, or ``weights="path/to/file.safetensors"``);
2. ``$AD_WEIGHTS/efficientad_pdn_small.safetensors``, or ``..._medium``.

``weights="random"`` builds an untaught teacher from the seed instead: for tests and for trying
things out.

Source: Batzner, Heckler, König, "EfficientAD", WACV 2024, arXiv 2303.14535, section 3.1 and
its appendix's tables of layers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import FROM_MODEL_FILE, Precision, Setup, in_precision, learned_buffer
from ad.core.errors import DataError, WeightsError
from ad.core.networks import (
    FusedSequential,
    file_in_weights_folder,
    fitting_weights,
    fused_if_finite,
    given_file,
    read_weights,
)

Size = Literal["small", "medium"]

CHANNELS = 384
"""Numbers that describe a patch."""

_POOL = None
# Kernel, outputs (None: the network's own) and padding, if any, of each convolution.
_LAYERS: dict[Size, tuple[tuple[int, int | None, int] | None, ...]] = {
    "small": ((4, 128, 3), _POOL, (4, 256, 3), _POOL, (3, 256, 1), (4, None, 0)),
    "medium": (
        (4, 256, 3), _POOL, (4, 512, 3), _POOL, (1, 512, 0), (3, 512, 1), (4, None, 0), (1, None, 0)
    ),
}  # fmt: skip


@final
class Pdn(nn.Module):
    """A patch description network; without padding, a patch never sees beyond the picture.

    Args:
        size: ``small`` or ``medium``.
        channels: Numbers that describe a patch.
        padding: Whether maps have a quarter of the picture's side, as distilling a teacher
            wants it; otherwise 8 cells fewer.
    """

    def __init__(self, size: Size, channels: int = CHANNELS, *, padding: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for layer in _LAYERS[size]:
            if layer is _POOL:
                layers.append(nn.AvgPool2d(2, 2, padding=int(padding)))
                continue
            kernel, outputs, pad = layer
            outputs = outputs or channels
            pad = pad if padding else 0
            layers += [nn.Conv2d(inputs, outputs, kernel, padding=pad), nn.ReLU()]
            inputs = outputs
        self.layers = FusedSequential(*layers[:-1])  # the outputs are of any sign

    def trunk(self, x: Tensor) -> Tensor:
        """All but the last convolution.

        Args:
            x: ``[B, 3, H, W]``, normalised.
        """
        with fused_if_finite(x):
            features: Tensor = self.layers[:-1](x)
        return features

    def head(self, features: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """The last convolution, or a part of its outputs at a part of the cost.

        Args:
            features: What `trunk` gave.
            first: The first output.
            last: The one after the last output; None for all.
        """
        conv = self.layers[-1]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        weight, bias = conv.weight[first:last], conv.bias[first:last]
        return F.conv2d(features, weight, bias)  # which is never padded

    def forward(self, x: Tensor) -> Tensor:
        """Describe patches.

        Args:
            x: ``[B, 3, H, W]``, normalised.

        Returns:
            ``[B, channels, ceil(H / 4) - 8, ceil(W / 4) - 8]``, or ``H / 4`` with padding.
        """
        return by_pictures(self.layers, x)


def by_pictures(compute: Callable[..., Tensor], *batches: Tensor) -> Tensor:
    """Compute something of each picture: on a CPU, where nothing is learnt, of one after the other.

    The widest map of a picture has 16 MiB in bf16, and its memory serves one layer after the other,
    one picture after the other. That of eight is more than the C library keeps: each layer has it
    from the system anew, page by page, which took a sixth of the time.

    Args:
        compute: From one or more ``[B, ...]`` to ``[B, ...]``, each picture by itself.
        batches: Of equally many pictures.
    """
    together = batches[0].device.type != "cpu" or torch.is_grad_enabled()
    if together or torch.compiler.is_compiling():  # whose graph is of any number of pictures
        return compute(*batches)
    singles = zip(*(torch.split(batch, 1) for batch in batches), strict=True)
    return torch.cat([compute(*single) for single in singles])


@final
class Teacher(nn.Module):
    """A patch description network that never changes.

    Args:
        net: The network, with its weights.
        precision: In which it computes.
        sha256: Of the file its weights are from; empty if from none.
    """

    def __init__(self, net: Pdn, precision: Precision, sha256: str = "") -> None:
        super().__init__()
        self.sha256 = sha256
        self.net = net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.precision: Precision = precision

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode whatever the detector around it does."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """Describe patches; see `Pdn.forward`. In bf16 or fp32, as `precision` says."""
        with in_precision(self.precision, x.device):
            features: Tensor = self.net(x)
        return features


@final
class ChannelScale(nn.Module):
    """Brings each channel of feature maps to mean 0 and deviation 1 over the pictures measured.

    Args:
        channels: ``C``.
    """

    mean: Tensor
    """``[C, 1, 1]``"""
    std: Tensor
    """``[C, 1, 1]``"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        learned_buffer(self, "mean", shape=(channels, 1, 1))
        learned_buffer(self, "std", shape=(channels, 1, 1))

    def measure(self, maps: Iterable[Tensor]) -> None:
        """Take mean and deviation over pictures and cells, in float64, in one pass.

        Args:
            maps: Batches ``[B, C, h, w]``.

        Raises:
            DataError: If no channel varies, since all pictures have one and the same flat colour.
        """
        count, mean, square = 0, torch.zeros(()), torch.zeros(())
        for some in maps:
            columns = some.double().permute(1, 0, 2, 3).flatten(1)  # [C, cells]
            own, number = columns.mean(1), columns.shape[1]
            own_square = (columns - own[:, None]).square().sum(1)
            if count == 0:
                count, mean, square = number, own, own_square
                continue
            # Two sets of numbers into one: Chan, Golub, LeVeque, 1983.
            shift, total = own - mean, count + number
            square = square + own_square + shift.square() * (count * number / total)
            mean = mean + shift * (number / total)
            count = total
        if count == 0 or not bool((square > 0).any()):
            msg = (
                "Every picture to learn from has one and the same flat colour: there is nothing "
                "to learn. Look at the pictures."
            )
            raise DataError(msg)
        std = (square / count).sqrt()
        # A channel that never varied says nothing of good pictures; it keeps its own scale.
        std = torch.where(std > 0, std, 1)
        self.mean, self.std = mean.float()[:, None, None], std.float()[:, None, None]

    def forward(self, maps: Tensor) -> Tensor:
        """``[B, C, h, w]`` of any type to the same shape in float32."""
        return (maps.float() - self.mean) / self.std


def luminance(picture: Tensor) -> Tensor:
    """``[3, H, W]``, red, green and blue, to ``[1, H, W]``: what is left of it in grey."""
    weights = picture.new_tensor((0.299, 0.587, 0.114))  # ITU-R BT.601
    return (picture * weights[:, None, None]).sum(0, keepdim=True)


def teacher_file(size: Size) -> str:
    """Name of the file with a teacher's weights."""
    return f"efficientad_pdn_{size}.safetensors"


def load_teacher(size: Size, *, setup: Setup, file: str = "") -> Teacher:
    """Build a teacher with the weights that can be had; see the top of this page.

    Args:
        size: ``small`` or ``medium``.
        setup: Gives weights policy, seed, precision and device.
        file: A safetensors file, or a folder with one; empty to search.

    Raises:
        WeightsError: If there is no file, or its tensors do not fit.
    """
    # The seed makes random weights repeatable; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.seed)
        net = Pdn(size)
    sha256 = ""
    if setup.weights != FROM_MODEL_FILE:  # where it was trained is nothing to who loads it
        path = _find(size, setup.weights, file)
        if path is not None:
            _load(net, path, size)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Teacher(net, setup.precision, sha256).to(setup.device)


def _find(size: Size, weights: str, file: str) -> Path | None:
    """The file to load; None for random weights."""
    name = teacher_file(size)
    option = "teacher" if file else "weights"
    explicit = file or ("" if weights in ("auto", "random") else weights)
    if explicit:
        allowed = (
            f"`{option}` must be a safetensors file that holds a {size} patch description network, "
            f"such as `{name}`."
        )
        return given_file(explicit, name, whose="the teacher's", allowed=allowed)
    if weights == "random":
        return None
    if (path := file_in_weights_folder(name)) is not None:
        return path
    folder = os.environ.get("AD_WEIGHTS")
    where = f"`{folder}` has no `{name}`" if folder else "AD_WEIGHTS is not set"
    msg = (
        f"EfficientAD's {size} teacher has no weights: no file was given and {where}.\n"
        f"hint: put `{name}` into a folder and set AD_WEIGHTS to that folder, or name a file with "
        f"`--set teacher=FILE`\n"
        f"hint: `ad distill-teacher --images DIR --backbone wide_resnet101_2 --size {size}` makes "
        f"one from a pretrained network and a folder of any pictures\n"
        f"hint: `--weights random` runs with a teacher that was taught nothing, to try things out"
    )
    raise WeightsError(msg)


def _load(net: Pdn, file: Path, size: Size) -> None:
    state = read_weights(file)
    convs = [name for name, layer in net.layers.named_children() if isinstance(layer, nn.Conv2d)]
    # Others number the convolutions alone: `conv1` to `conv4`.
    others = {f"conv{number}": name for number, name in enumerate(convs, start=1)}
    state = {re.sub(r"^conv\d+", lambda m: others.get(m[0], m[0]), k): t for k, t in state.items()}
    fitting = fitting_weights(
        state,
        net.layers.state_dict(),
        file,
        owner=f"a {size} patch description network",
        if_missing="Use a file that `ad distill-teacher` wrote, or one with its names.",
        if_other=f"The file belongs to another model than a {size} patch description network.",
    )
    net.layers.load_state_dict(fitting)
