"""timm's networks, and what timm knows of them. Imported with the first that is asked for.

timm imports torchvision, and both together take as long as torch: `ad.core.networks.resnets` does
without.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, final

import torch
from torch import nn

from ad.core.errors import MissingExtraError, SettingError, how_to_install, listed
from ad.core.networks.layers import layer_indices
from ad.runtime.framing.size import Size

try:
    import timm

    from ad.core.networks.blocks import BlockMaps, blocks_of, has_blocks
    from ad.core.networks.transformers import TokenMaps, has_tokens
except ImportError as error:
    _how = how_to_install("ad-core", "timm")
    _why = "is not installed" if error.name == "timm" else f"cannot be imported ({error})"
    _msg = f"Backbones other than plain ResNets need timm, which {_why}.\nhint: {_how}"
    raise MissingExtraError(_msg) from error


def knows(backbone: str) -> bool:
    """Whether timm has a model of this name; what is behind a dot in it does not matter."""
    return bool(timm.is_model(backbone.partition(".")[0]))


def full_name(backbone: str) -> str:
    """The full name, tag included, that an option's backbone name stands for.

    Raises:
        SettingError: If timm has no such model or tag.
    """
    plain, _, tag = backbone.partition(".")
    if not knows(plain):
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


def repository(name: str) -> str | None:
    """Where a model's weights are on the hub, by its full name; None if there are none."""
    known = timm.get_pretrained_cfg(name)
    if known is None or not known.hf_hub_id:
        return None
    tagged = name if "." in name else f"{name}.{known.tag}"  # the one that timm takes for it
    return f"{known.hf_hub_id}{tagged}" if known.hf_hub_id.endswith("/") else str(known.hf_hub_id)


def licence(name: str) -> str | None:
    """What a model's weights are licensed under, by its full name, as timm says; None if unsaid."""
    known = timm.get_pretrained_cfg(name)
    return None if known is None or not known.license else str(known.license)


@final
class TimmPlan:
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
        self.indices = layer_indices(name, [str(each["module"]) for each in info], layers)
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

    def random(self, seed: int) -> nn.Module:
        """Build it with random weights: a module from pictures to a list of maps."""
        return self._create(seed, pretrained=False)

    def blank(self) -> nn.Module:
        """Build it for weights that are about to be loaded."""
        return self._create(0, pretrained=False)

    def downloaded(self) -> nn.Module:
        """Build it with the weights that timm downloads."""
        return self._create(0, pretrained=True)

    def _create(self, seed: int, *, pretrained: bool) -> nn.Module:
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
