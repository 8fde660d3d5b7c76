"""Nearest neighbours in a bank of rows: exact, tiled, and never a matrix of all distances.

Knows rows and nothing of pictures. How a search goes, for a thousand queries at a time:

1. A matmul gives lower bounds on the squared distances to all rows of the bank. The bank's
   rows are dealt into groups of up to 4; only the least bound of each group is kept. A small bank
   has groups of 1 and the second bound only.
2. The distances to the members of the best groups are taken by direct differences, which know
   no cancellation: a row's distance to itself is 0.
3. If the bounds of all other groups, less the rounding error they can have, are above the k-th
   of those distances, the nearest are proven. For queries without the proof more groups are
   looked into, then a tighter bound is taken, and at last float64.

The first bound is cheap: rows are rotated to the bank's principal axes, the leading coordinates
are kept, and the norm of the others is one coordinate more. By the triangle inequality that
makes no distance larger. Features of a network have most of their variance in few axes, so most
queries are proven with a fraction of the multiplications. The second bound is the distance.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from ad.core import learned_buffer
from ad.core.errors import DataError, SettingError
from ad.memory import exported_search, screening
from ad.memory.axes import leading_axes
from ad.memory.bounds import Bound
from ad.memory.distances import squared_distances
from ad.memory.faiss_index import FaissIndex, FaissSettings, import_faiss

# Measured on features of real pictures, bank 40,960 x 384; see benchmarks/neighbors.py.
_KEPT_VARIANCE = 0.94  # share of the variance in the leading axes of the first bound
_MEMBERS = 4  # rows of a group
_EXACT_LOOKS = (3, 15, 63)  # groups looked into beyond the k that can hold the nearest
_FEW_ROWS = 4096  # a smaller bank is multiplied through sooner than candidates are looked at

_PRECISION_LOCK = threading.Lock()


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the nearest rows of a bank by Euclidean distance.

    Args:
        queries: ``[Q, D]``, floating point.
        bank: ``[M, D]``, floating point.
        k: How many neighbours; from 1 to M.

    Returns:
        Distances ``[Q, k]``, float32, ascending, and indices ``[Q, k]``, int64.

    Raises:
        SettingError: If ``k`` is out of range or the shapes do not fit.
    """
    return Index(bank).search(queries, k)


def as_stored(rows: Tensor) -> Tensor:
    """Rows in float16, the type of a bank.

    Args:
        rows: ``[N, D]``, floating point.

    Raises:
        DataError: If a value is no finite number, or beyond float16: distances to it would be
            infinite.
    """
    stored = rows.to(torch.float16)
    if stored.isfinite().all():
        return stored
    if not rows.isfinite().all():
        msg = (
            "Features of a patch are no finite numbers: the backbone's weights are not what they "
            "should be. Look at where they come from."
        )
        raise DataError(msg)
    msg = (
        f"Features as large as {rows.abs().max():,.0f} cannot be remembered: patches are stored in "
        f"float16, which ends at {torch.finfo(torch.float16).max:,.0f}. Choose other `layers` or "
        "another `backbone`, or a model that stores float32, such as `padim`."
    )
    raise DataError(msg)


@final
class NearestNeighbors(nn.Module):
    """A memory bank that answers which of its rows are nearest.

    The bank is kept in float16, in memory and when saved: that moves distances by less than
    1 in 1000. It is made ready for the search once, at the first call.

    Args:
        faiss: Search by an index of faiss instead, which is exact if that is flat. An exported
            model searches as `ad.memory.exported_search` does, whatever this says.

    Raises:
        MissingExtraError: If faiss is asked for and not installed.
    """

    bank: Tensor

    def __init__(self, *, faiss: FaissSettings | None = None) -> None:
        super().__init__()
        learned_buffer(self, "bank", torch.float16, shape=("M", "D"))
        self.faiss = faiss
        if faiss is not None:
            import_faiss()
        self._index: Index | FaissIndex | None = None
        self.register_load_state_dict_post_hook(_forget_index)  # type: ignore[no-untyped-call]  # untyped in torch

    def remember(self, bank: Tensor) -> None:
        """Take over a bank, ``[M, D]``, floating point.

        Raises:
            DataError: If a value is no finite number, or beyond float16.
        """
        with torch.inference_mode(False):
            self.bank = as_stored(bank).clone()

    def forget_index(self) -> None:
        """Make the index anew at the next search, since the bank or the search is another."""
        self._index = None

    def forward(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest rows; see `nearest`."""
        with torch.autocast(queries.device.type, enabled=False):  # distances are always fp32
            if torch.compiler.is_exporting():
                _check(self.bank, queries, k)
                return exported_search.search(queries.float(), self.bank, k)
            if self._index is None or self._index.bank is not self.bank:
                self._index = None  # its memory is free before the next one's is taken
                if self.faiss is None:
                    self._index = Index(self.bank)
                else:
                    self._index = FaissIndex(self.bank, self.faiss)
            _check(self.bank, queries, k)
            return self._index.search(queries, k)


@final
class Index:
    """A bank made ready for many searches by torch; see `nearest` for the arguments.

    A large bank is looked through by `ad.memory.screening` where the processor multiplies 8-bit
    numbers; what that leaves, and other banks, by bounds in float32.
    """

    def __init__(self, bank: Tensor) -> None:
        if bank.ndim != 2 or bank.numel() == 0:
            msg = f"A bank must be `[M, D]` with at least one row; got {list(bank.shape)}."
            raise SettingError(msg)
        self.bank = bank
        self.few = len(bank) < _FEW_ROWS
        self.members = 1 if self.few else _MEMBERS
        self.groups = -(-len(bank) // self.members)
        self.centre = bank.float().mean(0)
        self.screen: screening.Screen | None = None
        large = len(bank) >= _FEW_ROWS // 2  # the screen pays sooner; measured
        if large and screening.pays(bank.device) and self.centre.isfinite().all():
            self.screen = screening.Screen(bank, self.centre)

    @cached_property
    def bounds(self) -> list[Bound]:
        """Bounds on all distances, the cheap one first; made when the screen leaves queries."""
        bounds = [Bound(self.bank, self.centre, None)]
        if not self.few and self.bank.device.type != "mps":  # which has no float64
            axes = leading_axes(self.bank, self.centre, _KEPT_VARIANCE)
            if 2 * axes.shape[1] < self.bank.shape[1]:
                bounds.insert(0, Bound(self.bank, self.centre, axes))
        return bounds

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Find the ``k`` nearest rows of each query; see `nearest`."""
        _check(self.bank, queries, k)
        queries = queries.float()
        if self.screen is not None and k <= _most_screened(self.bank):
            return self._search_screened(self.screen, queries, k)
        return self._search_by_bounds(queries, k)

    def _search_screened(
        self, screen: screening.Screen, queries: Tensor, k: int
    ) -> tuple[Tensor, Tensor]:
        distance = queries.new_empty(len(queries), k)
        index = torch.zeros(len(queries), k, dtype=torch.int64)
        unsure = torch.zeros(len(queries), dtype=torch.bool)

        def reach(some: slice, nearest: Tensor) -> Tensor:
            return squared_distances(queries[some], self.bank, nearest).amax(1).sqrt()

        for found in screen.pairs(queries, k, reach):
            own = queries[found.queries]
            parts = [
                squared_distances(own[some], self.bank, row[:, None])[:, 0]
                for some, row in zip(
                    torch.split(found.query, 2048), torch.split(found.row, 2048), strict=True
                )
            ]
            square, row = _least_of_each(len(own), found.query, torch.cat(parts), found.row, k)
            distance[found.queries], index[found.queries] = square.sqrt_(), row
            unsure[found.queries] = found.unsure
        if unsure.any():
            distance[unsure], index[unsure] = self._search_by_bounds(queries[unsure], k)
        return distance, index

    def _search_by_bounds(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        tile = max(64, min(1024, 2**23 // self.groups))
        with _float32_matmuls():
            parts = [self._search_exact(some, k) for some in torch.split(queries, tile)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _search_exact(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        distance = queries.new_empty(len(queries), k)
        index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
        unsure = torch.arange(len(queries), device=queries.device)
        for bound in self.bounds:
            least, margin = bound.least_of_groups(queries[unsure], self.groups)
            for spare in _EXACT_LOOKS:
                found = self._look(queries[unsure], least, margin, k, spare)
                distance[unsure], index[unsure] = found.distance, found.row
                left = (~found.proven).nonzero()[:, 0]
                unsure, least, margin = unsure[left], least[left], margin[left]
                if len(unsure) == 0:
                    return distance, index
        index[unsure] = self._search_in_float64(queries[unsure], k)
        square = squared_distances(queries[unsure], self.bank, index[unsure])
        square, order = square.sort(dim=1, stable=True)
        distance[unsure], index[unsure] = square.sqrt_(), index[unsure].gather(1, order)
        return distance, index

    def _search_in_float64(self, queries: Tensor, k: int) -> Tensor:
        """Rows of the ``k`` nearest, ``[Q, k]``: for queries with very many rows equally far."""
        centre = self.centre.cpu().double()
        q = queries.cpu().double() - centre  # on the CPU: some devices have no float64
        best = q.new_full((len(q), k), torch.inf)
        row = torch.zeros(len(q), k, dtype=torch.int64)
        first = 0
        for some in torch.split(self.bank, 8192):
            rows = some.cpu().double() - centre
            square = torch.addmm(rows.square().sum(1), q, rows.T, alpha=-2)
            both = torch.cat([best, square], 1)
            best, place = both.topk(k, dim=1, largest=False)
            new = place >= k
            row = torch.where(new, first + place - k, row.gather(1, place.clamp_max(k - 1)))
            first += len(some)
        return row.to(queries.device)

    def _look(self, queries: Tensor, least: Tensor, margin: Tensor, k: int, spare: int) -> _Found:
        """Take the nearest among the members of the ``k + spare`` best groups."""
        count = min(k + spare, self.groups)
        shown = min(count + 1, self.groups)
        bound, group = least.topk(shown, dim=1, largest=False)
        member = torch.arange(self.members, device=group.device) * self.groups
        index = (group[:, :count, None] + member).flatten(1)  # [Q, candidates]
        square = squared_distances(queries, self.bank, index.clamp_max(len(self.bank) - 1))
        square = square.masked_fill(index >= len(self.bank), torch.inf)
        square, order = square.topk(k, dim=1, largest=False)
        proven = torch.ones_like(margin, dtype=torch.bool)
        if shown > count:
            proven = ~(bound[:, count] - margin < square[:, -1])  # NaN needs no second look
        return _Found(square.sqrt(), index.gather(1, order), proven)


class _Found(NamedTuple):
    distance: Tensor
    """``[Q, k]``, ascending."""
    row: Tensor
    """``[Q, k]``, int64: rows of the bank."""
    proven: Tensor
    """``[Q]``: whether no row outside can be nearer."""


def _least_of_each(
    num_queries: int, query: Tensor, square: Tensor, row: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Of pairs ``[P]`` the ``k`` least squares of each query, and their rows; the first of ties."""
    least = square.new_empty(num_queries, k)
    first = row.new_empty(num_queries, k)
    for place in range(k):
        own = square.new_full((num_queries,), torch.inf)
        own.scatter_reduce_(0, query, square, "amin")
        tie = square == own[query]
        which = row.new_full((num_queries,), torch.iinfo(row.dtype).max)
        which.scatter_reduce_(0, query[tie], row[tie], "amin")
        least[:, place], first[:, place] = own, which
        square = square.masked_fill(row == which[query], torch.inf)
    return least, first


@contextmanager
def _float32_matmuls() -> Iterator[None]:
    # What is inside a matmul of float32 numbers; its result is float32 in any case. These are
    # settings of the process: one search at a time, and matmuls of others feel them for as long.
    settings: Any = torch.backends  # untyped in part
    backends = (settings.mkldnn.matmul, settings.cuda.matmul)
    with _PRECISION_LOCK:
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "ieee"
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


def _most_screened(bank: Tensor) -> int:
    # Beyond, bundles with rows may be too few; and pairs are gone through for each neighbour.
    return max(1, min(16, len(bank) // 32))


def _check(bank: Tensor, queries: Tensor, k: int) -> None:
    if not 1 <= k <= len(bank):
        msg = f"`k` must be between 1 and the number of rows in the bank, {len(bank)}; got {k}."
        raise SettingError(msg)
    if queries.ndim != 2 or queries.shape[1] != bank.shape[1]:
        msg = f"Queries must be `[Q, {bank.shape[1]}]` like the bank; got {list(queries.shape)}."
        raise SettingError(msg)


def _forget_index(module: NearestNeighbors, incompatible_keys: object) -> None:
    module.forget_index()  # the bank's content changed, in the same tensor
