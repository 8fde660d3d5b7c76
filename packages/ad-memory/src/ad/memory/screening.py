"""Which rows of two sets can be near each other, by products of whole numbers: all errors known.

Knows rows and nothing of what is near enough. How it goes, for some hundred queries at a time:

1. Rows and queries are rotated to principal axes; the leading coordinates are kept, and the norm
   of the others is one coordinate more. By the triangle inequality no distance becomes larger.
   They are rotated once more, at random, so that none is far larger than others, and rounded to
   whole numbers of 8 bits times a scale. How far each thereby moved is noted.
2. A matmul of those is exact, and the fastest that processors have. With the norms it gives the
   squared distances between what was rounded. Rows are ordered by their norms, so that a group of
   8 has nearly one: only the group's largest product is kept, with its least norm.
3. Whoever asks gives an upper limit to each query, from the rows that look nearest. Groups whose
   distance, less all the errors above, is beyond it are left out. To the members of the others
   distances are taken between reduced rows that moved far less, and all rows are named whose
   distance, less that, is not beyond the limit. No row left out is within it.

Cells of the bank that the triangle inequality leaves out whole were tried on 77,926 random patches
of MTD: of 1,024 cells those within reach of a query hold nine rows in ten, and of 64 queries all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

from ad.memory.axes import along, leading_axes

_KEPT_VARIANCE = 0.93  # share of the variance in the leading axes; measured
_QUERIES = 1024  # at a time: what they need of memory is 5 bytes for each row of 8
_TILE = 512  # rows that one matmul goes through: products stay in the processor's cache
_MEMBERS = 8  # rows of a group
_BUNDLE = 4  # groups of which the least number is looked at first
_WIDTH = 32  # a matmul's inner size is a multiple of this
_MOST = 1024  # bundles within reach of a query, or a third of all: beyond, other ways are cheaper
_PAIRS = 256  # groups that are looked into at a time
_HUGE = 1e12  # norms beyond are left to others: their squares end float32
_REST = 2.0**-20  # of norms: more than the root of a rounded difference, and than float32, can err
_LARGEST = 127  # of whole numbers; -128 has no opposite
_OUTLYING = 4.0  # times what most queries have as their largest coordinate: those are cut off


class Pairs(NamedTuple):
    """Queries and rows that can be near each other."""

    queries: slice
    """Those that were looked at together."""
    query: Tensor
    """``[P]``, int64, ascending: which of them, counted from the slice's start."""
    row: Tensor
    """``[P]``, int64."""
    unsure: Tensor
    """``[Q]``: queries of which nothing is said, for others to search."""


Reach = Callable[[slice, Tensor], Tensor]
"""From queries and the rows ``[Q, c]`` that look nearest to each to its limit ``[Q]``."""


def pays(device: torch.device) -> bool:
    """Whether the processor multiplies whole numbers of 8 bits far faster than floating point.

    Without those instructions products are also not exact: sums end at 16 bits.
    """
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
        and torch.cpu._is_vnni_supported()
    )


class _Tile(NamedTuple):
    code: Tensor
    """``[tile, r + 1]``, int8: reduced rows over ``scale``; a group's members are 1 / 8 apart."""
    norm: Tensor
    """``[groups]``: the least square of what a group's members became."""
    near: Tensor
    """``[groups, 8, r + 1]``, bfloat16: reduced rows."""
    moved: Tensor
    """``[groups]``: how far those moved at most when they were rounded."""
    scale: float
    error: Tensor
    """How far rows moved at most when they became whole numbers."""
    largest: Tensor
    """The largest norm of what they became."""


@final
class Screen:
    """Rows that queries are compared with.

    Args:
        rows: ``[M, D]``, floating point, finite.
        centre: ``[D]``: their mean; taken off all, since errors grow with norms.
    """

    def __init__(self, rows: Tensor, centre: Tensor) -> None:
        self.centre = centre.double()
        axes = leading_axes(rows, centre, _KEPT_VARIANCE, multiple_of=_WIDTH)
        width = axes.shape[1] + 1
        generator = torch.Generator().manual_seed(0)
        turn = torch.randn(width, width, generator=generator, dtype=torch.float64)
        turn = torch.linalg.qr(turn).Q
        self.axes, self.rest = axes @ turn[:-1], turn[-1]
        norm = torch.cat([self._reduced(some).norm(dim=1) for some in torch.split(rows, 8192)])
        order = norm.argsort(stable=True)
        self.tile = min(_TILE, -(-len(rows) // 64) * 64)
        missing = -len(rows) % self.tile
        self.row = torch.cat([order, order.new_full((missing,), -1)])
        """Which row each place has, -1 for none: ``[T * tile]``, groups side by side."""
        tiles = [self._tile(rows, some) for some in torch.split(self.row, self.tile)]
        self.codes = torch.stack([tile.code for tile in tiles])
        self.norms = torch.stack([tile.norm for tile in tiles])
        self.near = torch.cat([tile.near for tile in tiles])
        self.moved = torch.cat([tile.moved for tile in tiles])
        self.scale = [tile.scale for tile in tiles]
        self.error = torch.stack([tile.error for tile in tiles])
        self.largest = torch.stack([tile.largest for tile in tiles])

    def _tile(self, rows: Tensor, row: Tensor) -> _Tile:
        missing = row < 0
        reduced = self._reduced(rows[row.clamp_min(0)])
        width = reduced.shape[1]
        reduced[missing] = 0
        blur = _REST * reduced.norm(dim=1)
        near = reduced.to(torch.bfloat16)
        moved = (reduced - near.double()).norm(dim=1) + blur
        near[missing] = torch.inf
        scale = float(reduced.abs().max().clamp_min(1e-300)) / _LARGEST
        code = (reduced / scale).round_()
        error = ((reduced - code * scale).norm(dim=1) + blur).max()
        norm = (code * scale).norm(dim=1)
        largest = norm.max()
        norm[missing] = torch.inf
        return _Tile(
            code.view(-1, _MEMBERS, width).transpose(0, 1).to(torch.int8).flatten(0, 1),
            norm.view(-1, _MEMBERS).amin(1).square_().float(),
            near.view(-1, _MEMBERS, width),
            moved.view(-1, _MEMBERS).amax(1),
            scale,
            error,
            largest,
        )

    def pairs(self, queries: Tensor, looked_at: int, reach: Reach) -> Iterator[Pairs]:
        """Name the rows within reach of each query, some queries at a time.

        Args:
            queries: ``[Q, D]``, floating point.
            looked_at: How many of the rows that look nearest `reach` is given, of different groups.
            reach: Gives for each query a distance; no row that is as near is left out.
        """
        size = min(_QUERIES, max(1, len(queries)))
        tiles, part = self.norms.shape
        product = torch.empty(size, self.tile, dtype=torch.int32)
        least = torch.empty(size, tiles * part)
        for low in range(0, len(queries), size):
            some = slice(low, min(low + size, len(queries)))
            count = some.stop - low
            room = product[:count], least[:count]
            yield self._pairs(queries[some], some, room, looked_at, reach)

    def _pairs(
        self, queries: Tensor, some: slice, room: tuple[Tensor, Tensor], looked_at: int,
        reach: Reach,
    ) -> Pairs:  # fmt: skip
        q = self._reduced(queries)
        norm = q.norm(dim=1)
        unsure = ~(norm < _HUGE)  # of a norm that is no number, too
        if self.largest[-1] >= _HUGE:
            unsure[:] = True
        q[unsure], norm[unsure] = 0, 0
        widest = q.abs().amax(1)
        scale = min(widest.amax(), _OUTLYING * widest.median()).clamp_min(1e-300) / _LARGEST
        code = (q / scale).round_().clamp_(-_LARGEST, _LARGEST)
        rounded = code * scale
        error, square = (q - rounded).norm(dim=1) + _REST * norm, rounded.square().sum(1)
        least, bundle = self._least(code.to(torch.int8), float(scale), room)

        q = q.float()
        limit = reach(some, self._nearest(q, least, bundle, looked_at)).double()
        unsure |= ~(limit < _HUGE)
        limit[unsure] = 0
        limit *= 1 + (len(self.centre) + 8) * 2.0**-24  # it was summed in float32

        size = square.sqrt()[:, None] + self.largest
        bound = ((limit + error)[:, None] + self.error).square_() - square[:, None]
        bound += 2.0**-20 * size.square_() + 1e-30  # the error of sums in float32
        bound = bound.float()  # [Q, tiles]
        tiles = len(self.norms)
        within = (bundle.view(len(q), tiles, -1) <= bound[:, :, None]).flatten(1)
        unsure |= within.sum(1) > min(_MOST, max(32, within.shape[1] // 3))
        within[unsure] = False
        query, which = within.nonzero(as_tuple=True)
        group = self._groups(which)
        tile = which // (bundle.shape[1] // tiles)
        close = least[query[:, None], group] <= bound[query, tile, None]
        which, place = close.nonzero(as_tuple=True)
        query, group = query[which], group[which, place]
        # A square below 1e-45 is 0 in float32: a limit of 0 may be of a row that is so near.
        query, place = self._looked_into(q, query, group, limit + 2 * _REST * norm + 1e-15)
        return Pairs(some, query, self.row[place], unsure)

    def _least(
        self, code: Tensor, scale: float, room: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Squared distances less the query's own square: of groups and of bundles of those."""
        product, least = room
        part = self.norms.shape[1]
        for step, (rows, norm) in enumerate(zip(self.codes, self.norms, strict=True)):
            torch._int_mm(code, rows.T, out=product)
            largest = product.view(len(code), _MEMBERS, part).amax(1)
            own = least[:, step * part : (step + 1) * part]
            torch.add(norm, largest, alpha=-2 * scale * self.scale[step], out=own)
        few = part // _BUNDLE
        return least, least.view(len(code), -1, _BUNDLE, few).amin(2).flatten(1)

    def _nearest(self, queries: Tensor, least: Tensor, bundle: Tensor, count: int) -> Tensor:
        """The row that looks nearest in each of the ``count`` best bundles, ``[Q, count]``."""
        group = self._groups(_best(bundle, count))  # [Q, count, groups of a bundle]
        query = torch.arange(len(queries))[:, None, None]
        group = group.gather(2, least[query, group].argmin(2, keepdim=True))[..., 0]
        parts = [
            self._distances(some.repeat_interleave(count, 0), which.flatten())
            for some, which in zip(
                torch.split(queries, _PAIRS), torch.split(group, _PAIRS), strict=True
            )
        ]
        return self.row[group * _MEMBERS + torch.cat(parts).argmin(1).view_as(group)]

    def _groups(self, bundle: Tensor) -> Tensor:
        """The groups of bundles, ``[..., _BUNDLE]``."""
        part = self.norms.shape[1]
        few = part // _BUNDLE
        first = bundle // few * part + bundle % few
        return first[..., None] + torch.arange(_BUNDLE) * few

    def _distances(self, queries: Tensor, group: Tensor) -> Tensor:
        """From reduced queries to the members of a group of each, ``[P, 8]``."""
        near = self.near.index_select(0, group).float().sub_(queries[:, None])
        distance: Tensor = torch.linalg.vector_norm(near, dim=2)
        return distance

    def _looked_into(
        self, queries: Tensor, query: Tensor, group: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Which members of groups are within a limit of a query, and at what place."""
        kept: list[tuple[Tensor, Tensor]] = []
        for own, some in zip(torch.split(query, _PAIRS), torch.split(group, _PAIRS), strict=True):
            distance = self._distances(queries.index_select(0, own), some)
            far = (limit[own] + self.moved[some]) * (1 + (queries.shape[1] + 8) * 2.0**-23)
            which, place = (distance <= far.float()[:, None]).nonzero(as_tuple=True)
            kept.append((own[which], some[which] * _MEMBERS + place))
        if not kept:
            return query, group
        found = torch.cat([pair[0] for pair in kept]), torch.cat([pair[1] for pair in kept])
        real = self.row[found[1]] >= 0
        return found[0][real], found[1][real]

    def _reduced(self, rows: Tensor) -> Tensor:
        """Reduced rows, turned, ``[N, r + 1]``, float64."""
        leading, rest = along(rows.double() - self.centre, self.axes)
        return leading.addmm_(rest, self.rest[None])


def _best(numbers: Tensor, count: int) -> Tensor:
    """Where the ``count`` least of each row are, ``[Q, count]``."""
    if count == 1:
        return numbers.min(1, keepdim=True).indices
    return numbers.topk(count, dim=1, largest=False).indices
