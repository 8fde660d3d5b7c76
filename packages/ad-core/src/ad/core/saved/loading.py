"""Saved tensors into a freshly built model, checked one by one: they may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ad.core.detector import Declared, declared
from ad.core.errors import ModelFileError


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], folder: Path | str) -> None:
    """Put saved tensors into a freshly built, unfitted module.

    An empty buffer is one that fitting fills, and takes the saved size, which must be of the shape
    that it declares; all else must agree in name, shape and element type.

    Raises:
        ModelFileError: If a tensor is missing, unknown, or of another shape or type.
    """
    expected = module.state_dict()
    if set(expected) != set(tensors):
        wrong = sorted(set(expected) ^ set(tensors))[0]
        what = "lacks" if wrong in expected else "has an unknown"
        msg = f"The saved model `{folder}` {what} tensor `{wrong}`: it is of another version."
        raise ModelFileError(msg)
    for name, tensor in tensors.items():
        like = expected[name]
        if tensor.dtype != like.dtype or (like.numel() and tensor.shape != like.shape):
            msg = (
                f"Tensor `{name}` of the saved model `{folder}` is {tensor.dtype} "
                f"{tuple(tensor.shape)}; {like.dtype} {tuple(like.shape)} is needed."
            )
            raise ModelFileError(msg)
        if like.numel() == 0:
            owner_name, _, buffer = name.rpartition(".")
            owner = module.get_submodule(owner_name)
            owner.register_buffer(buffer, torch.empty_like(tensor, device=like.device))
    for name, part in module.named_modules():
        _check_learned(declared(part), f"{name}." if name else "", tensors, folder)
    module.load_state_dict(dict(tensors))


def _check_learned(
    wanted_of: Mapping[str, Declared],
    owner: str,
    tensors: Mapping[str, Tensor],
    folder: Path | str,
) -> None:
    """Check what the learned buffers of one module declare."""
    sizes: dict[str, int] = {}  # of the letters, from the first buffer that has each
    for name, (shape, below) in wanted_of.items():
        tensor = tensors[owner + name]
        saved = tuple(tensor.shape)
        if saved == (0,):  # not fitted yet
            continue
        known = dict(sizes)  # what this one adds is no reason why it should fit
        fits = len(saved) == len(shape)
        for wanted, size in zip(shape, saved, strict=False):
            fits &= size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        if not fits:
            needed = ", ".join(str(known.get(s, s) if isinstance(s, str) else s) for s in shape)
            msg = (
                f"Tensor `{owner}{name}` of the saved model `{folder}` is {saved}; ({needed}) is "
                "needed. It was changed, or belongs to another version; take it from the original "
                "again."
            )
            raise ModelFileError(msg)
        if below is not None and tensor.numel() and not 0 <= tensor.min() <= tensor.max() < below:
            msg = (
                f"Tensor `{owner}{name}` of the saved model `{folder}` has values from "
                f"{tensor.min()} to {tensor.max()}; they must be from 0 to {below - 1}. It was "
                "changed, or belongs to another model; take it from the original again."
            )
            raise ModelFileError(msg)
