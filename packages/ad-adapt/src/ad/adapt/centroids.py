"""The nearest of many centroids and the distances to them, which have gradients; no large matrix.

Knows rows and nothing of pictures. All distances of a batch would be gigabytes, and only a few of
each row count. So the nearest are looked for a tile at a time, with the best so far at hand, by
norms and products; what counts is then computed anew from differences, for the gradient, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 1024  # of a tile
_COLUMNS = 1024  # of a tile: centroids
_MEMBERS = 16  # centroids of a group, of which the least distance is looked at first


def nearest_of(rows: Tensor, centroids: Tensor, k: int) -> Tensor:
    """Which centroids are nearest, up to the rounding of norms and products.

    Args:
        rows: ``[N, D]``, float32.
        centroids: ``[M, D]``, float32.
        k: How many; from 1 to ``M``.

    Returns:
        ``[N, k]``, int64.
    """
    centre = centroids.mean(0)  # rounding errors grow with norms
    centred = centroids - centre
    norms = centred.square().sum(1)
    if torch.compiler.is_exporting():  # the number of rows is not known there
        return _search(rows - centre, centred, norms, k)
    tiles = torch.split(rows, _ROWS)
    return torch.cat([_search(tile - centre, centred, norms, k) for tile in tiles])


def _search(rows: Tensor, centroids: Tensor, norms: Tensor, k: int) -> Tensor:
    """The best ``k`` of one tile of centroids after the other, and of all before."""
    found: Tensor | None = None
    square: Tensor | None = None
    for first in range(0, centroids.shape[0], _COLUMNS):
        tile = slice(first, first + _COLUMNS)
        # Less the rows' own norms, which change no order.
        values = torch.addmm(norms[tile], rows, centroids[tile].T, alpha=-2)
        least, places = _least(values, k)
        places = places + first
        if found is not None and square is not None:
            both = torch.cat([square, least], 1)
            least, chosen = both.topk(min(k, both.shape[1]), dim=1, largest=False)
            places = torch.cat([found, places], 1).gather(1, chosen)
        square, found = least, places
    assert found is not None
    return found


def _least(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The least ``k`` values of each row, or all if there are fewer, and their columns.

    The groups with the least minima hold them, so that far fewer numbers are put in order. Column
    ``c`` is in group ``c % groups``, so that groups are columns of slices.
    """
    count = values.shape[1]
    groups = count // _MEMBERS
    if count % _MEMBERS or groups <= k:
        return values.topk(min(k, count), dim=1, largest=False)
    slices = values.view(-1, _MEMBERS, groups)
    best = slices.amin(1).topk(k, dim=1, largest=False).indices
    members = torch.arange(0, count, groups, device=values.device)
    columns = (best[:, :, None] + members).flatten(1)  # [N, k * members]
    least, chosen = values.gather(1, columns).topk(k, dim=1, largest=False)
    return least, columns.gather(1, chosen)


def squared_distances(rows: Tensor, centroids: Tensor, which: Tensor) -> Tensor:
    """Squared distances from each row to its own centroids, from differences.

    Args:
        rows: ``[N, D]``, which gradients go to.
        centroids: ``[M, D]``, to which none go.
        which: ``[N, k]``, int64.

    Returns:
        ``[N, k]``.
    """
    if rows.requires_grad:
        distances: Tensor = _SquaredDistances.apply(rows, centroids, which)
        return distances
    return _differences(rows, centroids, which)


def _differences(rows: Tensor, centroids: Tensor, which: Tensor) -> Tensor:
    if torch.compiler.is_exporting():  # the number of rows is not known there
        return _squares(rows, centroids, which)
    tiles = zip(torch.split(rows, _ROWS), torch.split(which, _ROWS), strict=True)
    return torch.cat([_squares(tile, centroids, own) for tile, own in tiles])


def _squares(rows: Tensor, centroids: Tensor, which: Tensor) -> Tensor:
    columns = [(rows - centroids[one]).square().sum(1) for one in which.unbind(1)]
    return torch.stack(columns, 1)


class _SquaredDistances(torch.autograd.Function):
    """Keeps neither differences nor the chosen centroids for the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, centroids: Tensor, which: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.save_for_backward(rows, centroids, which)
        return _differences(rows, centroids, which)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        rows, centroids, which = ctx.saved_tensors
        total = torch.zeros_like(rows)
        tiles = (torch.split(one, _ROWS) for one in (total, rows, which, gradient))
        for into, tile, own, weights in zip(*tiles, strict=True):
            for column, one in enumerate(own.unbind(1)):
                into.addcmul_(tile - centroids[one], weights[:, column, None], value=2)
        return total, None, None
