"""Which pretrained weights are on this machine already, and which installed models they serve.

The order of places is that of `ad.core.networks.backbones`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from ad.core.errors import AdError, MissingExtraError, listed
from ad.core.networks.filter_bank import FILTER_BANK, LAYERS
from ad.core.networks.resnets import is_plain_resnet
from ad.core.networks.weights import file_in_weights_folder
from ad.core.registry import ModelRegistry, ModelSpec

_HUB_FILE = "model.safetensors"
_PAPERS = "tv_in1k"
"""The tag of torchvision's weights, which all plain ResNets have."""


def timm_name(backbone: str) -> str:
    """The full timm name, tag included, that an option's backbone name stands for.

    Raises:
        SettingError: If timm has no such model or tag.
        MissingExtraError: If timm must be asked and is not installed.
    """
    plain, _, tag = backbone.partition(".")
    if is_plain_resnet(plain) and tag in ("", _PAPERS):
        return f"{plain}.{_PAPERS}"
    from ad.core.networks.of_timm import full_name

    return full_name(backbone)


def hub() -> str:
    """The address of the hub that timm downloads from."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def address_of(name: str) -> str | None:
    """Where timm's file of pretrained weights can be had, by its full name; None if it has none."""
    repository = _repository(name)
    return repository and f"{hub()}/{repository}/resolve/main/{_HUB_FILE}"


def downloaded_before(name: str) -> Path | None:
    """The file that timm's download left in its cache: no network is needed for it."""
    repository = _repository(name)
    try:
        import huggingface_hub  # comes with timm
    except ImportError:
        return None
    found = repository and huggingface_hub.try_to_load_from_cache(repository, _HUB_FILE)
    return Path(found) if isinstance(found, str) else None


def downloaded_now(name: str) -> Path:
    """Download timm's file of pretrained weights into its cache.

    Args:
        name: timm's full name of a plain ResNet.

    Raises:
        Exception: Whatever the hub's client raises where it cannot.
    """
    import huggingface_hub

    repository = _repository(name)
    assert repository is not None
    return Path(huggingface_hub.hf_hub_download(repository, _HUB_FILE))


def weights_of(spec: ModelSpec) -> dict[str, Path | None]:
    """The files of pretrained weights that a model's training starts from, by their names.

    Returns:
        For each name, as it is called in the folder of ``AD_WEIGHTS``, the file; None where it is
        neither there nor in timm's cache.

    Raises:
        WeightsError: If ``AD_WEIGHTS`` names no folder.
        MissingExtraError: If its backbone needs timm, which is not installed.
    """
    found = {}
    for given in spec.pretrained:
        of_timm = _is_of_timm(given, spec)
        name = timm_name(given) if of_timm else given
        file = file_in_weights_folder(f"{name}.safetensors")
        found[f"{name}.safetensors"] = file or (downloaded_before(name) if of_timm else None)
    return found


def served() -> dict[str, Mapping[str, Path]]:
    """The installed models whose pretrained weights are all here, with their files."""
    models: dict[str, Mapping[str, Path]] = {}
    for name in ModelRegistry.names():
        with contextlib.suppress(AdError):  # a broken plug-in breaks nothing but itself
            spec = ModelRegistry.get(name)
            files = weights_of(spec)
            there = {file: path for file, path in files.items() if path is not None}
            if files and len(there) == len(files):
                models[spec.name] = there
    return models


def no_weights(name: str, reason: object) -> str:
    """Say that pretrained weights cannot be had, where they lie, and what runs without them.

    Args:
        name: timm's full name.
        reason: Why they cannot be downloaded.
    """
    lines = [
        f"Pretrained weights of `{name}` cannot be downloaded ({reason}) and no file was given."
    ]
    if (address := address_of(name)) is not None:
        lines.append(f"Their file: {address}")
    lines.append(
        f"hint: put it as `{name}.safetensors` into a folder and set AD_WEIGHTS to that folder, "
        "or name a file with `--weights FILE`"
    )
    if models := served():
        files = {file for one in models.values() for file in one}
        own = [file for file in files if file_in_weights_folder(file) is not None]
        places = ["AD_WEIGHTS"] * bool(own) + ["timm's cache"] * (len(own) < len(files))
        lines.append(
            f"hint: {' and '.join(places)} hold{'s' * (len(places) == 1)} {listed(files)}, so that "
            f"{listed(models)} would run"
        )
    lines.append(
        f"hint: `--set backbone={FILTER_BANK} --set layers={','.join(LAYERS)}` needs no weights; "
        "PatchCore, which `ad demo` runs so, takes `--set embedding=concatenated`, too"
    )
    lines.append(
        "hint: `--weights random` runs without pretrained weights, to try things out; it finds far "
        "less"
    )
    return "\n".join(lines)


def _is_of_timm(given: str, spec: ModelSpec) -> bool:
    """Whether weights that a model names are timm's, and not a file of their own."""
    if is_plain_resnet(given):
        return True
    try:
        from ad.core.networks.of_timm import knows
    except MissingExtraError:
        if not spec.weights:  # a backbone, which is nobody else's
            raise
        return False
    return knows(given)


def _repository(name: str) -> str | None:
    """Timm's repository on the hub."""
    if is_plain_resnet(name):
        return f"timm/{name}"
    from ad.core.networks.of_timm import repository

    return repository(name)
