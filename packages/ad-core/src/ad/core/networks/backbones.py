"""Frozen pretrained networks that turn pictures into feature maps.

Builds a timm model up to the last layer that is used, finds its weights, and keeps it frozen:
eval mode, no gradients, channels-last, in the run's precision. It never falls back to random
weights by itself. Layers of a convolutional network are its stages (``layer2``), those of a vision
transformer its blocks (``blocks.7``): see `ad.core.networks.transformers`. Of an EfficientNet or a
MobileNet, too, all blocks are layers: see `ad.core.networks.blocks`.

Weights are looked for in this order:

1. an explicit file (``weights="path/to/file.safetensors"``);
2. ``$AD_WEIGHTS/<timm name>.safetensors``;
3. timm's own download and its cache.

``weights="random"`` builds the network from the seed instead: for tests and for trying things
out. A file may hold only the layers that are used.

The backbone ``filter_bank`` has no weights at all: see `ad.core.networks.filter_bank`.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ad.core.data.learning import stream
from ad.core.devices import in_precision
from ad.core.errors import MissingExtraError, SettingError, WeightsError, how_to_install
from ad.core.networks.filter_bank import FILTER_BANK, FilterBank
from ad.core.networks.normalize import ImagenetNorm
from ad.core.networks.weights import (
    file_in_weights_folder,
    fitting_weights,
    given_file,
    read_weights,
)
from ad.core.trainer import FROM_MODEL_FILE as FROM_MODEL_FILE
from ad.core.trainer import Precision, Setup
from ad.runtime.framing.size import Size

try:
    import timm

    from ad.core.networks.blocks import BlockMaps, blocks_of, has_blocks
    from ad.core.networks.stored import downloaded_before, hub, no_weights, timm_name
    from ad.core.networks.transformers import TokenMaps, has_tokens
except ImportError as error:
    _how = how_to_install("ad-core", "timm")
    _why = "is not installed" if error.name == "timm" else f"cannot be imported ({error})"
    _msg = f"Pretrained backbones need timm, which {_why}.\nhint: {_how}"
    raise MissingExtraError(_msg) from error


@final
class FeatureExtractor(nn.Module):
    """The feature maps of some layers of a frozen network.

    Args:
        backbone: A timm model name, with or without tag, or ``filter_bank``. A plain name whose
            torchvision weights exist (``resnet18``) means those (``resnet18.tv_in1k``): the
            papers' weights.
        layers: Names of the layers, from shallow to deep: ``("layer2", "layer3")``, or
            ``("blocks.7",)`` of a vision transformer.
        setup: Gives size, weights policy, seed, normalisation, precision and device. The size is
            that of the pictures it will be given: where a network sees others than the detector,
            `dataclasses.replace` makes its own setup.
        norm: Whether a vision transformer's maps and tokens pass its final norm. A convolutional
            network has none, and its maps are the same either way.

    Raises:
        SettingError: If the backbone or a layer does not exist, or pictures have a size that the
            backbone cannot take.
        WeightsError: If no weights can be had.
    """

    channels: tuple[int, ...]
    """Channels of each layer's map."""
    strides: tuple[int, ...]
    """Input pixels per feature cell of each layer."""
    has_tokens: bool
    """Whether it is a vision transformer, whose maps are tokens laid out."""
    prefix_tokens: int
    """Tokens of a vision transformer that are no patches' and come before these; see `tokens`."""

    def __init__(
        self, backbone: str, layers: Sequence[str], *, setup: Setup, norm: bool = False
    ) -> None:
        super().__init__()
        self.precision: Precision = setup.precision
        normalize = setup.normalize
        self.net: nn.Module
        if backbone == FILTER_BANK:
            if setup.weights not in ("auto", "random", FROM_MODEL_FILE):
                msg = f"Backbone `{FILTER_BANK}` has no weights to load; got `{setup.weights}`."
                raise SettingError(msg)
            bank = FilterBank(layers)
            self.net, self.name = bank, backbone
            self.channels, self.strides = bank.channels, bank.strides
            normalize = False  # it compares brightness and colours itself
        else:
            self.name = timm_name(backbone)
            plan = _Plan(self.name, layers, norm=norm, size=setup.img_size)
            self.net = _build(plan, setup)
            self.channels, self.strides = plan.channels, plan.strides
        self.has_tokens = isinstance(self.net, TokenMaps)
        self.prefix_tokens = self.net.prefix_tokens if isinstance(self.net, TokenMaps) else 0
        self.net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.normalize = ImagenetNorm(scale=normalize)
        self.to(setup.device)

    def train(self, mode: bool = True) -> FeatureExtractor:
        """Stay in eval mode whatever the detector around it does: batch statistics are frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract feature maps.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], RGB.

        Returns:
            One ``[B, D, h, w]`` map per layer in the order asked for, channels-last, bf16 or
            fp32 as `precision` says. Convert to fp32 before any statistics.
        """
        return self.show(images, self.net)

    def show(self, images: Tensor, network: nn.Module) -> list[Tensor]:
        """Let another network, such as a student, see images as this one does.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], RGB.
            network: Of the same architecture, as `fresh_network` makes it.

        Returns:
            Its maps, of images normalised as for this network, in this network's precision.
        """
        return self._seen(images, network)

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Extract all tokens of a vision transformer, for who needs more than the patches'.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], RGB.

        Returns:
            One ``[B, prefix_tokens + h * w, D]`` for each layer, in the precision of the maps:
            class, distillation and register tokens, then the patches', row by row.

        Raises:
            SettingError: If the backbone has no tokens.
        """
        if not isinstance(self.net, TokenMaps):
            msg = (
                f"`backbone` must be a vision transformer, such as `vit_small_patch14_reg4_dinov2` "
                f"or `deit_base_distilled_patch16_384`; `{self.name}` has no tokens."
            )
            raise SettingError(msg)
        return self._seen(images, self.net.tokens)

    def _seen(self, images: Tensor, look: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        x = self.normalize(images)
        with in_precision(self.precision, x.device):
            features = look(x)
        if self.has_tokens and self.precision == "bf16":
            # A transformer adds to sums that its weights, which stay fp32, make fp32 again.
            return [feature.bfloat16() for feature in features]
        return features


def fresh_network(backbone: str, layers: Sequence[str], *, seed: int) -> nn.Module:
    """A backbone's architecture with random weights, to be trained: a student.

    Args:
        backbone: A timm model name.
        layers: Names of the layers whose maps it returns, from shallow to deep.
        seed: Seed of the weights; they differ from those of ``weights="random"``.

    Returns:
        A module from ``[B, 3, H, W]`` to a list of maps, ``[B, D, h, w]`` each.

    Raises:
        SettingError: If the backbone or a layer does not exist.
    """
    if backbone == FILTER_BANK:
        msg = f"Backbone `{FILTER_BANK}` has nothing to learn; name a timm model such as resnet18."
        raise SettingError(msg)
    net = _Plan(timm_name(backbone), layers).create(stream(seed, 3), pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # timm starts the last one of a block at zero
    return net.to(memory_format=torch.channels_last)


@final
class _Plan:
    """What is to be built of a timm model.

    Args:
        name: Its full timm name.
        layers: Names of the layers that are used.
        norm: Whether a vision transformer's maps pass its final norm.
        size: Of the pictures; None where it is not known.

    Raises:
        SettingError: If a layer does not exist, or the model cannot take pictures of this size.
    """

    def __init__(
        self, name: str, layers: Sequence[str], *, norm: bool = False, size: Size | None = None
    ) -> None:
        with torch.device("meta"):  # only its description is wanted; no memory, no time
            described: Any = timm.create_model(name, pretrained=False)
        info = described.feature_info
        self.name, self.norm, self.size = name, norm, size
        # A block that timm's own features leave out; where they do not, networks stay timm's.
        self.blocks = has_blocks(described) and not {*layers} <= {each["module"] for each in info}
        if self.blocks:
            info = blocks_of(described)
        self.indices = _layer_indices(name, [str(each["module"]) for each in info], layers)
        self.channels = tuple(int(info[index]["num_chs"]) for index in self.indices)
        self.strides = tuple(int(info[index]["reduction"]) for index in self.indices)
        self.tokens = has_tokens(described)
        only = Size(*described.pretrained_cfg["input_size"][1:])
        fixed = described.pretrained_cfg.get("fixed_input_size") and not self.tokens
        if fixed and size is not None and size != only:
            msg = (
                f"`img_size` must be {only.typed} for backbone `{name}`, which takes no other; "
                f"got {size.typed}."
            )
            raise SettingError(msg)

    def create(self, seed: int, *, pretrained: bool) -> nn.Module:
        """Build it: a module from pictures to a list of maps."""
        # The seed makes random weights repeatable; the caller's generator must not notice.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.tokens:
                return TokenMaps(
                    self.name, self.indices, norm=self.norm, pretrained=pretrained, size=self.size
                )
            if self.blocks:
                return BlockMaps(self.name, self.indices, pretrained=pretrained)
            net: nn.Module = timm.create_model(
                self.name, pretrained=pretrained, features_only=True, out_indices=self.indices
            )
        return net


def _layer_indices(name: str, known: Sequence[str], layers: Sequence[str]) -> tuple[int, ...]:
    wrong = [layer for layer in layers if layer not in known]
    if wrong or not layers:
        blocks = all(layer == f"blocks.{number}" for number, layer in enumerate(known))
        some = f"`{known[0]}` to `{known[-1]}`" if blocks else ", ".join(f"`{k}`" for k in known)
        msg = (
            f"`layers` of backbone `{name}` must be some of {some}; "
            f"got {', '.join(f'`{layer}`' for layer in wrong) or 'none'}."
        )
        raise SettingError(msg)
    indices = tuple(known.index(layer) for layer in layers)
    if list(indices) != sorted(set(indices)):
        msg = f"`layers` must go from shallow to deep, each once; got {', '.join(layers)}."
        raise SettingError(msg)
    return indices


def _build(plan: _Plan, setup: Setup) -> nn.Module:
    name, create = plan.name, functools.partial(plan.create, setup.seed)
    if setup.weights in ("random", FROM_MODEL_FILE):
        net = create(pretrained=False)
        if isinstance(net, TokenMaps):
            net.open_blocks()
        return net
    file = _weights_file(name, setup.weights) or downloaded_before(name)
    if file is not None:
        net = create(pretrained=False)
        own = getattr(net, "model", net)  # what is no sequence of stages is wrapped
        _load(own, file, name)
        return net
    reason: Exception | str = "the hub cannot be reached"
    if _hub_is_reachable():
        try:
            return create(pretrained=True)
        except Exception as error:  # whatever the hub's client raises: refused, not found, broken
            reason = error
    cause = reason if isinstance(reason, Exception) else None
    raise WeightsError(no_weights(name, reason)) from cause


def _hub_is_reachable() -> bool:
    # Without this the client retries for most of a minute before it says that it is offline.
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # names are then resolved elsewhere
    host = urlsplit(hub()).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _weights_file(name: str, weights: str) -> Path | None:
    file = f"{name}.safetensors"
    if weights == "auto":
        return file_in_weights_folder(file)
    allowed = f"`weights` must be `auto`, `random` or a safetensors file that holds `{name}`."
    return given_file(weights, file, whose="the weights", allowed=allowed)


def _load(net: nn.Module, file: Path, name: str) -> None:
    # Counts training steps of batch norm; means nothing in a frozen network.
    needed = {k: t for k, t in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    fitting = fitting_weights(
        read_weights(file),
        needed,
        file,
        owner=f"`{name}`",
        if_missing="Use a file with all layers that are used, in timm's names.",
        if_other=f"The file belongs to another model than `{name}`.",
    )
    net.load_state_dict(fitting, strict=False)
