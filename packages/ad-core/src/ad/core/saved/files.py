"""A saved model as a folder that nothing can be executed from.

In it are ``model.safetensors`` (every tensor), ``config.json`` (how to build the detector, its
threshold), ``roi.png`` where only a region of pictures counts, and ``manifest.json`` (sha256 of
all of them). Reading checks the manifest first. There is no format here that can hold code, and no
text in a file names any: a model's name is looked up among the installed ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from ad.core.errors import ModelFileError
from ad.runtime.files import new_folder, sync_file, write_atomic
from ad.runtime.manifest import CONFIG, ROI, Described

if TYPE_CHECKING:
    from torch import Tensor, nn

TENSORS = "model.safetensors"

LARGEST_LINES = 512 * 2**20
"""Bytes of a file with one JSON object per picture or epoch: millions of them."""


def _wrong_names(names: AbstractSet[str]) -> str | None:
    right = names - {ROI} == {TENSORS, CONFIG}
    return None if right else f"must list the sha256 of `{CONFIG}` and `{TENSORS}`"


_MODEL = Described(
    noun="saved model",
    reader="ad-core",
    again="train again",
    source="Give a run directory that `ad train` wrote, or the `model` folder in it.",
    wrong_names=_wrong_names,
)


def save_model(
    folder: Path, module: nn.Module, config: Mapping[str, Any], *, roi: bytes | None = None
) -> None:
    """Save a detector as a folder, whole or not at all.

    Args:
        folder: Where; must not exist yet.
        module: Its state is saved, contiguous, in its own element types.
        config: What is needed to build it again; JSON values only.
        roi: Content of ``roi.png``; None for no such file.

    Raises:
        OutputError: If the folder exists or cannot be written.
    """
    save_tensors(folder, module.state_dict(), config, roi=roi)


def save_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    roi: bytes | None = None,
) -> None:
    """Save named tensors in the format of a saved model; see `save_model`."""
    from safetensors.torch import (
        save_file,  # with torch, which reading a configuration does not need
    )

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_folder(folder, "model") as new:
        try:
            save_file(tensors, new / TENSORS)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        sync_file(new / TENSORS)
        (new / TENSORS).chmod(0o666 & ~_umask())
        names = [TENSORS]
        if roi is not None:
            write_atomic(new / ROI, roi)
            names.append(ROI)
        _MODEL.describe(new, names, config)


def read_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a saved model's tensors and configuration after checking its manifest.

    Raises:
        ModelFileError: If a file is missing, was changed, or is of a format not known here.
    """
    from safetensors.torch import load_file

    hashes, config = _MODEL.read(folder)
    _MODEL.check(folder / TENSORS, hashes[TENSORS])
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as error:
        msg = f"`{folder}` holds no model that can be read: {error}"
        raise ModelFileError(msg) from error
    return tensors, config


def read_config(folder: Path) -> dict[str, Any]:
    """Read a saved model's configuration alone.

    Raises:
        ModelFileError: As `read_model` does, but for the tensors.
    """
    return _MODEL.read(folder)[1]


def saved_hash(folder: Path) -> str:
    """The sha256 of a saved model's tensors, as its manifest has it.

    Raises:
        ModelFileError: As `read_model` does, but for the tensors.
    """
    return _MODEL.hashes(folder)[TENSORS]


def saved_roi(folder: Path) -> Path:
    """The file of a saved model's region of interest, after checking it.

    Raises:
        ModelFileError: If it is missing, was changed, or the manifest does not list it.
    """
    return _MODEL.roi(folder)


def rewrite_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Give a saved model another configuration, whole or not at all; see `Described.rewrite`.

    Raises:
        ModelFileError: If the folder holds no model, or one that was changed.
        OutputError: If it cannot be written; the old configuration is then still there.
    """
    _MODEL.rewrite(folder, config)


def _umask() -> int:
    # The only way to read it is to set it; safetensors writes for the owner alone.
    mask = os.umask(0)
    os.umask(mask)
    return mask
