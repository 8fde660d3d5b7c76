"""Squared distances by direct differences, which know no cancellation."""

from __future__ import annotations

import torch
from torch import Tensor


def squared_distances(queries: Tensor, bank: Tensor, index: Tensor) -> Tensor:
    """From each query to its own rows of a bank.

    Args:
        queries: ``[Q, D]``, float32.
        bank: ``[M, D]``, floating point.
        index: ``[Q, K]``, int64: each query's rows.

    Returns:
        ``[Q, K]``, float32; the same bits for a query and a row, whatever else is asked for.
    """
    few = max(1, 2048 // index.shape[1])  # as many as the processor's cache holds
    parts = [
        (bank[i].float() - q[:, None]).square_().sum(2)
        for q, i in zip(torch.split(queries, few), torch.split(index, few), strict=True)
    ]
    return torch.cat(parts)
