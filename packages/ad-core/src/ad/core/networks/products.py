"""Products of transformers in bf16 on CPUs: linear layers packed, attention one head at a time.

*Attention.* torch's fused attention is the faster one on GPUs and in fp32; in bf16 on CPUs its
small tiles take 1.5 times as long as a product, a softmax and a product whose matrix of one head
stays in the cache. But a product in bf16 rounds its result to eight bits, and a logit of 20 is
wrong by 0.06 then, its weight by 6 %. So each query's logits are computed less about what is the
largest of them: shifts change no softmax, sums within a product are fp32, and what is rounded is
small where it counts.

*Linear layers.* torch has oneDNN bring weights into bf16 and into its own layout in every call.
Those that are not to be learnt are brought there once: the copies, of half the bytes, lie beside
them, are in no file and in no copy of a module, and are made anew when weights have changed. What
changes them behind torch's back (``weight.data``) is not seen. oneDNN's operations for this are
those that torch's compiler uses, not public ones, so that they are tried before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ad.core.networks.onednn import refusal

_SAMPLED = 8
"""Of so many keys one is looked at for what a query's largest logit is about."""

_WORTH = 192
"""Tokens from which on products are faster."""


def fast_products(like: Tensor) -> AbstractContextManager[Any]:
    """For what transformers compute inside of it: `attention` and `linear` in place of torch's own.

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


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.mT + bias`` by a packed copy of the weights.

    Args:
        x: ``[..., D]``, bf16 or fp32.
        weight: ``[E, D]``, fp32, not to be learnt.
        bias: ``[E]``, fp32.

    Returns:
        ``[..., E]``, bf16: the bits of torch's own, but for the order of a sum.
    """
    tensors = [each for each in (weight, bias) if each is not None]
    made_of = [(each._version, each.data_ptr()) for each in tensors]
    found = _PACKED.get(weight)
    if found is None or found[0] != made_of:
        rows = x.numel() // x.shape[-1]
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), rows)
        # What lies there is held, so that nothing else can come to lie there.
        held = [each.detach() for each in tensors]
        found = (made_of, packed, None if bias is None else bias.bfloat16(), held)
        _PACKED[weight] = found
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), *found[1:3], "none", [], "")
    return product


_PACKED: Any = WeakTensorKeyDictionary()  # untyped in torch
"""Of weights: versions and places of what the copy was made of, the copy, the bias in bf16, and
what it was made of."""


@cache
def why_not() -> str:
    """Why linear layers are not packed on this CPU, in words; empty if they are."""
    return refusal(("_reorder_linear_weight", "_linear_pointwise"), _trial)


def _trial() -> bool:
    """Whether a small linear layer is right."""
    weight = (torch.arange(24.0) % 5 - 2).view(3, 8)  # whole numbers, so that nothing is rounded
    x, bias = (torch.arange(16.0) % 3).view(2, 8), torch.arange(3.0)
    return torch.equal(linear(x, weight, bias).float(), x @ weight.mT + bias)


@final
class _Products(TorchFunctionMode):
    """Has transformers call these, whichever of torch's layers or timm's they are made of."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _plain(*args, **kwargs):
            query, key, value = args
            return attention(query, key, value, kwargs.get("scale") or query.shape[3] ** -0.5)
        if func is F.linear and not kwargs and _packable(*args):
            return linear(*args)
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


def _packable(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether `linear` computes what autocast would have torch's own compute."""
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    own = [weight] if bias is None else [weight, bias]
    return not why_not() and all(
        each.dtype is torch.float32
        and each.is_cpu
        and not each.requires_grad
        and not each.is_inference()  # such tensors do not count their changes
        for each in own
    )
