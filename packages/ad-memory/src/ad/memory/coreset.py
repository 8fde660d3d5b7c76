"""Few rows that stand for many: greedy k-center, k-means medoids, random.

Knows rows of features and nothing of pictures. Every selection returns indices of original
rows, each once, and is repeatable from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from ad.core import Advance
from ad.core.errors import DataError, SettingError
from ad.memory.neighbors import Index


def k_center_greedy(
    features: Tensor, n: int, *, seed: int = 0, start: int = 10, advance: Advance | None = None
) -> Tensor:
    """Pick rows one by one, each the farthest from all that were picked before it.

    The rule: a row's key is at first its mean distance to ``start`` random rows (which are not
    thereby picked). Again and again the row with the largest key is picked, the first of equal
    ones, and every key becomes the minimum of itself and the distance to that row.

    The picks are exactly those of this rule in float64, but no pick costs a pass over all rows.
    Keys only ever shrink, so an outdated key is an upper bound. In turns,

    1. the rows with the largest keys, a twelfth of all, are brought up to date by matmuls;
    2. rows are picked among the best of those, by the distances between them, for as long as
       the best key exceeds every key left outside, outdated or not.

    About half of all distances are never computed, because most rows fall below the last
    pick's key early, and matmuls are bound by arithmetic where a pass per pick is bound by
    memory.

    Keys are squared distances. Squaring keeps the order, and the first key is the square of
    the mean distance, not a mean of squares, so the picks are those of distances. Squares are
    rounded to 2**-42 of the largest squared norm: equal rows then have equal keys, whatever the
    order of summation in a matmul.

    Needs ``[n, D]`` float64 and some 32 bytes a row beyond ``features``.

    Args:
        features: ``[N, D]``, any floating type.
        n: How many rows to pick; from 1 to N.
        seed: Seed of the random rows that the first keys are measured from.
        start: How many random rows those are; all, if there are fewer.
        advance: Called with the number of rows picked since the last call.

    Returns:
        ``[n]``, int64, on the device of ``features``; in the order of picking.

    Raises:
        SettingError: If ``n`` or ``start`` is out of range.
        DataError: If a feature is not finite.

    Source:
        Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022,
        algorithm 1, with the start of the authors' code.
    """
    _check_count(features, n)
    if start < 1:
        msg = f"`start` must be at least 1; got {start}."
        raise SettingError(msg)
    rows = _Rows(features)
    num_rows = len(features)
    num_dated = max(4096, num_rows // 12)  # rows brought up to date in one turn; measured
    num_inside = min(2048, num_dated // 4)  # rows that one turn picks among; measured
    key = rows.mean_distance(_random(features, min(start, num_rows), seed)).square_().round_()
    picks = _Picks(rows, n)
    while picks.count < n:
        dated, bound = _largest(key, num_dated)
        _bring_up_to_date(key, dated, rows, picks)
        inside, inner_bound = _largest(key[dated], num_inside)
        inside, bound = dated[inside], max(bound, inner_bound)
        inside = inside[key[inside] > bound]
        if len(inside) == 0:  # all keys sank below those outside: next turn
            continue
        between = rows.squared_distances(inside)
        chosen = inside[_pick_while_above(bound, key[inside], between, n - picks.count)]
        picks.add(chosen)
        key[chosen] = _PICKED
        if advance is not None:
            advance(len(chosen))
    return picks.index


def k_means_medoids(
    features: Tensor,
    n: int,
    *,
    seed: int = 0,
    iterations: int = 10,
    advance: Advance | None = None,
) -> Tensor:
    """Pick the member nearest to the centre of each of ``n`` k-means clusters.

    Lloyd's algorithm from ``n`` random rows. Clusters share no member, so no row is picked
    twice; in place of clusters that ended empty, the rows farthest from their centres are.

    Args:
        features: ``[N, D]``, any floating type; distances in float32.
        n: How many rows to pick; from 1 to N.
        seed: Seed of the random rows that are the first centres.
        iterations: How often the centres are moved, unless they stop moving before.
        advance: Called with parts of ``n`` that add up to it.

    Returns:
        ``[n]``, int64, on the device of ``features``.

    Raises:
        SettingError: If ``n`` or ``iterations`` is out of range.
    """
    _check_count(features, n)
    if iterations < 1:
        msg = f"`iterations` must be at least 1; got {iterations}."
        raise SettingError(msg)
    centres = features[_random(features, n, seed)].float()
    distance, label = _assign(features, centres)
    done = 0
    for iteration in range(iterations):
        centres = _means(features, label, centres)
        distance, moved = _assign(features, centres)
        converged = torch.equal(moved, label)
        label = moved
        part = n if converged or iteration + 1 == iterations else n * (iteration + 1) // iterations
        if advance is not None:
            advance(part - done)
        done = part
        if converged:
            break
    order = torch.argsort(distance, stable=True)
    order = order[torch.argsort(label[order], stable=True)]  # by cluster, nearest member first
    clusters = label[order]
    is_first = torch.ones_like(clusters, dtype=torch.bool)
    is_first[1:] = clusters[1:] != clusters[:-1]
    medoids = order[is_first]
    distance[medoids] = -1.0
    return torch.cat([medoids, distance.topk(n - len(medoids)).indices])


def random_rows(features: Tensor, n: int, *, seed: int = 0) -> Tensor:
    """Pick rows at random.

    Args:
        features: ``[N, D]``.
        n: How many rows to pick; from 1 to N.
        seed: Seed of the choice.

    Returns:
        ``[n]``, int64, on the device of ``features``, each once.

    Raises:
        SettingError: If ``n`` is out of range.
    """
    _check_count(features, n)
    return _random(features, n, seed)


def project(features: Tensor, *, num_dims: int = 128, seed: int = 0) -> Tensor:
    """Map rows linearly to few dimensions by a Gaussian matrix; distances keep their proportions.

    The selections above then cost less by the ratio of the dimensions. The squared distance of
    two rows changes by a factor of 1 on average, with standard deviation sqrt(2 / num_dims).

    Args:
        features: ``[N, D]``, any floating type.
        num_dims: Dimensions to map to; the paper's code uses 128.
        seed: Seed of the matrix.

    Returns:
        ``[N, num_dims]``, float32; the rows themselves if they have no more dimensions.

    Raises:
        SettingError: If ``num_dims`` is less than 1.
    """
    if num_dims < 1:
        msg = f"`num_dims` must be at least 1; got {num_dims}."
        raise SettingError(msg)
    if features.shape[1] <= num_dims:
        return features.float()
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(features.shape[1], num_dims, generator=generator) / math.sqrt(num_dims)
    matrix = matrix.to(features.device)
    projected = torch.empty(len(features), num_dims, device=features.device)
    for tile in _tiles(len(features)):
        torch.mm(features[tile].float(), matrix, out=projected[tile])
    return projected


_PICKED = -1.0  # key of a row that was picked: below every squared distance


@final
class _Rows:
    """Rows in float64, a few at a time, centred and scaled so that squares can be rounded.

    Centring and scaling by a power of two leave the order of distances as it was. The largest
    squared norm is near 2**42, so that the error of a squared distance, a few times
    2**42 * 2**-53, is far below the 1 it is rounded to.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        for tile in _tiles(len(features)):
            total += features[tile].double().sum(0)
        if not total.isfinite().all():
            bad = (~features.isfinite().all(1)).nonzero()[0].item()
            msg = f"`features` must be finite numbers; row {bad} has others."
            raise DataError(msg)
        self.centre = total / len(features)
        self.scale = 1.0
        self.norm = self._norms()
        largest = self.norm.max().item()
        if largest > 0:
            self.scale = 2.0 ** ((42 - round(math.log2(largest))) // 2)
        self.norm = self.norm * self.scale**2
        """Squared norms, ``[N]``."""

    def _norms(self) -> Tensor:
        norm = torch.empty(len(self.features), dtype=torch.float64, device=self.features.device)
        for tile in _tiles(len(norm)):  # a list of results would leave the heap in pieces
            norm[tile] = self[tile].square().sum(1)
        return norm

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return (self.features[index].double() - self.centre).mul_(self.scale)  # [., D]

    def mean_distance(self, index: Tensor) -> Tensor:
        """Of every row to some rows, ``[N]``; not squared."""
        others = self[index]
        total = torch.zeros_like(self.norm)
        for tile in _tiles(len(self.features)):
            z = self[tile]
            difference = torch.empty_like(z)
            for other in others:
                torch.sub(z, other, out=difference)
                total[tile] += torch.linalg.vector_norm(difference, dim=1)
        return total / len(others)

    def squared_distances(self, index: Tensor) -> Tensor:
        """Between some rows, ``[M, M]``, rounded; `_PICKED` from a row to itself."""
        z, norm = self[index], self.norm[index]
        squares = torch.addmm(norm + norm[:, None], z, z.T, alpha=-2).round_()
        return squares.fill_diagonal_(_PICKED)


@final
class _Picks:
    """What was picked so far, with the features at hand for matmuls."""

    def __init__(self, rows: _Rows, n: int) -> None:
        device = rows.norm.device
        self.rows = rows
        self.count = 0
        self.index = torch.empty(n, dtype=torch.int64, device=device)
        self.z = torch.empty(n, len(rows.centre), dtype=torch.float64, device=device)
        self.included = torch.zeros(len(rows.norm), dtype=torch.int32, device=device)
        """How many of the picks each row's key takes account of."""

    def add(self, index: Tensor) -> None:
        new = slice(self.count, self.count + len(index))
        self.index[new] = index
        self.z[new] = self.rows[index]
        self.count = new.stop


def _largest(key: Tensor, count: int) -> tuple[Tensor, float]:
    """The rows with the ``count`` largest keys, or fewer, and a bound on all other keys.

    A row inside whose key stays above the bound comes before all rows outside: its key is
    larger, or equal and its index smaller. Keys are whole numbers.
    """
    if count >= len(key):
        return (key > _PICKED).nonzero()[:, 0], _PICKED
    bound = key.topk(count + 1).values[-1].item()
    inside = (key > bound).nonzero()[:, 0]
    if len(inside) == 0:
        return (key == bound).nonzero()[:count, 0], bound - 0.5
    return inside, bound


def _bring_up_to_date(key: Tensor, index: Tensor, rows: _Rows, picks: _Picks) -> None:
    row_tile, pick_tile = _MATMUL_TILE[index.device.type == "cuda"]
    product = torch.empty(row_tile * pick_tile, dtype=key.dtype, device=key.device)
    pick_norm = rows.norm[picks.index[: picks.count]]
    included = picks.included[index]
    for first in torch.unique(included).tolist():  # rows that lack the same picks share a matmul
        for some in torch.split(index[included == first], row_tile):
            z, norm = rows[some], rows.norm[some]
            least = key[some] - norm
            for low in range(first, picks.count, pick_tile):
                new = slice(low, min(low + pick_tile, picks.count))
                out = product[: len(some) * (new.stop - low)].view(len(some), -1)
                torch.addmm(pick_norm[new], z, picks.z[new].T, alpha=-2, out=out)
                least = torch.minimum(least, out.amin(1))
            key[some] = (least + norm).round_()
    picks.included[index] = picks.count


def _pick_while_above(bound: float, key: Tensor, between: Tensor, limit: int) -> Tensor:
    """The rule itself, on few rows whose distances ``between`` them are known."""
    steps = min(limit, len(key))
    value = torch.empty(steps, dtype=key.dtype, device=key.device)
    order = torch.empty(steps, dtype=torch.int64, device=key.device)
    for low in range(0, steps, _STEPS_PER_CHECK):
        high = min(low + _STEPS_PER_CHECK, steps)
        for step in range(low, high):
            value[step], order[step] = key.max(0)  # the first of equal ones
            key = torch.minimum(key, between.index_select(0, order[step : step + 1])[0])
        valid = int((value[:high] > bound).sum())  # a GPU is waited for only here
        if valid < high:
            return order[:valid]
    return order


_MATMUL_TILE = {False: (512, 1024), True: (8192, 4096)}  # rows and picks; on a CPU, on a GPU
_STEPS_PER_CHECK = 32


def _assign(features: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    index = Index(centres)
    distance = torch.empty(len(features), device=features.device)
    label = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for tile in _tiles(len(features)):
        near, cluster = index.search(features[tile], 1)
        distance[tile], label[tile] = near[:, 0], cluster[:, 0]
    return distance, label


def _means(features: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    total = torch.zeros_like(centres, dtype=torch.float64)
    for tile in _tiles(len(features)):
        total.index_add_(0, label[tile], features[tile].double())
    members = label.bincount(minlength=len(centres))[:, None]
    return torch.where(members > 0, total / members.clamp_min(1), centres).float()


def _random(features: Tensor, n: int, seed: int) -> Tensor:
    # Drawn on the CPU, so that every device gets the same rows from a seed.
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(features), generator=generator)[:n].to(features.device)


def _check_count(features: Tensor, n: int) -> None:
    if not 1 <= n <= len(features):
        msg = f"`n` must be between 1 and the number of rows, {len(features)}; got {n}."
        raise SettingError(msg)


def _tiles(num_rows: int, size: int = 8192) -> Iterator[slice]:
    return (slice(low, min(low + size, num_rows)) for low in range(0, num_rows, size))
