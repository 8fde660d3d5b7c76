"""The coupling's arithmetic on rows of channels, with few passes over memory, and its gradient.

Beside a convolution in bf16, memory is what a coupling costs: autograd keeps what each operation
made and walks through all of it again. Here a map is a matrix, a position a row, as oneDNN's
convolutions have it (channels-last), so that nothing is laid out anew between the parts of a
block. All operations are done on a few pictures, which stay in the processor's cache, before the
next ones; and the gradient is written out: it keeps what came in alone, and makes the rest again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

DAMPING = 0.1  # of what the subnet says, so that blocks begin near the identity

_CACHED = 2**18
"""Numbers that are worked on at a time, or a picture's where they are more."""


def as_rows(x: Tensor) -> Tensor:
    """``[B, C, ...]`` as ``[B * ..., C]``: a view where channels are last in memory."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).contiguous()


def from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """``[B * ..., K]`` as ``[B, K, ...]``, shaped like another one but for the channels; a view."""
    return rows.view(like.shape[0], *like.shape[2:], rows.shape[1]).movedim(-1, 1)


@final
class PassiveRows(torch.autograd.Function):
    """The first channels of all rows by themselves, and the rows as they are.

    A slice's own gradient would be a matrix of zeros around it, to be added to the other one.
    Who takes the rows must hand back a gradient that nobody else holds, as `CoupledRows` does.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, passive: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:  # noqa: ANN401 - torch has no type for it
        """``[N, C]`` to ``[N, passive]`` of a type, and ``[N, C]``."""
        ctx.passive = passive
        seen = torch.empty(len(rows), passive, dtype=dtype, device=rows.device)
        return seen.copy_(rows[:, :passive]), rows.view_as(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_seen: Tensor, of_rows: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        """Add the one to that part of the other."""
        of_rows[:, : ctx.passive] += of_seen
        return of_rows, None, None


@final
class CoupledRows(torch.autograd.Function):
    """Affine coupling, a scale and an offset of each channel, and a permutation.

    With ``l = clamp * tanh(0.1 * steepness)``, the last channels become ``exp(l)`` times
    themselves plus ``0.1 * shift``; then all are multiplied by their scale, moved, and permuted.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        rows: Tensor,
        said: Tensor,
        scale: Tensor,
        offset: Tensor,
        order: Tensor,
        clamp: float,
        batch: int,
    ) -> tuple[Tensor, Tensor]:
        """Transform.

        Args:
            ctx: What is kept for the gradient.
            rows: ``[N, C]``, contiguous.
            said: ``[N, 2 * active]``: steepness, then shift, of the last ``active`` channels; of
                any type.
            scale: ``[C]``.
            offset: ``[C]``.
            order: ``[C]``: which channel each becomes.
            clamp: The largest ``l``.
            batch: How many pictures the rows are of.

        Returns:
            ``[N, C]``, and ``[batch]``: the sum of ``l``.
        """
        out, sums = torch.empty_like(rows), rows.new_zeros(batch)
        for pictures, part in _parts(rows, batch):
            log_scale = _log_scale(said[part], clamp, rows.dtype)
            torch.sum(log_scale.view(len(sums[pictures]), -1), 1, out=sums[pictures])
            coupled = _coupled(rows[part], said[part], log_scale.exp_())
            coupled.mul_(scale).add_(offset)
            torch.index_select(coupled, 1, order, out=out[part])
        ctx.save_for_backward(rows, said, scale, order)
        ctx.clamp, ctx.batch = clamp, batch
        return out, sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor, of_sums: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """The gradients of rows, what was said, scales and offsets."""
        rows, said, scale, order = ctx.saved_tensors
        active = said.shape[1] // 2
        passive = rows.shape[1] - active
        of_out, back = of_out.contiguous(), order.argsort()
        of_rows, of_said = torch.empty_like(rows), torch.empty_like(said)
        of_scale, of_offset = torch.zeros_like(scale), torch.zeros_like(scale)
        for pictures, part in _parts(rows, ctx.batch):
            mine, gradient = rows[part], of_rows[part]
            log_scale = _log_scale(said[part], ctx.clamp, rows.dtype)
            stretch = log_scale.exp()
            torch.index_select(of_out[part], 1, back, out=gradient)
            of_offset += gradient.sum(0)
            of_scale += _coupled(mine, said[part], stretch).mul_(gradient).sum(0)
            last = gradient.mul_(scale)[:, passive:]
            of_said[part, active:] = last * DAMPING
            last *= stretch
            of_log_scale = last * mine[:, passive:]
            of_log_scale.view(len(of_sums[pictures]), -1).add_(of_sums[pictures, None])
            # The slope of clamp * tanh(a), a being 0.1 of what was said.
            slope = log_scale.square_().mul_(-DAMPING / ctx.clamp).add_(DAMPING * ctx.clamp)
            of_said[part, :active] = of_log_scale.mul_(slope)
        return of_rows, of_said, of_scale, of_offset, None, None, None


def _parts(rows: Tensor, batch: int) -> Iterator[tuple[slice, slice]]:
    """Pictures that are worked on together, and their rows."""
    positions = len(rows) // max(batch, 1)
    several = max(1, _CACHED // max(positions * rows.shape[1], 1))
    for first in range(0, batch, several):
        last = min(first + several, batch)
        yield slice(first, last), slice(first * positions, last * positions)


def _log_scale(said: Tensor, clamp: float, dtype: torch.dtype) -> Tensor:
    """Of what was said, ``clamp * tanh(0.1 * steepness)``, ``[n, active]``."""
    steepness = said[:, : said.shape[1] // 2].to(dtype, memory_format=torch.contiguous_format)
    # tanh(a) is 2 * sigmoid(2 * a) - 1, which takes a sixth of the time.
    return (steepness * (2 * DAMPING)).sigmoid_().mul_(2 * clamp).sub_(clamp)


def _coupled(rows: Tensor, said: Tensor, stretch: Tensor) -> Tensor:
    """A copy of rows whose last channels are stretched and shifted."""
    active = stretch.shape[1]
    coupled = rows.clone()
    coupled[:, -active:].mul_(stretch).add_(said[:, active:], alpha=DAMPING)
    return coupled
