"""The coupling of maps at several scales: each half of the channels moves the other, in turn.

All scales are permuted, each by its own indices; then the second halves of all of them say how the
first ones are scaled and shifted, and what these become says it of the second ones. A network sees
the halves of all scales at once, so that a flow of such couplings is of all scales together.

Source: Kingma, Dhariwal, "Glow", NeurIPS 2018; Rudolph et al., "Fully Convolutional
Cross-Scale-Flows", WACV 2022, whose clamp it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from ad.core import Precision, in_precision, learned_buffer, stream
from ad.flow.freia import modules

_ATAN = 0.636  # times the arcus tangens, which it brings to the interval from -1 to 1: 2 / pi
_LARGEST = 1e6  # of what comes out: beyond it nothing is likelier than anything else


@final
class GlowPair(modules.InvertibleModule):  # type: ignore[misc]  # FrEIA has no types
    """Two affine couplings in a row, of maps at several scales.

    Args:
        dims_in: Shapes of the maps without the batch, ``(C, h, w)``.
        dims_c: Of conditions, which it has none of.
        subnet_constructor: Makes a network from one half of the channels to the scales and shifts
            of the other: it is given the channels that come in and those that go out, a number for
            each scale, and takes and returns a map for each.
        clamp: The largest logarithm of a coupling's scale.
        seed: Seed of the permutations.
        precision: In which those networks compute; all else is float32.
    """

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] = (),
        *,
        subnet_constructor: Callable[[list[int], list[int]], nn.Module],
        clamp: float,
        seed: int,
        precision: Precision,
    ) -> None:
        super().__init__(dims_in, dims_c)
        self.clamp = clamp
        self.precision: Precision = precision
        self.channels = [shape[0] for shape in dims_in]
        self.first = [channels // 2 for channels in self.channels]
        second = [channels - channels // 2 for channels in self.channels]
        for scale, channels in enumerate(self.channels):
            name = _permutation(scale)
            learned_buffer(self, name, torch.int64, shape=(channels,), below=channels)
            generator = torch.Generator().manual_seed(stream(seed, scale))
            setattr(self, name, torch.randperm(channels, generator=generator))
        self.of_first = subnet_constructor(second, [2 * channels for channels in self.first])
        self.of_second = subnet_constructor(self.first, [2 * channels for channels in second])

    def forward(
        self,
        x_or_z: Sequence[Tensor],
        c: Sequence[Tensor] = (),
        rev: bool = False,
        jac: bool = True,
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Transform a batch, or transform it back.

        Args:
            x_or_z: A map for each scale, ``[B, C, h, w]``.
            c: No conditions.
            rev: Whether to go back.
            jac: Whether the log-determinant is wanted; without, it is 0.

        Returns:
            The maps, and ``[B]``: the logarithm of the Jacobian's determinant in the direction
            that was asked for, of all scales together.
        """
        permutations = [getattr(self, _permutation(scale)) for scale in range(len(self.channels))]
        maps = list(x_or_z)
        if not rev:
            maps = [x.index_select(1, p) for x, p in zip(maps, permutations, strict=True)]
        first = [x[:, :split] for x, split in zip(maps, self.first, strict=True)]
        second = [x[:, split:] for x, split in zip(maps, self.first, strict=True)]
        log_det = maps[0].new_zeros(maps[0].shape[0])
        if rev:
            second, log_det = self._move(second, self.of_second, first, log_det, rev=True)
            first, log_det = self._move(first, self.of_first, second, log_det, rev=True)
        else:
            first, log_det = self._move(first, self.of_first, second, log_det)
            second, log_det = self._move(second, self.of_second, first, log_det)
        maps = [torch.cat(halves, 1) for halves in zip(first, second, strict=True)]
        if rev:
            maps = [x.index_select(1, p.argsort()) for x, p in zip(maps, permutations, strict=True)]
        return tuple(maps), log_det if jac else torch.zeros_like(log_det)

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """What comes out is of the shapes that went in."""
        return input_dims

    def _move(
        self,
        halves: list[Tensor],
        subnet: nn.Module,
        others: list[Tensor],
        log_det: Tensor,
        *,
        rev: bool = False,
    ) -> tuple[list[Tensor], Tensor]:
        """Scale and shift as the other halves say, and count what that does to the volume."""
        if self.precision == "fp32":  # nothing of autocast in what is exported
            said = subnet(others)
        else:
            with in_precision(self.precision, log_det.device):
                said = [each.float() for each in subnet(others)]
        moved = []
        for half, each in zip(halves, said, strict=True):
            steepness, shift = each.chunk(2, dim=1)
            log_scale = self.clamp * _ATAN * (steepness / self.clamp).atan()
            if rev:
                out = (half - shift) * (-log_scale).exp()
                log_det = log_det - log_scale.flatten(1).sum(1)
            else:
                out = half * log_scale.exp() + shift
                log_det = log_det + log_scale.flatten(1).sum(1)
            moved.append(out.clamp(-_LARGEST, _LARGEST))
        return moved, log_det


def _permutation(scale: int) -> str:
    return f"permutation{scale}"
