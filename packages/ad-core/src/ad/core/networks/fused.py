"""Convolution, batch norm, sum and ReLU in one pass over memory, where nothing learns.

Layer by layer, torch has oneDNN bring a convolution's weights into its own layout in every call,
and each batch norm, sum and ReLU reads and writes the whole map once more. Here batch norm is
folded into the weights, these are brought into the layout once, and the rest is done while a
convolution's result is in the registers. What comes out differs by rounding alone: it is rounded
once where the layers round up to four times.

It is the form of every network on a CPU that neither learns nor lets gradients pass, wherever
torch has oneDNN's operations, which its compiler uses and which are not public: `why_not` tries
them first. What is exported or compiled is the layers.

Weights stay where they are. Packed copies lie beside them, of half the bytes in bf16 and of as
many in fp32, from the first call on; they are in no file and no copy of a module, and made anew
when weights have changed. What changes them behind torch's back is not seen: ``weight.data``, and
torch's fused optimisers, whose changes `ad.core.learning.fused_adam` counts.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", CVPR 2018, section 3.2, for the folding.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import final
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core.networks.onednn import refusal
from ad.core.trainer import Precision

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def conv_norm(
    x: Tensor,
    conv: nn.Module,
    norm: nn.Module | None = None,
    act: nn.Module | None = None,
    plus: Tensor | None = None,
) -> Tensor:
    """A convolution and what follows it, in one pass where that can be.

    Args:
        x: ``[B, C, H, W]``.
        conv: The convolution, an `nn.Conv2d`; other kinds go layer by layer.
        norm: Of its result, an `nn.BatchNorm2d`.
        act: Of the sum, an `nn.ReLU`.
        plus: What is added to the result, of its shape.

    Returns:
        ``act(norm(conv(x)) + plus)``.
    """
    packed = _packed(x, conv, norm, act)
    if packed is not None:
        return packed(x, relu=act is not None, plus=plus)
    y: Tensor = conv(x) if norm is None else norm(conv(x))
    if plus is not None:
        y += plus
    return y if act is None else act(y)


@contextmanager
def fused_if_finite(x: Tensor) -> Iterator[None]:
    """For a network inside of it: layer by layer where what it is given is not finite.

    oneDNN makes 0 of what is no number, as torch's ReLU does not, and a picture that holds some
    would get a verdict.

    Args:
        x: What the network is given.
    """
    if torch.compiler.is_compiling() or not x.is_cpu or bool(x.detach().sum().isfinite()):
        yield
        return
    before = getattr(_LAYERS, "wanted", False)
    _LAYERS.wanted = True
    try:
        yield
    finally:
        _LAYERS.wanted = before


_LAYERS = threading.local()


def fused_layers(x: Tensor, layers: Iterable[nn.Module]) -> Tensor:
    """Layers one after the other, each convolution at once with the batch norm and ReLU behind it.

    Args:
        x: ``[B, C, H, W]``.
        layers: Such as those of an `nn.Sequential`.

    Returns:
        What the layers make of it; see `conv_norm`.
    """
    todo = deque(layers)
    while todo:
        layer = todo.popleft()
        if isinstance(layer, nn.Conv2d):
            norm = todo.popleft() if todo and isinstance(todo[0], nn.BatchNorm2d) else None
            act = todo.popleft() if todo and isinstance(todo[0], nn.ReLU) else None
            x = conv_norm(x, layer, norm, act)
        else:
            x = layer(x)
    return x


@final
class FusedSequential(nn.Sequential):
    """An `nn.Sequential` that computes its layers as `fused_layers` does."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to what the layers make of it."""
        return fused_layers(x, self)


@cache
def why_not(precision: Precision) -> str:
    """Why nothing is done in one pass on this CPU, in words; empty if it is."""
    wanted = ("_reorder_convolution_weight", "_convolution_pointwise", "_convolution_pointwise_")
    return refusal(wanted, partial(_trial, precision))


def _trial(precision: Precision) -> bool:
    """Whether a small convolution in one pass is right."""
    dtype = _DTYPES[precision]
    ramp = torch.arange(-32.0, 32.0)  # whole numbers, so that nothing is rounded
    x, plus = (ramp % 5).view(1, 4, 4, 4).to(dtype), (ramp % 7 - 3).view(1, 4, 4, 4)
    conv = nn.Conv2d(4, 4, 3, padding=1).requires_grad_(False)
    conv.weight.copy_((torch.arange(144.0) % 3 - 1).view(4, 4, 3, 3))
    conv.bias.copy_(torch.arange(4.0))  # type: ignore[union-attr]
    due = F.conv2d(x.float(), conv.weight, conv.bias, padding=1)
    packed = _Packed(conv, None, dtype, x.shape)
    right = torch.equal(packed(x, relu=True, plus=None).float(), due.relu())
    return right and torch.equal(packed(x, relu=True, plus=plus).float(), (due + plus).relu())


@final
class _Packed:
    """A convolution with its batch norm, packed.

    Args:
        conv: The convolution.
        norm: Of its result, in eval mode.
        dtype: In which it computes.
        shape: Of what comes in, for which a layout is chosen; others go as well.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        dtype: torch.dtype,
        shape: torch.Size,
    ) -> None:
        self._dtype = dtype
        with torch.inference_mode():
            weight, bias = _folded(conv, norm)
            self._rest = (conv.padding, conv.stride, conv.dilation, conv.groups)
            self.finite = bool(weight.isfinite().all() and bias.isfinite().all())
            lying = weight.to(dtype).contiguous(memory_format=torch.channels_last)
            # Without the shape a layout is chosen that can be 20 times slower.
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(lying, *self._rest, shape)
            self._bias = bias.to(dtype)
        self._eps = None if norm is None else norm.eps
        # The last is what lies there: while it is held, nothing else can come to lie there.
        self._made_of = [(t, t._version, t.detach()) for t in _tensors(conv, norm)]

    def is_of(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> bool:
        """Whether it was made for this precision and of these tensors as they are."""
        tensors = _tensors(conv, norm)
        settings = (conv.padding, conv.stride, conv.dilation, conv.groups)
        if settings != self._rest or (None if norm is None else norm.eps) != self._eps:
            return False
        if dtype != self._dtype or len(tensors) != len(self._made_of):
            return False
        return all(
            now is then and now._version == version and now.data_ptr() == held.data_ptr()
            for now, (then, version, held) in zip(tensors, self._made_of, strict=True)
        )

    def __call__(self, x: Tensor, *, relu: bool, plus: Tensor | None) -> Tensor:
        x = self._lying(x)
        y: Tensor
        if plus is None:
            y = torch.ops.mkldnn._convolution_pointwise(
                x, self._weight, self._bias, *self._rest, "relu" if relu else "none", [], ""
            )
        else:
            y = torch.ops.mkldnn._convolution_pointwise.binary(
                *(x, self._lying(plus), self._weight, self._bias, *self._rest),
                *("add", 1.0, "relu" if relu else None, [], ""),
            )
        return y

    def _lying(self, x: Tensor) -> Tensor:
        return x.to(self._dtype).contiguous(memory_format=torch.channels_last)


_PACKED: WeakKeyDictionary[nn.Conv2d, _Packed] = WeakKeyDictionary()  # no part of any module


def _packed(
    x: Tensor, conv: nn.Module, norm: nn.Module | None, act: nn.Module | None
) -> _Packed | None:
    """A convolution packed as it is now; None where it goes layer by layer."""
    if torch.compiler.is_compiling() or not isinstance(conv, nn.Conv2d):
        return None
    if getattr(_LAYERS, "wanted", False):
        return None
    if not isinstance(norm, nn.BatchNorm2d | None):
        return None
    dtype = _dtype(x, conv)
    if dtype is None or not _is_plain(conv, norm, act) or _learns(x, conv, norm):
        _PACKED.pop(conv, None)
        return None
    found = _PACKED.get(conv)
    if found is not None and found.is_of(conv, norm, dtype):
        return found
    if why_not("bf16" if dtype == torch.bfloat16 else "fp32"):
        return None
    if any(tensor.is_inference() for tensor in _tensors(conv, norm)):
        return None  # they do not count their changes
    packed = _Packed(conv, norm, dtype, x.shape)
    if not packed.finite:
        return None  # what is no number must stay none, see `fused_if_finite`
    _PACKED[conv] = packed
    return packed


def _dtype(x: Tensor, conv: nn.Conv2d) -> torch.dtype | None:
    """In which a CPU computes it in one pass; None if in no such type, or elsewhere."""
    if type(x) is not Tensor or not x.is_cpu or not conv.weight.is_cpu or x.ndim != 4:
        return None
    if conv.weight.dtype != torch.float32 or not torch.backends.mkldnn.enabled:
        return None
    if not torch.is_autocast_enabled("cpu"):
        return x.dtype if x.dtype == torch.float32 else None
    dtype = torch.get_autocast_dtype("cpu")
    return dtype if dtype == torch.bfloat16 and x.dtype in _DTYPES.values() else None


def _is_plain(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, act: nn.Module | None) -> bool:
    """Whether these are the layers known here, with nothing hung on to them."""
    for layer, kind in ((conv, nn.Conv2d), (norm, nn.BatchNorm2d), (act, nn.ReLU)):
        if layer is None:
            continue
        if type(layer) is not kind or layer._forward_hooks or layer._forward_pre_hooks:
            return False
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or conv.groups > 1:
        return False
    return norm is None or (norm.running_mean is not None and norm.affine)


def _learns(x: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> bool:
    """Whether statistics are learnt, or gradients could be asked for."""
    if norm is not None and norm.training:
        return True
    return torch.is_grad_enabled() and (
        x.requires_grad or any(tensor.requires_grad for tensor in _tensors(conv, norm))
    )


def _tensors(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> list[Tensor]:
    """All that a convolution and its batch norm are made of.

    The count of steps, too: learning changes the statistics without torch's counting it.
    """
    some = [conv.weight, conv.bias]
    if norm is not None:
        some += [norm.weight, norm.bias, norm.running_mean, norm.running_var]
        some += [norm.num_batches_tracked]
    return [tensor for tensor in some if tensor is not None]


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """Weights and bias of a convolution that does what both do, in float64."""
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if norm is None:
        return weight, bias
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    return weight * scale[:, None, None, None], bias
