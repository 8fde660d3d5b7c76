"""Frozen pretrained networks that turn pictures into feature maps.

Builds a network of timm's up to the last layer that is used, finds its weights, and keeps it
frozen: eval mode, no gradients, channels-last, in the run's precision. It never falls back to
random weights by itself. Layers of a convolutional network are its stages (``layer2``), those of a
vision transformer its blocks (``blocks.7``): see `ad.core.networks.transformers`. Of an
EfficientNet or a MobileNet, too, all blocks are layers: see `ad.core.networks.blocks`. timm itself
is imported for networks that are no plain ResNets: see `ad.core.networks.resnets`.

Weights are looked for in this order:

1. an explicit file (``weights="path/to/file.safetensors"``);
2. ``$AD_WEIGHTS/<timm name>.safetensors``;
3. timm's cache, and a download into it.

``weights="random"`` builds the network from the seed instead: for tests and for trying things
out. A file may hold only the layers that are used.

The backbone ``filter_bank`` has no weights at all: see `ad.core.networks.filter_bank`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, final
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from ad.core.data.learning import stream
from ad.core.devices import in_precision
from ad.core.errors import SettingError, WeightsError
from ad.core.networks.filter_bank import FILTER_BANK, FilterBank
from ad.core.networks.fused import why_not
from ad.core.networks.normalize import ImagenetNorm
from ad.core.networks.products import why_not as why_not_packed
from ad.core.networks.resnets import ResNetPlan, is_plain_resnet
from ad.core.networks.stored import downloaded_before, downloaded_now, hub, no_weights, timm_name
from ad.core.networks.weights import (
    file_in_weights_folder,
    fitting_weights,
    given_file,
    read_weights,
)
from ad.core.trainer import FROM_MODEL_FILE as FROM_MODEL_FILE
from ad.core.trainer import Precision, Setup
from ad.runtime.framing.size import Size

if TYPE_CHECKING:
    from ad.core.networks.of_timm import TimmPlan
    from ad.core.networks.transformers import TokenMaps


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
        self.has_tokens = False
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
            plan = _plan(self.name, layers, norm=norm, size=setup.img_size)
            self.net = _build(plan, setup)
            self.channels, self.strides = plan.channels, plan.strides
            self.has_tokens = plan.tokens
        self.prefix_tokens = cast("TokenMaps", self.net).prefix_tokens if self.has_tokens else 0
        self.net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.normalize = ImagenetNorm(scale=normalize)
        self.to(setup.device)
        if setup.device.type == "cpu" and is_plain_resnet(self.name):
            reason = why_not(self.precision)
            if reason:
                setup.progress.tell(f"Backbone `{self.name}` is computed layer by layer: {reason}")
        if setup.device.type == "cpu" and self.has_tokens and self.precision == "bf16":
            reason = why_not_packed()
            if reason:
                setup.progress.tell(f"Weights of `{self.name}` are laid out in each call: {reason}")

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
        if not self.has_tokens:
            msg = (
                f"`backbone` must be a vision transformer, such as `vit_small_patch14_reg4_dinov2` "
                f"or `deit_base_distilled_patch16_384`; `{self.name}` has no tokens."
            )
            raise SettingError(msg)
        return self._seen(images, cast("TokenMaps", self.net).tokens)

    def _seen(self, images: Tensor, look: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        x = self.normalize(images)
        with in_precision(self.precision, x.device):
            features = look(x)
        if self.has_tokens and self.precision == "bf16":
            # A transformer adds to sums that its weights, which stay fp32, make fp32 again.
            return [feature.bfloat16() for feature in features]
        return features


def licences(network: nn.Module) -> dict[str, str | None]:
    """Licences of the weights that a module's backbones have when timm's own are taken.

    Returns:
        Full timm name to its weights' licence, None where timm does not say.

    Raises:
        MissingExtraError: If there are backbones and no timm.
    """
    found = [one for one in network.modules() if isinstance(one, FeatureExtractor)]
    names = {one.name for one in found if one.name != FILTER_BANK}
    if not names:
        return {}
    from ad.core.networks.of_timm import licence

    return {name: licence(name) for name in sorted(names)}


def fresh_network(
    backbone: str, layers: Sequence[str], *, seed: int, zero_init_last: bool = False
) -> nn.Module:
    """A backbone's architecture with random weights, to be trained: a student.

    Args:
        backbone: A timm model name.
        layers: Names of the layers whose maps it returns, from shallow to deep.
        seed: Seed of the weights; they differ from those of ``weights="random"``.
        zero_init_last: Whether the last batch norm of each residual block starts at zero, as timm
            starts it, so that a block is its shortcut at first; at one, as torchvision does, if
            not.

    Returns:
        A module from ``[B, 3, H, W]`` to a list of maps, ``[B, D, h, w]`` each.

    Raises:
        SettingError: If the backbone or a layer does not exist.
    """
    if backbone == FILTER_BANK:
        msg = f"Backbone `{FILTER_BANK}` has nothing to learn; name a timm model such as resnet18."
        raise SettingError(msg)
    net = _plan(timm_name(backbone), layers).random(stream(seed, 3))
    if not zero_init_last:
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    return net.to(memory_format=torch.channels_last)


def _plan(
    name: str, layers: Sequence[str], *, norm: bool = False, size: Size | None = None
) -> ResNetPlan | TimmPlan:
    if is_plain_resnet(name):
        return ResNetPlan(name, layers)
    from ad.core.networks.of_timm import TimmPlan

    return TimmPlan(name, layers, norm=norm, size=size)


def _build(plan: ResNetPlan | TimmPlan, setup: Setup) -> nn.Module:
    if setup.weights == FROM_MODEL_FILE:
        return plan.blank()
    if setup.weights == "random":
        net = plan.random(setup.seed)
        if plan.tokens:
            cast("TokenMaps", net).open_blocks()
        return net
    name = plan.name
    file = _weights_file(name, setup.weights) or downloaded_before(name)
    if file is not None:
        return _loaded(plan, file)
    reason: Exception | str = "the hub cannot be reached"
    if _hub_is_reachable():
        try:
            if isinstance(plan, ResNetPlan):
                return _loaded(plan, downloaded_now(name))
            return plan.downloaded()
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


def _loaded(plan: ResNetPlan | TimmPlan, file: Path) -> nn.Module:
    """The network with the weights of a file."""
    net = plan.blank()
    own = getattr(net, "model", net)  # what is no sequence of stages is wrapped
    # Counts training steps of batch norm; means nothing in a frozen network.
    needed = {k: t for k, t in own.state_dict().items() if not k.endswith("num_batches_tracked")}
    fitting = fitting_weights(
        read_weights(file),
        needed,
        file,
        owner=f"`{plan.name}`",
        if_missing="Use a file with all layers that are used, in timm's names.",
        if_other=f"The file belongs to another model than `{plan.name}`.",
    )
    own.load_state_dict(fitting, strict=False)
    return net
