"""Which rows of two sets can be near each other, by products in bfloat16 whose error is known.

Knows rows and nothing of what is near enough. How it goes, for some hundred queries at a time:

1. Rows and queries are rotated to principal axes; the leading coordinates are kept, and the norm
   of the others is one coordinate more. By the triangle inequality no distance becomes larger.
   They are rounded to bfloat16, and how far each thereby moved is noted.
2. One matmul gives all squared distances between what was rounded, since squared norms are
   coordinates, too: each as three numbers of bfloat16, whose sum has the digits of a float32. The
   products are summed in float32; only the squared distance itself is rounded to bfloat16, so that
   its error is 1 in 512 of itself.
3. Whoever asks gives an upper limit to each query, from the rows that look nearest. All rows are
   named whose distance, less all the errors above, is not beyond it. No row left out is within it.

Numbers of bfloat16 that are not negative are ordered as their bits are as whole numbers, and a
minimum of those is far cheaper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, final

import torch
from torch import Tensor

_KEPT_VARIANCE = 0.93  # share of the variance in the leading axes; measured
_QUERIES = 256  # at a time: what they need of memory is 2 bytes for each row
_TILE = 1024  # rows that one matmul goes through
_EXTRA = 7  # coordinates beside the axes: the rest's norm and two squared norms
_MEMBERS = 8  # rows of which the least number is kept, to look through
_MOST = 256  # groups within reach of a query; beyond, to look closer is dearer than other ways
_HUGE = 1e12  # norms beyond are left to others: rows that there are not stay farther than these
_NORMAL = 2.0**-126
_ULP = 2.0**-8  # of bfloat16: twice the relative error of what is rounded to it


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
    """Whether the processor multiplies numbers of bfloat16 faster than those of float32."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
        and torch.cpu._is_avx512_bf16_supported()
    )


@final
class Screen:
    """Rows that queries are compared with.

    Args:
        rows: ``[M, D]``, floating point, finite.
        centre: ``[D]``; taken off all, since errors grow with norms.
        axes: ``[D, r]``, orthonormal, float64; see `leading_axes`.
    """

    def __init__(self, rows: Tensor, centre: Tensor, axes: Tensor) -> None:
        self.centre = centre.double()
        self.axes = axes
        self.count = len(rows)
        self.tile = min(_TILE, -(-len(rows) // 64) * 64)
        padded = -(-len(rows) // self.tile) * self.tile
        width = axes.shape[1] + _EXTRA
        self.right = torch.zeros(padded, width, dtype=torch.bfloat16)
        self.right[len(rows) :, -6] = 2.0**100  # rows that there are not are far from all
        self.moved, self.largest = 0.0, 0.0
        for low in range(0, len(rows), 8192):
            near, norm, moved = self._rounded(rows[low : low + 8192])
            part = self.right[low : low + len(near)]
            part[:, :-6] = near * -2
            part[:, -6:-3], part[:, -3:] = in_three(norm), 1
            self.moved = max(self.moved, float(moved.max()))
            self.largest = max(self.largest, float(norm.max()) ** 0.5)

    def pairs(self, queries: Tensor, looked_at: int, reach: Reach) -> Iterator[Pairs]:
        """Name the rows within reach of each query, some queries at a time.

        Args:
            queries: ``[Q, D]``, floating point.
            looked_at: How many of the rows that look nearest `reach` is given, of different groups.
            reach: Gives for each query a distance; no row that is as near is left out.
        """
        size = min(_QUERIES, max(1, len(queries)))
        groups = len(self.right) // _MEMBERS
        numbers = torch.empty(len(self.right) // self.tile * size * self.tile, dtype=torch.bfloat16)
        least = torch.empty(size, groups, dtype=torch.int16)
        for low in range(0, len(queries), size):
            some = slice(low, min(low + size, len(queries)))
            yield self._pairs(queries[some], some, numbers, least, looked_at, reach)

    def _pairs(
        self, queries: Tensor, some: slice, numbers: Tensor, least: Tensor, looked_at: int,
        reach: Reach,
    ) -> Pairs:  # fmt: skip
        near, norm, moved = self._rounded(queries)
        unsure = ~(norm < _HUGE**2)  # of a norm that is no number, too
        if self.largest >= _HUGE:
            unsure[:] = True
        near[unsure], norm[unsure], moved[unsure] = 0, 0, 0
        one = torch.ones(len(queries), 3, dtype=torch.bfloat16)
        left = torch.cat([near, one, in_three(norm)], 1)
        tiles = len(self.right) // self.tile
        numbers = numbers[: tiles * len(left) * self.tile].view(tiles, len(left), self.tile)
        code, least = numbers.view(torch.int16), least[: len(left)]
        part = self.tile // _MEMBERS
        for step, rows in enumerate(torch.split(self.right, self.tile)):
            torch.mm(left, rows.T, out=numbers[step])
            halves = code[step]
            halves = torch.minimum(halves[:, : 4 * part], halves[:, 4 * part :])
            halves = torch.minimum(halves[:, : 2 * part], halves[:, 2 * part :])
            own = least[:, step * part : (step + 1) * part]
            torch.minimum(halves[:, :part], halves[:, part:], out=own)

        member = torch.arange(_MEMBERS) * part

        def seen(query: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
            """Numbers and rows of the members of groups, ``[..., 8]``."""
            tile, place = group // part, (group % part)[..., None] + member
            row = tile[..., None] * self.tile + place
            return code[tile[..., None], query[..., None], place], row

        group = _least(least, looked_at)
        number, row = seen(torch.arange(len(left))[:, None], group)
        nearest = row.gather(2, number.argmin(2, keepdim=True))[..., 0].clamp_max(self.count - 1)
        limit = reach(some, nearest).double()
        unsure |= ~(limit < _HUGE)
        limit[unsure] = 0
        error = (left.shape[1] + 8) * 2.0**-23 * (norm.sqrt() + self.largest) ** 2 + 1e-30
        digits = 1 + (len(self.centre) + 8) * 2.0**-24  # of a limit that was summed in float32
        square = (limit * digits + moved + self.moved).square() + error
        # The next number of bfloat16 above that.
        bound = (square / (1 - _ULP)).to(torch.bfloat16).view(torch.int16) + 1
        within = least <= bound[:, None]
        unsure |= within.sum(1) > _MOST
        within[unsure] = False
        query, group = within.nonzero(as_tuple=True)
        number, row = seen(query, group)
        close = (number <= bound[query, None]) & (row < self.count)
        which, place = close.nonzero(as_tuple=True)
        return Pairs(some, query[which], row[which, place], unsure)

    def _rounded(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reduced rows in bfloat16, their squared norms, and how far each moved; float64."""
        centred = rows.double() - self.centre
        leading = centred @ self.axes
        rest = centred.square().sum(1, keepdim=True) - leading.square().sum(1, keepdim=True)
        reduced = torch.cat([leading, rest.clamp_min_(0).sqrt_()], 1)
        near = reduced.to(torch.bfloat16)
        near[near.abs() < _NORMAL] = 0  # processors take those for 0 in products
        exact = near.double()
        moved = (reduced - exact).norm(dim=1)
        # What rounding in float64 can have done to the rest, whose square is a difference.
        moved += 2.0**-25 * centred.norm(dim=1)
        return near, exact.square().sum(1), moved


def leading_axes(
    rows: Tensor, centre: Tensor, share: float = _KEPT_VARIANCE, *, whole: bool = True
) -> Tensor:
    """Principal axes of the rows with a share of their variance, ``[D, r]``, float64.

    Args:
        rows: ``[N, D]``.
        centre: ``[D]``: their mean.
        share: Of the variance, from 0 to 1.
        whole: As many more as fill a matmul's registers in a `Screen`.
    """
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for some in torch.split(rows, 16384):
        centred = some.double() - centre
        covariance.addmm_(centred.T, centred)
    variance, axes = torch.linalg.eigh(covariance)  # ascending
    so_far = variance.clamp_min(0).flip(0).cumsum(0)
    kept = int((so_far < share * so_far[-1]).sum()) + 1
    if whole:
        kept = min(len(axes), -(-(kept + _EXTRA) // 32) * 32 - _EXTRA)
    leading: Tensor = axes.flip(1)[:, :kept].contiguous()
    return leading


def _least(codes: Tensor, count: int) -> Tensor:
    """Where the ``count`` least of each row are, ``[Q, count]``."""
    if count == 1:
        return codes.min(1, keepdim=True).indices
    return codes.topk(count, dim=1, largest=False).indices


def in_three(numbers: Tensor) -> Tensor:
    """Numbers as the sum of three of bfloat16, ``[N, 3]``: exact to 24 binary digits."""
    parts = []
    for _ in range(3):
        parts.append(numbers.to(torch.bfloat16))
        numbers = numbers - parts[-1].double()
    return torch.stack(parts, 1)
