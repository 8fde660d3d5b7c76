"""Few rows that stand for many: greedy k-center, k-means medoids, random.

Knows rows of features and nothing of pictures. Every selection returns indices of original
rows, each once, and is repeatable from its seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad.core import Advance
from ad.core.errors import SettingError
from ad.memory.neighbors import Index
from ad.memory.picking import PICKED, Picks, Rows, scale_of, tiles


def k_center_greedy(
    features: Tensor, n: int, *, seed: int = 0, start: int = 10, advance: Advance | None = None
) -> Tensor:
    """Pick rows one by one, each the farthest from all that were picked before it.

    The rule: a row's key is at first its mean distance to ``start`` random rows (which are not
    thereby picked). Again and again the row with the largest key is picked, the first of equal
    ones, and every key becomes the minimum of itself and the distance to that row.

    The picks are exactly those of this rule in float64, but no pick costs a pass over all rows.
    Keys only ever shrink, so an outdated key is an upper bound. In turns,

    1. the rows with the largest keys, a twelfth of all, are brought up to date by matmuls, most of
       them of few coordinates in bfloat16, whose error is known (`ad.memory.picking`);
    2. rows are picked among the best of those, by the distances between them, for as long as
       the best key exceeds every key left outside, outdated or not.

    About half of all distances are never computed, because most rows fall below the last
    pick's key early, and matmuls are bound by arithmetic where a pass per pick is bound by
    memory.

    Keys are squared distances. Squaring keeps the order, and the first key is the square of
    the mean distance, not a mean of squares, so the picks are those of distances. Squares are
    rounded to 2**-42 of the largest squared norm: equal rows then have equal keys, whatever the
    order of summation in a matmul.

    Needs some 30 bytes a row beyond ``features``, and 2 (on processors without bfloat16, 4) for
    each coordinate that is kept.

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
    rows = Rows(features)
    own = torch.arange(len(features), device=features.device)
    return _picked(rows, own, n, seed, start, advance)


def k_center_greedy_of_folds(
    features: Tensor, folds: Sequence[Tensor], n: Sequence[int], *, seed: int = 0, start: int = 10
) -> Iterator[Tensor]:
    """Pick rows of each fold as `k_center_greedy` picks of its rows alone: the very same ones.

    Rows are made ready once for all folds: their norms, and what bounds are taken of. The scale,
    which distances are rounded by, is each fold's own, as in a fit apart; folds that have not the
    scale of most are fitted apart. The centre is that of all rows, also of those that a fold has
    not. It makes products accurate, and the whole numbers that these are rounded to do not depend
    on it; where it is too far from the rows for that, all folds are fitted apart. So what is picked
    of a fold hears of its own rows and of the seed alone.

    Distances are measured by each fold for itself. Picks diverge soon: of ten folds of 31 pictures,
    two have a fifth of their picks in common (`benchmarks/folds.py`), seldom in the same turn. To
    keep what bounds say of a pick and all rows for whoever picks it later took one and a half times
    to twice as long as fits apart, the two ways that were tried: looking it up is no cheaper than
    the product.

    Args:
        features: ``[N, D]``, any floating type.
        folds: Numbers of the rows of each, ascending, int64.
        n: How many rows to pick of each; from 1 to its rows.
        seed: As for `k_center_greedy`, of each fold.
        start: As for `k_center_greedy`, of each fold.

    Yields:
        Of each fold in turn ``[n]``, int64: places in its numbers, in the order of picking.

    Raises:
        SettingError: If an ``n`` or ``start`` is out of range.
        DataError: If a feature is not finite.
    """
    rows = Rows(features)
    scales = _scales(rows, folds)
    common = max(scales, key=scales.count)
    rows.rescale(common)
    alike = scales.count(common) > 1 and float(rows.norm.max()) < _FAR
    for own, count, scale in zip(folds, n, scales, strict=True):
        if scale != common or not alike:
            yield k_center_greedy(features[own], count, seed=seed, start=start)
        else:
            _check_count(own, count)
            yield torch.searchsorted(own, _picked(rows, own, count, seed, start))


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
    for tile in tiles(len(features)):
        torch.mm(features[tile].float(), matrix, out=projected[tile])
    return projected


def _picked(
    rows: Rows, own: Tensor, n: int, seed: int, start: int, advance: Advance | None = None
) -> Tensor:
    """Numbers of rows picked from some, whose numbers are ascending; see `k_center_greedy`."""
    num_dated = max(4096, len(own) // 12)  # rows brought up to date in one turn; measured
    num_inside = min(2048, num_dated // 4)  # rows that one turn picks among; measured
    drawn = own[_random(own, min(start, len(own)), seed)]
    key = torch.full_like(rows.norm, PICKED)  # of rows that are not meant
    key[own] = rows.mean_distance(drawn)[own].square_().round_()
    picks = Picks(rows, n)
    while picks.count < n:
        dated, bound = _largest(key, num_dated)
        picks.bring_up_to_date(key, dated)
        inside, inner_bound = _largest(key[dated], num_inside)
        inside, bound = dated[inside], max(bound, inner_bound)
        inside = inside[key[inside] > bound]
        if len(inside) == 0:  # all keys sank below those outside: next turn
            continue
        between = rows.squared_distances(inside)
        chosen = inside[_pick_while_above(bound, key[inside], between, n - picks.count)]
        picks.add(chosen)
        key[chosen] = PICKED
        if advance is not None:
            advance(len(chosen))
    return picks.index


_FAR = 2.0**46
"""A squared norm from which on products are not surely exact to less than they are rounded to.

Folds of one scale that leave out parts of the same rows, three or more, stay below, since any two
have rows in common."""


def _scales(rows: Rows, folds: Sequence[Tensor]) -> list[float]:
    """What `Rows` of each fold alone would scale by."""
    has = torch.zeros(len(folds), len(rows.norm), dtype=torch.float64, device=rows.norm.device)
    for number, own in enumerate(folds):
        has[number, own] = 1
    centre = torch.zeros(len(folds), len(rows.centre), dtype=has.dtype, device=has.device)
    for tile in tiles(len(rows.norm), 512):
        centre.addmm_(has[:, tile], rows[tile])
    centre /= has.sum(1, keepdim=True)
    largest = torch.zeros_like(centre[:, 0])
    for tile in tiles(len(rows.norm), 512):
        norm = centre.square().sum(1, keepdim=True) + rows.norm[tile]
        square = torch.addmm(norm, centre, rows[tile].T, alpha=-2)
        largest = torch.maximum(largest, (square * has[:, tile]).amax(1))
    return [scale_of(square / rows.scale**2) for square in largest.tolist()]


def _largest(key: Tensor, count: int) -> tuple[Tensor, float]:
    """The rows with the ``count`` largest keys, or fewer, and a bound on all other keys.

    A row inside whose key stays above the bound comes before all rows outside: its key is
    larger, or equal and its index smaller. Keys are whole numbers.
    """
    if count >= len(key):
        return (key > PICKED).nonzero()[:, 0], PICKED
    bound = key.topk(count + 1).values[-1].item()
    inside = (key > bound).nonzero()[:, 0]
    if len(inside) == 0:
        return (key == bound).nonzero()[:count, 0], bound - 0.5
    return inside, bound


def _pick_while_above(bound: float, key: Tensor, between: Tensor, limit: int) -> Tensor:
    """The rule itself, on few rows whose distances ``between`` them are known."""
    steps = min(limit, len(key))
    if key.device.type == "cpu":
        return _one_by_one(bound, key.numpy(), between.numpy(), steps)
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


def _one_by_one(
    bound: float, key: NDArray[np.float64], between: NDArray[np.float64], steps: int
) -> Tensor:
    """The same by numpy, which starts an operation on so few numbers in less time than torch."""
    key = key.copy()
    order: list[int] = []
    while len(order) < steps:
        best = int(key.argmax())  # the first of equal ones
        if key[best] <= bound:
            break
        order.append(best)
        np.minimum(key, between[best], out=key)
    return torch.tensor(order, dtype=torch.int64)


_STEPS_PER_CHECK = 32


def _assign(features: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    index = Index(centres)
    distance = torch.empty(len(features), device=features.device)
    label = torch.empty(len(features), dtype=torch.int64, device=features.device)
    for tile in tiles(len(features)):
        near, cluster = index.search(features[tile], 1)
        distance[tile], label[tile] = near[:, 0], cluster[:, 0]
    return distance, label


def _means(features: Tensor, label: Tensor, centres: Tensor) -> Tensor:
    total = torch.zeros_like(centres, dtype=torch.float64)
    for tile in tiles(len(features)):
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
