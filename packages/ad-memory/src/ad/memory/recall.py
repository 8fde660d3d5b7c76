"""How many of the nearest an index that is not exact finds.

Patches that were learnt from and are not in the bank ask; the bank's own rows, each without
itself, where all of them are in it. What is found is held to the exact search.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ad.memory.coreset import random_rows
from ad.memory.faiss_index import FaissSettings
from ad.memory.neighbors import Index, NearestNeighbors

_QUERIES = 2048
_ENOUGH = 0.95  # of the nearest, below which one is told how to find more


class Recall(NamedTuple):
    """Shares of the nearest rows that were found, from 0 to 1."""

    settings: FaissSettings
    rows: int
    """Of the bank."""
    queries: int
    k: int
    """Over how many neighbours a score goes."""
    first: float
    """Of the nearest row."""
    all: float
    """Of the ``k`` nearest."""
    excess: float
    """By what part distances over those were too large, on average."""

    def told(self) -> str:
        """A note for the user."""
        nearest = f"{self.first:.1%} of the nearest patches"
        if self.k > 1:
            nearest += f" and {self.all:.1%} of the {self.k} nearest"
        how = self.settings.described(self.rows)
        text = (
            f"faiss ({how}) finds {nearest} that the exact search finds, asked for "
            f"{self.queries:,} patches of good pictures; distances are {self.excess:.2%} too large "
            "on average."
        )
        if min(self.first, self.all) >= _ENOUGH:
            return text
        larger = "nprobe" if self.settings.index == "ivf" else "ef_search"
        return (
            f"{text} That is little: choose a larger `{larger}`, or `knn=torch`, which is exact: "
            f"ad train ... --set {larger}=N"
        )


def measured(
    memory: NearestNeighbors, patches: Tensor, chosen: Tensor, k: int, *, seed: int
) -> Recall:
    """Hold what a memory finds to what there is.

    Args:
        memory: With a bank: ``patches[chosen]``.
        patches: ``[N, D]``, floating point.
        chosen: ``[M]``, int64.
        k: Over how many neighbours a score goes; from 1 to M.
        seed: Of which patches ask.
    """
    bank = memory.bank
    outside = torch.ones(len(patches), dtype=torch.bool)
    outside[chosen] = False
    rows = outside.nonzero()[:, 0]
    own = len(rows) == 0  # all are in the bank, in which each would find itself
    if own:
        rows = chosen
    rows = rows[random_rows(rows[:, None], min(_QUERIES, len(rows)), seed=seed)]
    queries = patches[rows].to(bank.device).float()
    skipped = int(own and len(bank) > k)
    true, exact = (part[:, skipped:] for part in Index(bank).search(queries, k + skipped))
    distance, found = (part[:, skipped:] for part in memory(queries, k + skipped))
    # Of rows equally far either will do, so that what counts is the distance.
    first = (distance[:, 0] <= true[:, 0]) | (found[:, 0] == exact[:, 0])
    hit = torch.stack([(exact == one[:, None]).any(1) for one in found.unbind(1)], dim=1)
    every = (hit | (distance <= true[:, -1:])).float()
    excess = (distance.sum() / true.sum().clamp_min(torch.finfo(true.dtype).tiny) - 1).clamp_min(0)
    return Recall(
        memory.faiss or FaissSettings(),
        len(bank),
        len(queries),
        k,
        float(first.float().mean()),
        float(every.mean()),
        float(excess),
    )
