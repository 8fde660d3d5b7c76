"""Principal components: the directions in which features vary most, and how much.

For every model that brings features down to few numbers, or looks at what is left beside them.
Knows vectors only. All is computed in float64, whatever the vectors are in, and nothing that is
handed in is changed.

Source: Jolliffe, "Principal Component Analysis", 2002; the components of few long vectors from the
products of the vectors with each other: section 3.5 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ad.core.errors import DataError

_SAME = 1e-6  # rows that differ by less, against the largest number, are the same up to rounding
_NO_VARIANCE = 1e-10  # against the largest: a direction of rounding errors
_CHUNK = 4096  # rows or columns that are in float64 at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class PrincipalComponents:
    """A mean and the directions of largest variance through it, the largest first."""

    mean: Tensor
    """``[D]``, float64."""
    directions: Tensor
    """``[k, D]``, orthonormal, in the vectors' own precision; the largest entry of each is
    positive, since which way it points is otherwise arbitrary."""
    variances: Tensor
    """``[k]``, float64: of the vectors along each direction, over ``N - 1``."""


def principal_components(
    rows: Tensor, most: int | None = None, *, share: float = 1.0
) -> PrincipalComponents:
    """The principal components of vectors, from the smaller of their two Gram matrices.

    Args:
        rows: ``[N, D]``, ``N`` from 2. Memory beside it: ``min(N, D)^2`` numbers in float64.
        most: How many directions at most; None for all. Those without variance are left out.
        share: Of the directions the fewest that have more than this share of all variance, from 0
            to 1; 1 for all.

    Raises:
        DataError: If all rows are the same up to rounding, or hold what is no finite number.
    """
    mean = torch.cat([some.double().mean(0) for some in torch.split(rows, _CHUNK, dim=1)])
    few = rows.shape[0] <= rows.shape[1]
    side = min(rows.shape)
    gram = torch.zeros(side, side, dtype=torch.float64, device=rows.device)
    spread = torch.zeros((), dtype=torch.float64, device=rows.device)
    for gap in _centred(rows, mean, dim=int(few)):
        spread = spread.maximum(gap.abs().amax())
        gram.addmm_(gap, gap.T) if few else gram.addmm_(gap.T, gap)
    if not gram.isfinite().all():
        msg = (
            "Features of the pictures are no finite numbers: the backbone's weights are not what "
            "they should be. Look at where they come from."
        )
        raise DataError(msg)
    if spread <= _SAME * rows.abs().amax():
        msg = (
            f"All {len(rows)} normal pictures have the very same features: there is nothing to "
            "learn from their differences. Train on different pictures of good parts."
        )
        raise DataError(msg)
    squares, vectors = _descending(gram)
    there = int((squares > _NO_VARIANCE * squares[0]).sum())
    kept = min(there, len(squares) if most is None else most)
    if share < 1:
        held = squares[:there].cumsum(0) / squares[:there].sum()
        kept = min(kept, int((held <= share).sum()) + 1)
    squares, vectors = squares[:kept], vectors[:, :kept]
    if few:
        turn = (vectors / squares.sqrt()).T  # [k, N]
        parts = [(turn @ gap).to(rows.dtype) for gap in _centred(rows, mean, dim=1)]
        directions = torch.cat(parts, dim=1)
    else:
        directions = vectors.T.to(rows.dtype)
    variances = squares / (len(rows) - 1)
    return PrincipalComponents(mean=mean, directions=_pointed(directions), variances=variances)


def leading_directions(covariance: Tensor, count: int) -> Tensor:
    """The directions of largest variance of a covariance that was summed elsewhere.

    Args:
        covariance: ``[D, D]``, float64, symmetric.
        count: How many, with variance or without.

    Returns:
        ``[count, D]``, float64, orthonormal, the one of the largest variance first; the largest
        entry of each is positive.
    """
    return _pointed(_descending(covariance)[1][:, :count].T)


def _centred(rows: Tensor, mean: Tensor, *, dim: int) -> Iterator[Tensor]:
    """The rows less their mean, in float64, a piece at a time along one dimension."""
    means = torch.split(mean, _CHUNK) if dim == 1 else None
    for number, some in enumerate(torch.split(rows, _CHUNK, dim=dim)):
        yield some.double() - (mean if means is None else means[number])


def _descending(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors, ``[n]`` and ``[D, n]``, the largest first."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0), vectors.flip(1)


def _pointed(directions: Tensor) -> Tensor:
    """Turn each direction, ``[k, D]``, so that its largest entry is positive."""
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return (directions * largest.sign()).contiguous()
