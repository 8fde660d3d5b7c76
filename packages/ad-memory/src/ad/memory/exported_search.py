"""The search for nearest neighbours that an exported model carries with it.

A graph is without loops and knows no value of the bank beforehand: what `ad.memory.neighbors`
proves of each query, and what it writes into parts of a result, would cost gigabytes there. So the
bank is gone through a tile at a time, each with a matmul whose best few are kept; the best of all
tiles then get their distances by direct differences. The bank stays float16 in the file.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TILE = 1024  # rows of the bank
_SPARE = 7  # candidates beyond the k that matmuls propose, whose order rounding may have changed
_COLUMNS = 4  # candidates of each query that differences are taken to at a time


def search(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the nearest rows of a bank; see `ad.memory.neighbors.nearest`.

    Which they are is up to the rounding of norms and products; for ``k`` above 1 the nearest of
    ``k + 7`` candidates. The distances are true ones.

    Args:
        queries: ``[Q, D]``, float32.
        bank: ``[M, D]``, floating point.
        k: How many neighbours; from 1 to M.

    Returns:
        Distances ``[Q, k]``, float32, ascending, and indices ``[Q, k]``, int64.
    """
    tiles = torch.split(bank, _TILE)
    centre = tiles[0].float().mean(0)  # one of the rows' midst: rounding errors grow with norms
    centred = queries - centre
    count = 1 if k == 1 else min(k + _SPARE, bank.shape[0])
    found = [
        _best_of(centred, tile.float() - centre, number * _TILE, count)
        for number, tile in enumerate(tiles)
    ]
    least = torch.cat([bound for bound, _ in found], 1)
    row = torch.cat([own for _, own in found], 1)
    if count == 1:
        row = row.gather(1, least.argmin(1, keepdim=True))
        return _squared_distances(queries, bank, row).sqrt(), row
    row = row.gather(1, least.topk(count, dim=1, largest=False).indices)
    square, order = _squared_distances(queries, bank, row).topk(k, dim=1, largest=False)
    return square.sqrt(), row.gather(1, order)


def _best_of(queries: Tensor, rows: Tensor, first: int, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` rows of a tile, or all: squared distances, but for a term, and numbers."""
    bound = torch.addmm(rows.square().sum(1), queries, rows.T, alpha=-2)
    if count == 1:
        place = bound.argmin(1, keepdim=True)
        return bound.gather(1, place), place + first
    best, place = bound.topk(min(count, rows.shape[0]), dim=1, largest=False)
    return best, place + first


def _squared_distances(queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """From each query to its own rows of the bank, ``[Q, K]``."""
    parts = [
        (bank[some].float() - queries[:, None]).square().sum(2)
        for some in torch.split(index, _COLUMNS, dim=1)
    ]
    return torch.cat(parts, 1)
