"""Frozen pretrained networks that turn pictures into feature maps.

Builds a timm model up to the last layer that is used, finds its weights, and keeps it frozen:
eval mode, no gradients, channels-last, in the run's precision. It never falls back to random
weights by itself.

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
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, final
from urllib.parse import urlsplit

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ad.core.data.learning import stream
from ad.core.errors import MissingExtraError, SettingError, WeightsError, how_to_install, listed
from ad.core.networks.filter_bank import FilterBank
from ad.core.trainer import FROM_MODEL_FILE as FROM_MODEL_FILE
from ad.core.trainer import Precision, Setup

try:
    import timm
    from huggingface_hub import try_to_load_from_cache
except ImportError as error:
    _how = how_to_install("ad-core", "timm")
    _msg = f"Pretrained backbones need timm, which is not installed.\nhint: {_how}"
    raise MissingExtraError(_msg) from error

FILTER_BANK = "filter_bank"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@final
class FeatureExtractor(nn.Module):
    """The feature maps of some layers of a frozen network.

    Args:
        backbone: A timm model name, with or without tag, or ``filter_bank``. A plain name whose
            torchvision weights exist (``resnet18``) means those (``resnet18.tv_in1k``): the
            papers' weights.
        layers: Names of the layers, from shallow to deep: ``("layer2", "layer3")``.
        setup: Gives weights policy, seed, normalisation, precision and device.

    Raises:
        SettingError: If the backbone or a layer does not exist.
        WeightsError: If no weights can be had.
    """

    channels: tuple[int, ...]
    """Channels of each layer's map."""
    strides: tuple[int, ...]
    """Input pixels per feature cell of each layer."""
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, layers: Sequence[str], *, setup: Setup) -> None:
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
            self.net = _build(self.name, _layer_indices(self.name, layers), setup)
            info = cast("Any", self.net.feature_info)  # timm's own type, untyped
            self.channels, self.strides = tuple(info.channels()), tuple(info.reduction())
        self.net.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        # Constants of the method, not something learnt: kept out of the saved model.
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
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
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features: list[Tensor] = self.net(x)
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
    name = timm_name(backbone)
    net = _create(name, _layer_indices(name, layers), stream(seed, 3), pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # timm starts the last one of a block at zero
    return net.to(memory_format=torch.channels_last)


def timm_name(backbone: str) -> str:
    """The full timm name, tag included, that an option's backbone name stands for.

    Raises:
        SettingError: If timm has no such model or tag.
    """
    plain, _, tag = backbone.partition(".")
    if not timm.is_model(plain):
        close = get_close_matches(plain, timm.list_models(), n=3)
        meant = f" Did you mean {listed(close)}?" if close else ""
        msg = f"`backbone` must be a timm model; got `{backbone}`.{meant}"
        raise SettingError(msg)
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{plain}.*") if "." in name]
    if tag:
        if tag not in tags:
            msg = f"timm has no weights `{tag}` for `{plain}`; it has {listed(tags)}."
            raise SettingError(msg)
        return backbone
    return f"{plain}.tv_in1k" if "tv_in1k" in tags else plain


def _layer_indices(name: str, layers: Sequence[str]) -> tuple[int, ...]:
    with torch.device("meta"):  # only its description is wanted; no memory, no time
        described = timm.create_model(name, pretrained=False)
    known = [str(info["module"]) for info in cast("Any", described.feature_info)]
    wrong = [layer for layer in layers if layer not in known]
    if wrong or not layers:
        msg = (
            f"`layers` of backbone `{name}` must be some of {', '.join(f'`{k}`' for k in known)}; "
            f"got {', '.join(f'`{layer}`' for layer in wrong) or 'none'}."
        )
        raise SettingError(msg)
    indices = tuple(known.index(layer) for layer in layers)
    if list(indices) != sorted(set(indices)):
        msg = f"`layers` must go from shallow to deep, each once; got {', '.join(layers)}."
        raise SettingError(msg)
    return indices


def _create(name: str, indices: tuple[int, ...], seed: int, *, pretrained: bool) -> nn.Module:
    # The seed makes random weights repeatable; the caller's generator must not notice.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: nn.Module = timm.create_model(
            name, pretrained=pretrained, features_only=True, out_indices=indices
        )
    return net


def _build(name: str, indices: tuple[int, ...], setup: Setup) -> nn.Module:
    create = functools.partial(_create, name, indices, setup.seed)
    if setup.weights in ("random", FROM_MODEL_FILE):
        return create(pretrained=False)
    file = _weights_file(name, setup.weights) or _downloaded_before(name)
    if file is not None:
        net = create(pretrained=False)
        _load(net, file, name)
        return net
    reason: Exception | str = "the hub cannot be reached"
    if _hub_is_reachable():
        try:
            return create(pretrained=True)
        except Exception as error:  # whatever the hub's client raises: refused, not found, broken
            reason = error
    msg = (
        f"Pretrained weights of `{name}` cannot be downloaded ({reason}) and no file was given.\n"
        f"hint: put `{name}.safetensors` into a folder and set AD_WEIGHTS to that folder, "
        f"or name a file with `--weights FILE`\n"
        f"hint: `--weights random` runs without pretrained weights, to try things out"
    )
    raise WeightsError(msg) from (reason if isinstance(reason, Exception) else None)


def _downloaded_before(name: str) -> Path | None:
    """The file that timm's download left in its cache: no network is needed for it."""
    hub = timm.get_pretrained_cfg(name)
    if hub is None or not hub.hf_hub_id:
        return None
    repository = f"{hub.hf_hub_id}{name}" if hub.hf_hub_id.endswith("/") else hub.hf_hub_id
    found = try_to_load_from_cache(repository, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _hub_is_reachable() -> bool:
    # Without this the client retries for most of a minute before it says that it is offline.
    if any(name.lower() in ("https_proxy", "all_proxy") for name in os.environ):
        return True  # names are then resolved elsewhere
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _weights_file(name: str, weights: str) -> Path | None:
    if weights != "auto":
        path = Path(weights).expanduser()
        path = path / f"{name}.safetensors" if path.is_dir() else path
        if not path.is_file():
            msg = (
                f"The weights file `{path}` does not exist. `weights` must be `auto`, `random` or "
                f"a safetensors file that holds `{name}`."
            )
            raise WeightsError(msg)
        return path
    folder = os.environ.get("AD_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).expanduser().is_dir():
        msg = f"AD_WEIGHTS names `{folder}`, which is not a folder. Correct it or unset it."
        raise WeightsError(msg)
    path = Path(folder).expanduser() / f"{name}.safetensors"
    return path if path.is_file() else None


def _load(net: nn.Module, file: Path, name: str) -> None:
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        msg = f"`{file}` is no readable safetensors file: {error}"
        raise WeightsError(msg) from error
    wanted = net.state_dict()
    # Counts training steps of batch norm; means nothing in a frozen network.
    needed = {key for key in wanted if not key.endswith("num_batches_tracked")}
    missing = sorted(needed - state.keys())
    if missing:
        msg = (
            f"`{file}` lacks {len(missing)} of the {len(needed)} tensors that `{name}` needs here, "
            f"the first is `{missing[0]}`. Use a file with these layers, in timm's names."
        )
        raise WeightsError(msg)
    for key in sorted(needed):
        if state[key].shape != wanted[key].shape:
            msg = (
                f"`{key}` in `{file}` has shape {tuple(state[key].shape)}; `{name}` needs "
                f"{tuple(wanted[key].shape)}. The file belongs to another model."
            )
            raise WeightsError(msg)
    net.load_state_dict({key: state[key] for key in needed}, strict=False)
