"""StableAdamW: AdamW whose step shrinks, tensor by tensor, when a gradient is out of proportion.

Adam divides by a slow mean of squared gradients, so a gradient that is suddenly large makes a step
that is far too large. Here the root mean square of ``gradient / denominator`` is taken over each
tensor, and where it is above 1 the tensor's step is divided by it.

Paper: Wortsman et al., "Stable and low-precision training for large-scale vision-language models",
NeurIPS 2023, arXiv 2304.13013; in the form in which Dinomaly uses it, which has AMSGrad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer


@final
class StableAdamW(Optimizer):
    """AdamW with AMSGrad and an update that is clipped for each tensor.

    Args:
        parameters: To be learnt; those without a gradient are left alone.
        lr: Learning rate.
        betas: Of the means of gradients and of their squares.
        eps: Added to the denominator.
        weight_decay: Share of a parameter that goes at each step, times the learning rate.
        amsgrad: Whether the denominator is of the largest mean of squares so far. It is compared
            without correcting for its start at zero, as the authors do.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        amsgrad: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "amsgrad": amsgrad})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Take a step; nothing waits for the device.

        Args:
            closure: Computes the loss anew; not needed.

        Returns:
            What the closure did.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        if not state:
            state["step"] = 0
            names = ("mean", "mean_square", *(("largest",) if group["amsgrad"] else ()))
            state.update({name: torch.zeros_like(parameter) for name in names})
        state["step"] += 1
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        state["mean"].lerp_(gradient, 1 - beta1)
        square = state["mean_square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        if group["amsgrad"]:
            square = torch.maximum(state["largest"], square, out=state["largest"])
        started = (1 - beta2 ** state["step"]) ** 0.5
        denominator = square.sqrt().div_(started).add_(group["eps"])
        excess = (gradient / denominator).square_().mean().sqrt_().clamp_(min=1)
        rate = group["lr"] / (1 - beta1 ** state["step"])
        parameter.sub_(state["mean"].div(denominator).mul_(rate / excess))


def warm_cosine(step: int, total: int, *, warm_up: int, last: float) -> float:
    """Factor on a learning rate that rises in a line from 0 to 1, then falls along a cosine.

    Args:
        step: Counted from 0.
        total: Steps in all; from there on the factor is ``last``.
        warm_up: Steps of the line, the last of which has factor 1, as a line of one step has.
        last: Where the cosine ends.
    """
    if step >= total:
        return last
    if step < warm_up:
        return step / (warm_up - 1) if warm_up > 1 else 1.0
    return float(
        last + (1 - last) * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (total - warm_up)))
    )
