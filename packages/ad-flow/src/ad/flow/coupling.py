"""The coupling block of the family: FrEIA's `AllInOneBlock`, which permutes by its indices.

Half of the channels is scaled and shifted by what a small network says of the other half; then
every channel is scaled and shifted by learnt numbers, and all are permuted. FrEIA permutes by a
convolution with a ``C x C`` matrix of zeros and ones, which can cost more than all else; here
indices are gathered. For the same weights the results are the same.

Source: Kingma, Dhariwal, "Glow", NeurIPS 2018; Ardizzone et al., FrEIA 0.2 (MIT), whose clamp is
the one that CFlow, FastFlow and U-Flow were published with. FrEIA's later versions clamp otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import learned_buffer
from ad.flow.freia import modules

Subnet = Callable[[int, int], nn.Module]
"""From the channels that come in and those that go out to a network of them."""

_DAMPING = 0.1  # of what the subnet says, so that blocks begin near the identity


@final
class CouplingBlock(modules.InvertibleModule):  # type: ignore[misc]  # FrEIA has no types
    """Affine coupling, a learnt scale and offset of each channel, and a fixed permutation.

    It stands where FrEIA's `AllInOneBlock` does, in its sequences and graphs, and has the same
    parameters under the same names: `from_freia` makes a state of that one fit.

    Args:
        dims_in: Shape of the input without the batch, in a list: ``[(C, h, w)]`` or ``[(C,)]``.
        dims_c: Shapes of the conditions, alike; they are joined to what the subnet sees.
        subnet_constructor: Makes the subnet, from ``ceil(C / 2)`` and the conditions' channels to
            ``2 * floor(C / 2)``, at each position.
        affine_clamping: The largest logarithm of a coupling's scale.
        permute_soft: Whether channels are rotated by a random matrix in place of permuted.
        seed: Seed of the permutation or rotation.
    """

    permutation: Tensor
    """``[C]``: which channel each of the output is; not there where they are rotated."""
    rotation: Tensor
    """``[C, C]``, where they are."""

    def __init__(
        self,
        dims_in: Sequence[tuple[int, ...]],
        dims_c: Sequence[tuple[int, ...]] = (),
        *,
        subnet_constructor: Subnet,
        affine_clamping: float = 2.0,
        permute_soft: bool = False,
        seed: int,
    ) -> None:
        super().__init__(dims_in, dims_c)
        channels = dims_in[0][0]
        per_channel = (1, channels, *[1] * (len(dims_in[0]) - 1))
        self.passive = channels - channels // 2  # the first channels, which the subnet sees
        self.clamp = affine_clamping
        # Starts where its softplus is 10, and so the scale 1.
        start = 2 * math.log(math.exp(5) - 1)
        self.global_scale = nn.Parameter(torch.full(per_channel, start))
        self.global_offset = nn.Parameter(torch.zeros(per_channel))
        self.soft = permute_soft
        if permute_soft:
            self.register_buffer("rotation", random_rotation(channels, seed))
        else:
            learned_buffer(self, "permutation", torch.int64, shape=(channels,), below=channels)
            generator = torch.Generator().manual_seed(seed)
            self.permutation = torch.randperm(channels, generator=generator)
        seen = self.passive + sum(shape[0] for shape in dims_c)
        self.subnet = subnet_constructor(seen, 2 * (channels - self.passive))

    def forward(
        self,
        x_or_z: Sequence[Tensor],
        c: Sequence[Tensor] = (),
        rev: bool = False,
        jac: bool = True,
    ) -> tuple[tuple[Tensor], Tensor]:
        """Transform a batch, or transform it back.

        Args:
            x_or_z: One tensor ``[B, C, ...]``.
            c: The conditions, ``[B, K, ...]`` each.
            rev: Whether to go back.
            jac: Whether the log-determinant is wanted; without, it is 0.

        Returns:
            The tensor, and ``[B]``: the logarithm of the Jacobian's determinant in the direction
            that was asked for.
        """
        x = x_or_z[0]
        scale = 0.1 * F.softplus(self.global_scale, beta=0.5)
        if rev:
            x = (self._permute(x, back=True) - self.global_offset) / scale
        passive, active = x[:, : self.passive], x[:, self.passive :]
        said = _DAMPING * self.subnet(torch.cat([passive, *c], 1) if c else passive)
        log_scale, shift = said.chunk(2, dim=1)
        log_scale = self.clamp * log_scale.tanh()
        active = (active - shift) * (-log_scale).exp() if rev else active * log_scale.exp() + shift
        out = torch.cat([passive, active], 1)
        if not rev:
            out = self._permute(out * scale + self.global_offset)
        if not jac:
            return (out,), x.new_zeros(x.shape[0])
        positions = math.prod(x.shape[2:])
        log_det = log_scale.flatten(1).sum(1) + positions * scale.log().sum()
        return (out,), -log_det if rev else log_det

    def output_dims(self, input_dims: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """What comes out is of the shape that went in."""
        return input_dims

    def _permute(self, x: Tensor, *, back: bool = False) -> Tensor:
        if self.soft:
            rotation = self.rotation.mT if back else self.rotation
            return torch.einsum("ij,bj...->bi...", rotation, x)
        return x.index_select(1, self.permutation.argsort() if back else self.permutation)


def random_rotation(channels: int, seed: int) -> Tensor:
    """A rotation that is drawn uniformly.

    Args:
        channels: Its number of dimensions.
        seed: Of the draw.

    Returns:
        ``[channels, channels]``, orthogonal with determinant 1.
    """
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(channels, channels, dtype=torch.float64, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    q = q * r.diagonal().sign()  # without it, not every direction would be as likely
    q[:, 0] *= torch.linalg.slogdet(q).sign
    return q.float()  # type: ignore[no-any-return]  # untyped in torch


def from_freia(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What FrEIA's blocks have learnt, as `CouplingBlock` takes it.

    Args:
        state: Of one `AllInOneBlock`, or of a network of them in which blocks are named alike.

    Returns:
        The same tensors, with indices or a rotation in place of each permuting convolution.
    """
    taken: dict[str, Tensor] = {}
    for name, tensor in state.items():
        owner, _, own = name.rpartition(".")
        prefix = f"{owner}." if owner else ""
        if own == "w_perm":
            matrix = tensor.flatten(1)
            if ((matrix == 0) | (matrix == 1)).all():
                taken[f"{prefix}permutation"] = matrix.argmax(1)
            else:
                taken[f"{prefix}rotation"] = matrix
        elif own != "w_perm_inv":
            taken[name] = tensor
    return taken
