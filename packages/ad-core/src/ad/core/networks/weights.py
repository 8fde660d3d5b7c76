"""Weights that were learnt elsewhere: finding their file, reading it, saying what does not fit.

Safetensors only. A pickle, which can hold code, is refused with the command that converts it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ad.core.errors import WeightsError


def given_file(given: str, name: str | None = None, *, whose: str, allowed: str) -> Path:
    """The file of weights that a user named.

    Args:
        given: A file, or the folder of one.
        name: What it is called in a folder; None where only a file will do.
        whose: For the error: ``the teacher's``.
        allowed: The sentence of the error that says what may be given.

    Raises:
        WeightsError: If there is no such file.
    """
    path = Path(given).expanduser()
    path = path / name if name is not None and path.is_dir() else path
    if not path.is_file():
        msg = f"{whose[0].upper()}{whose[1:]} file `{path}` does not exist. {allowed}"
        raise WeightsError(msg)
    return path


def file_in_weights_folder(name: str) -> Path | None:
    """The file of that name in the folder that ``AD_WEIGHTS`` names; None without one.

    Raises:
        WeightsError: If ``AD_WEIGHTS`` names no folder.
    """
    folder = os.environ.get("AD_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).expanduser().is_dir():
        msg = f"AD_WEIGHTS names `{folder}`, which is not a folder. Correct it or unset it."
        raise WeightsError(msg)
    path = Path(folder).expanduser() / name
    return path if path.is_file() else None


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read all tensors of a file.

    Raises:
        WeightsError: If it is a pickle, or no safetensors file that can be read.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(2)
        if start == b"PK" or start[:1] == b"\x80":  # torch's archive, or a bare pickle
            raise WeightsError(_pickle(file))
        return load_file(file)
    except (SafetensorError, OSError) as error:
        msg = f"`{file}` is no readable safetensors file: {error}"
        raise WeightsError(msg) from error


def fitting_weights(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    file: Path,
    *,
    owner: str,
    if_missing: str,
    if_other: str,
) -> dict[str, Tensor]:
    """Those of a file's tensors that a network needs, checked one by one; others are left out.

    Args:
        state: The file's tensors, under the network's names.
        wanted: The network's own, of the same names and shapes; values mean nothing.
        file: Where they are from, for the error.
        owner: The network, for the error: ``DSR's quantiser``.
        if_missing: The sentence of the error that says what to do where a tensor is missing.
        if_other: The same where one has another shape.

    Returns:
        In the element types of ``wanted``: half precision on disk is welcome.

    Raises:
        WeightsError: If a tensor is of another shape or missing.
    """
    for key, like in wanted.items():
        if key in state and state[key].shape != like.shape:
            msg = (
                f"`{key}` in `{file}` has shape {tuple(state[key].shape)}; {tuple(like.shape)} is "
                f"needed. {if_other}"
            )
            raise WeightsError(msg)
    missing = [key for key in wanted if key not in state]
    if missing:
        more = f", and {len(missing) - 1} more of its {len(wanted)}" if len(missing) > 1 else ""
        msg = f"`{file}` lacks the tensor `{missing[0]}` of {owner}{more}. {if_missing}"
        raise WeightsError(msg)
    return {key: state[key].to(like.dtype) for key, like in wanted.items()}


def _pickle(file: Path) -> str:
    return (
        f"`{file}` is a pickle, which can run code when it is read, and is not read here. Make it "
        "a safetensors file first:\n"
        f"hint: python -c \"import torch, safetensors.torch as s; t = torch.load('{file}', "
        "map_location='cpu', weights_only=True); "
        "s.save_file({k: v.detach().contiguous() for k, v in t.items()}, "
        f"'{file.with_suffix('.safetensors')}')\""
    )
