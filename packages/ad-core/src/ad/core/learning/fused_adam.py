"""Adam in one pass over memory on CPUs, where torch by default makes five, with numbers in between.

The numbers are the same but for rounding. torch's passes for CPUs trust that a parameter, its
gradient and its running means lie alike in memory, and mix up numbers without a word where they do
not, as after a checkpoint, which keeps no strides: here they are laid alike before each step. Nor
do they count that parameters have changed, which packed copies of weights go by: here it is done.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

_GAINS = (Adam, AdamW)
"""SGD has next to nothing to gain. Exact types: subclasses may compute something else."""


def fuse(optimizer: Optimizer) -> None:
    """Let an optimiser take one pass over each parameter, where it can and gains by it.

    Groups whose maker chose between torch's forms stay as they are, and so do all but Adam and
    AdamW on CPUs: elsewhere torch chooses well.

    Args:
        optimizer: Fresh; one that is restored afterwards goes on in the form that it was saved in.
    """
    optimizer.register_step_post_hook(_count_changes)
    if type(optimizer) not in _GAINS:
        return
    for group in optimizer.param_groups:
        unchosen = group["fused"] is None and group["foreach"] is None
        needed = group["capturable"] or group["differentiable"]  # of torch's other forms
        if unchosen and not needed and all(map(_can_be_fused, group["params"])):
            group["fused"] = True
    optimizer.register_step_pre_hook(_lay_alike)


def _can_be_fused(parameter: Tensor) -> bool:
    """Whether a parameter is on a CPU, no shorter than float32, and lies in memory without gaps."""
    dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    kind = parameter.dtype in (torch.float32, torch.float64)
    return parameter.device.type == "cpu" and kind and dense


def _count_changes(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Count that parameters have changed, where torch's fused passes do not."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            torch.autograd.graph.increment_version(parameter)


def _lay_alike(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Lay gradients and running means out in memory as their parameters are."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["fused"] else ():
            if parameter.grad is None:
                continue
            if parameter.grad.stride() != parameter.stride():
                parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
            state = optimizer.state[parameter]
            for name, value in state.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(value)
