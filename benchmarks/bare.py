"""What a network multiplies, and how long this machine takes for nothing but that.

`Recorded` listens to torch while a network works or learns, and notes each convolution: its
shapes, its type, and which of its three products was asked for, the outputs or a gradient.
`seconds` then has torch do just those, each alone, on numbers that lie ready: weights packed by
oneDNN before, no activation, batch norm, pooling or copy between layouts, memory that the process
already has. Each is done in all ways that torch offers for it, and the least of their repeats
counts, so that caches are as warm as they get. No network of the same convolutions in the same
type can be faster with torch's kernels.

A transposed convolution is the gradient of a plain one and is noted as that. What belongs to one
channel alone, as the windows of SSIM do, is no work of a network and is left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Product = Literal["outputs", "gradient of images", "gradient of weights"]
Way = Callable[[], Tensor]
Sides = tuple[int, ...]
Seconds = tuple[float, float]
"""Of the processor, all threads together; on the wall."""

_REPEATS = 5
_ENOUGH = 0.4
"""CPU seconds after which a way is not repeated any more."""
_HOPELESS = 1.5
"""Times what another way takes: not repeated either."""


@dataclass(frozen=True)
class Convolution:
    """One of the three products of a plain convolution."""

    gives: Product
    images: Sides
    """``[B, C, H, W]``."""
    weights: Sides
    """``[D, C, k, k]``."""
    outputs: Sides
    """``[B, D, h, w]``."""
    padding: Sides
    stride: Sides
    dilation: Sides
    dtype: torch.dtype

    @property
    def products(self) -> int:
        """How many products of two numbers it takes."""
        batch, depth, height, width = self.outputs
        channels, *kernel = self.weights[1:]
        return batch * depth * height * width * channels * kernel[0] * kernel[1]


class Recorded(TorchDispatchMode):
    """Notes the convolutions of what is done within it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions: Counter[Convolution] = Counter()
        self._kept: dict[tuple[int, Sides], int] = {}

    @property
    def products(self) -> int:
        """How many products of two numbers all take."""
        return sum(count * one.products for one, count in self.convolutions.items())

    @property
    def kept_bytes(self) -> int:
        """Of the images that must be kept for the gradients of weights."""
        return sum(self._kept.values())

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch has no name for its kind
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if name == "aten.convolution.default":
            x, w, _, *rest = args
            self._note(x, w, result, rest, {"outputs"})
        elif name == "aten.convolution_backward.default":
            grad, x, w, _, *rest, mask = args
            wanted: set[Product] = {"gradient of images"} if mask[0] else set()
            if mask[1]:
                wanted.add("gradient of weights")
                self._kept[x.data_ptr(), tuple(x.shape)] = x.nbytes
            self._note(x, w, grad, rest, wanted)
        elif name.startswith("mkldnn._convolution_pointwise."):
            x, w, *_ = args if name.endswith(".default") else (args[0], *args[2:])
            first = 3 if name.endswith(".default") else 4
            padding, stride, dilation, groups = args[first : first + 4]
            rest = [stride, padding, dilation, False, None, groups]
            self._note(x, w, result, rest, {"outputs"})
        elif "convolution" in name and "reorder" not in name:
            msg = f"`{name}` is a convolution that is not known here."
            raise NotImplementedError(msg)
        return result

    def _note(
        self, x: Tensor, w: Tensor, y: Tensor, rest: Sequence[Any], wanted: set[Product]
    ) -> None:
        stride, padding, dilation, transposed, _, groups = rest
        if groups > 1:
            return
        settings = (tuple(padding), tuple(stride), tuple(dilation), x.dtype)
        ends: tuple[Sides, Sides] = (tuple(x.shape), tuple(y.shape))
        images, outputs = reversed(ends) if transposed else ends
        for gives in wanted:
            if transposed and gives != "gradient of weights":
                gives = "outputs" if gives == "gradient of images" else "gradient of images"
            self.convolutions[Convolution(gives, images, tuple(w.shape), outputs, *settings)] += 1


def ways(it: Convolution, x: Tensor, w: Tensor, y: Tensor) -> list[Way]:
    """All ways in which torch computes it.

    Args:
        it: The convolution.
        x: Images.
        w: Weights.
        y: Outputs, or the loss's gradient for them.
    """
    op, last = torch.ops.mkldnn, torch.channels_last
    settings = (it.padding, it.stride, it.dilation, 1)
    packs = torch.backends.mkldnn.is_available()
    if it.dtype == torch.bfloat16:
        packs &= op._is_mkldnn_bf16_supported()
    x, w, y = (each.contiguous(memory_format=last) for each in (x, w, y))
    plain = (it.stride, it.padding, it.dilation, False, (0, 0), 1)
    if it.gives == "outputs":
        found: list[Way] = [lambda: torch.convolution(x, w, None, *plain)]
        if packs:
            found.append(_packed(x, w, settings))
        return found
    if it.gives == "gradient of weights":
        rows = [(x, w, y), tuple(each.contiguous() for each in (x, w, y))]
        return [
            lambda x=x, w=w, y=y: torch.ops.aten.convolution_backward(
                y, x, w, None, *plain, (False, True, False)
            )[1]
            for x, w, y in rows
        ]
    found = [
        lambda: torch.ops.aten.convolution_backward(y, x, w, None, *plain, (True, False, False))[0]
    ]
    if not packs:
        return found
    kernel = [1 + d * (k - 1) for k, d in zip(it.weights[2:], it.dilation, strict=True)]
    around = [k - 1 - p for k, p in zip(kernel, it.padding, strict=True)]
    if set(it.stride) == {1} and min(around) >= 0:
        turned = w.flip(2, 3).transpose(0, 1)
        found.append(_packed(y, turned, (around, it.stride, it.dilation, 1)))
    missing = [
        side - ((cells - 1) * s - 2 * p + k)
        for side, cells, s, p, k in zip(
            it.images[2:], it.outputs[2:], it.stride, it.padding, kernel, strict=True
        )
    ]
    upward = (it.padding, missing, it.stride, it.dilation, 1)
    packed = op._reorder_convolution_transpose_weight(w, *upward, y.shape)
    found.append(
        lambda: op._convolution_transpose_pointwise(y, packed, None, *upward, "none", [], "")
    )
    return found


def _packed(x: Tensor, w: Tensor, settings: tuple[Any, ...]) -> Way:
    """A convolution whose weights lie as oneDNN wants them."""
    lying = w.contiguous(memory_format=torch.channels_last)
    packed = torch.ops.mkldnn._reorder_convolution_weight(lying, *settings, x.shape)
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, packed, None, *settings, "none", [], ""
    )


@torch.inference_mode()
def seconds(convolutions: Counter[Convolution]) -> Seconds:
    """What all of them take, each at its least."""
    return total((count, _of(one)) for one, count in convolutions.items())


def total(parts: Iterable[tuple[float, Seconds]]) -> Seconds:
    """The sum of parts, each so many times."""
    every = [(count * cpu, count * wall) for count, (cpu, wall) in parts]
    return sum(cpu for cpu, _ in every), sum(wall for _, wall in every)


def _of(it: Convolution) -> Seconds:
    shapes = (it.images, it.weights, it.outputs)
    x, w, y = (torch.randn(shape).to(it.dtype) for shape in shapes)
    return least(*ways(it, x, w, y))


def least(*ways: Callable[[], object]) -> Seconds:
    """What the fastest of some ways to the same takes, after one time to warm up."""
    best = (float("inf"), float("inf"))
    for way in ways:
        way()
        spent = 0.0
        for _ in range(_REPEATS):
            start = time.process_time(), time.perf_counter()
            way()
            taken = time.process_time() - start[0], time.perf_counter() - start[1]
            best, spent = min(best, taken), spent + taken[0]
            if spent > _ENOUGH or taken[0] > _HOPELESS * best[0]:
                break
    return best
