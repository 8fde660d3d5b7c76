"""Attention of transformers at work on CPUs in bf16, as plain products, one head at a time.

torch's fused attention is the faster one on GPUs and in fp32; in bf16 on CPUs its small tiles take
1.5 times as long as a product, a softmax and a product whose matrix of one head stays in the cache.
But a product in bf16 rounds its result to eight bits, and a logit of 20 is wrong by 0.06 then, its
weight by 6 %. So each query's logits are computed less about what is the largest of them: shifts
change no softmax, sums within a product are fp32, and what is rounded is small where it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SAMPLED = 8
"""Of so many keys one is looked at for what a query's largest logit is about."""

_WORTH = 192
"""Tokens from which on products are faster."""


def fast_attention(like: Tensor) -> AbstractContextManager[Any]:
    """For what transformers compute inside of it: `attention` in place of torch's own.

    Args:
        like: What they are given. On other devices than CPUs, where there are gradients, and where
            a graph is recorded, everything stays as it is.
    """
    if like.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _Products()


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """What the keys' values are to each query: ``softmax(scale * query @ key.mT) @ value``.

    Args:
        query: ``[B, heads, N, D]``, bf16.
        key: ``[B, heads, M, D]``, bf16.
        value: ``[B, heads, M, E]``, bf16.
        scale: Factor on logits.

    Returns:
        ``[B, heads, N, E]``, bf16, laid out with heads beside their channels, as what comes after
        wants them. Within about 4e-3 of exact, where torch's own is within 2e-3.
    """
    query = query * scale
    about = (key[:, :, ::_SAMPLED] @ query.mT).amax(dim=2)[..., None]
    query = torch.cat([query, -about], dim=3)  # one more channel: less ``about``, times one
    key = torch.cat([key, key.new_ones(*key.shape[:3], 1)], dim=3)
    batch, heads, count, width = *query.shape[:3], value.shape[3]
    found = value.new_empty(batch, count, heads, width).transpose(1, 2)
    for picture in range(batch):
        for head in range(heads):
            logits = query[picture, head] @ key[picture, head].mT
            found[picture, head] = logits.softmax(dim=1) @ value[picture, head]
    return found


@final
class _Products(TorchFunctionMode):
    """Has transformers call `attention`, whichever of torch's layers or timm's they are made of."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and _plain(*args, **kwargs):
            query, key, value = args
            return attention(query, key, value, kwargs.get("scale") or query.shape[3] ** -0.5)
        return func(*args, **kwargs)


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **others: Any,  # noqa: ANN401 - as torch has them
) -> bool:
    """Whether `attention` computes what is asked for, and sooner."""
    others.pop("scale", None)
    asked = attn_mask is not None or dropout_p or is_causal or any(others.values())
    parts = (query, key, value)
    return not asked and all(
        each.dtype is torch.bfloat16 and each.ndim == 4 and each.shape[2] >= _WORTH
        for each in parts
    )
