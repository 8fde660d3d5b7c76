"""Nearest neighbours by faiss: all rows, or some of them, which is not exact.

Source: Douze et al., "The Faiss library", arXiv 2401.08281; IVF: Jégou, Douze, Schmid, "Product
Quantization for Nearest Neighbor Search", PAMI 2011; HNSW: Malkov, Yashunin, PAMI 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from ad.core.errors import MissingExtraError, SettingError, how_to_install
from ad.memory.distances import squared_distances

Kind = Literal["flat", "ivf", "hnsw"]


@dataclass(frozen=True, slots=True)
class FaissSettings:
    """How faiss searches; measured defaults, see ``benchmarks/neighbors.py``.

    Raises:
        SettingError: If a setting is for another index than the one chosen.
    """

    index: Kind = "flat"
    """``flat``: all rows. ``ivf``: those of the cells nearest to a query. ``hnsw``: a graph of
    neighbours is walked along; it takes long to make and needs most memory."""
    nlist: int = 0
    """Cells of ``ivf``; 0 for 4 times the root of the bank's rows."""
    nprobe: int = 16
    """Cells of ``ivf`` that a query looks into."""
    hnsw_m: int = 16
    """Neighbours of a row in the graph of ``hnsw``: faiss's M."""
    ef_search: int = 32
    """How many candidates a walk in ``hnsw`` keeps: faiss's efSearch."""

    def __post_init__(self) -> None:
        plain = type(self).__dataclass_fields__
        for name, index in _FOR.items():
            if index != self.index and getattr(self, name) != plain[name].default:
                msg = (
                    f"`{name}` is for `index={index}`; the index is `{self.index}`. Leave `{name}` "
                    f"out, or choose `index={index}`."
                )
                raise SettingError(msg)

    def described(self, rows: int) -> str:
        """The index and its settings for a bank of so many rows, as one would type them."""
        if self.index == "ivf":
            return f"index=ivf, nlist={self.cells(rows)}, nprobe={self.nprobe}"
        if self.index == "hnsw":
            return f"index=hnsw, hnsw_m={self.hnsw_m}, ef_search={self.ef_search}"
        return "index=flat"

    def cells(self, rows: int) -> int:
        """How many cells a bank of so many rows is divided into: no more than rows."""
        return min(rows, self.nlist or round(4 * math.sqrt(rows)))


_FOR: dict[str, Kind] = {"nlist": "ivf", "nprobe": "ivf", "hnsw_m": "hnsw", "ef_search": "hnsw"}


@final
class FaissIndex:
    """A bank in an index of faiss; a flat one gives the answers of `ad.memory.neighbors.Index`.

    The same bank gives the same index, which is made anew wherever a model is loaded: nothing of
    faiss's own files is read.

    Args:
        bank: ``[M, D]``, floating point.
        settings: Which index.
    """

    def __init__(self, bank: Tensor, settings: FaissSettings | None = None) -> None:
        faiss = import_faiss()
        self.bank = bank
        self.settings = settings or FaissSettings()
        self.centre = bank.float().mean(0)
        rows = (bank.float() - self.centre).cpu().numpy()
        self.flat = faiss.IndexFlatL2(bank.shape[1])
        self.index = self.flat
        if self.settings.index == "ivf":
            quantizer = faiss.IndexFlatL2(bank.shape[1])
            self.index = faiss.IndexIVFFlat(
                quantizer, bank.shape[1], self.settings.cells(len(bank))
            )
            self.index.cp.min_points_per_centroid = 1  # or small banks are told of on stderr
            self.index.train(rows)
            self.index.nprobe = self.settings.nprobe
        elif self.settings.index == "hnsw":
            self.index = faiss.IndexHNSWFlat(bank.shape[1], self.settings.hnsw_m)
            self.index.hnsw.efSearch = self.settings.ef_search
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # of several, the order in which a graph grows is chance
        try:
            self.index.add(rows)
        finally:
            faiss.omp_set_num_threads(threads)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest rows of those looked at; distances are true ones.

        Where that were fewer than ``k``, more are looked at.
        """
        queries = queries.float()
        centred = (queries - self.centre).cpu().numpy()
        _, place = self.index.search(centred, k)
        few = (place < 0).any(1)
        if few.any() and self.index is not self.flat:
            _, place[few] = self._all().search(centred[few], k)
        index = torch.from_numpy(place).to(queries.device)
        # faiss gives squared distances, by norms and products; near 0 those have no digit left.
        square, order = squared_distances(queries, self.bank, index).sort(dim=1, stable=True)
        return square.sqrt(), index.gather(1, order)

    def _all(self) -> Any:  # noqa: ANN401 - faiss has no types
        if self.flat.ntotal == 0:
            self.flat.add((self.bank.float() - self.centre).cpu().numpy())
        return self.flat


def import_faiss() -> Any:  # noqa: ANN401 - faiss has no types
    """The module.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        msg = (
            '`knn="faiss"` needs faiss, which is not installed.\n'
            'hint: choose `knn="torch"`, which is exact, or '
            f"{how_to_install('ad-memory', 'faiss')}"
        )
        raise MissingExtraError(msg) from error
    return faiss
