"""Lower bounds on the squared distances to all rows of a bank, by matmuls in float32."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from ad.memory.axes import along


@final
class Bound:
    """Rows whose distances are at most those of the bank's rows.

    Args:
        bank: ``[M, D]``.
        centre: ``[D]``; taken off all rows, since rounding errors grow with their norms.
        axes: ``[D, r]``, orthonormal, float64; None keeps all coordinates as they are.
    """

    def __init__(self, bank: Tensor, centre: Tensor, axes: Tensor | None) -> None:
        self.centre = centre
        self.axes = axes
        self.rows = torch.cat([self._reduced(some) for some in torch.split(bank, 16384)])
        self.norm = self.rows.square().sum(1)
        self.largest = self.norm.max().sqrt()

    def _reduced(self, rows: Tensor) -> Tensor:
        if self.axes is None:
            return rows.float() - self.centre
        return torch.cat(along(rows.double() - self.centre, self.axes), 1).float()

    def least_of_groups(self, queries: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        """The least bound of each group, ``[Q, groups]``, squared, and its error, ``[Q]``.

        Row ``i`` of the bank is in group ``i % groups``, so that groups are columns of tiles.
        """
        q = self._reduced(queries)
        q_norm = q.square().sum(1, keepdim=True)
        least = torch.addmm(self.norm[:groups], q, self.rows[:groups].T, alpha=-2)
        product = torch.empty_like(least)
        for low in range(groups, len(self.rows), groups):
            rows, norm = self.rows[low : low + groups], self.norm[low : low + groups]
            part, so_far = product[:, : len(rows)], least[:, : len(rows)]
            torch.addmm(norm, q, rows.T, alpha=-2, out=part)
            torch.minimum(so_far, part, out=so_far)
        # The textbook bound on the error of a sum of products, with room for the norms.
        margin = (q.shape[1] + 8) * 2.0**-23 * (q_norm.sqrt() + self.largest) ** 2
        return least.add_(q_norm), margin[:, 0]
