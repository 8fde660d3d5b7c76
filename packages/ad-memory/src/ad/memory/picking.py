"""Keys of rows for `ad.memory.coreset.k_center_greedy`, brought up to date with few products.

A key is the squared distance to the nearest pick. For rows that lack some picks:

1. Rows are rotated to principal axes; the leading coordinates are kept, and the norm of the others
   is one coordinate more. By the triangle inequality no distance becomes larger. They are rounded
   to bfloat16, and how far each thereby moved is noted. That is done once for the whole choice.
2. Matmuls give the squared distances between what was rounded, since squared norms are coordinates,
   too: each as three numbers of bfloat16, whose sum has the digits of a float32.
3. The pick that looks nearest is measured in float64, and so are all others whose distance, less
   all the errors above, is below the key that is left. No pick left out can lower it.

Features of a network have most of their variance in few axes, and few picks come near to lowering
a key, so that nearly all that remains is step 2, of a fraction of the coordinates. How many
are kept is decided by a sample of the rows. Where step 3 would have to measure many, as in the
first turns, a matmul in float64 is cheaper, and is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from ad.core.errors import DataError
from ad.memory.axes import along, leading_axes

PICKED = -1.0  # key of a row that was picked: below every squared distance

_EXTRA = 7  # coordinates beside the axes: the others' norm and two squared norms
_SHARED = 256  # rows that take part in one matmul, if there are as many
FEW = 2**16
"""Picks that rows lack, times features, up to which a matmul in float64 is cheaper; measured."""
_DIRECT = 32  # pairs that a matmul in float64 does in the time that one is measured in; measured
_GROUP = 64  # picks whose least number is kept, to look through; measured
_PAIRS = 128  # measured at once: more leave the processor's cache
_SAMPLE = 4096  # rows that the number of coordinates is decided by
_COST = 120_000  # coordinates that are multiplied in the time that a pair is measured in


@final
class Rows:
    """Rows in float64, a few at a time, centred and scaled so that squares can be rounded.

    Centring and scaling by a power of two leave the order of distances as it was. The largest
    squared norm is near 2**42, so that the error of a squared distance, a few times
    2**42 * 2**-53, is far below the 1 it is rounded to.
    """

    def __init__(self, features: Tensor) -> None:
        self.features = features
        total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
        for tile in tiles(len(features)):
            total += features[tile].double().sum(0)
        if not total.isfinite().all():
            bad = (~features.isfinite().all(1)).nonzero()[0].item()
            msg = f"`features` must be finite numbers; row {bad} has others."
            raise DataError(msg)
        self.centre = total / len(features)
        self.scale = 1.0
        self.norm = self._norms()
        self.rescale(scale_of(self.norm.max().item()))

    def rescale(self, scale: float) -> None:
        """Scale by another power of two, before any choice."""
        self.norm = self.norm * (scale / self.scale) ** 2
        """Squared norms, ``[N]``."""
        self.scale = scale

    @cached_property
    def reduced(self) -> _Reduced:
        """For bounds: made when first asked for, and shared by all choices from these rows."""
        return _Reduced(self)

    def _norms(self) -> Tensor:
        norm = torch.empty(len(self.features), dtype=torch.float64, device=self.features.device)
        for tile in tiles(len(norm), _CACHED[norm.device.type == "cuda"]):
            # A list of results would leave the heap in pieces.
            norm[tile] = self[tile].square().sum(1)
        return norm

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        some = self.features
        some = some[index] if isinstance(index, slice) else some.index_select(0, index)
        return (_doubled(some) - self.centre).mul_(self.scale)  # [., D]

    def mean_distance(self, index: Tensor) -> Tensor:
        """Of every row to some rows, ``[N]``; not squared."""
        others = _doubled(self.features[index])  # not centred: a distance hears of two rows alone
        total = torch.zeros_like(self.norm)
        for tile in tiles(len(self.features), _CACHED[total.device.type == "cuda"]):
            z = _doubled(self.features[tile])
            difference = torch.empty_like(z)
            for other in others:
                torch.sub(z, other, out=difference)
                total[tile] += torch.linalg.vector_norm(difference, dim=1)
        return total * (self.scale / len(others))

    def squared_distances(self, index: Tensor) -> Tensor:
        """Between some rows, ``[M, M]``, rounded; `PICKED` from a row to itself."""
        z, norm = self[index], self.norm[index]
        squares = torch.addmm(norm + norm[:, None], z, z.T, alpha=-2).round_()
        return squares.fill_diagonal_(PICKED)

    def squared_distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Of each of some rows to one of as many others, ``[M]``, rounded."""
        square = torch.empty(len(first), dtype=torch.float64, device=first.device)
        for pairs in tiles(len(first), _PAIRS if first.device.type == "cpu" else 65536):
            difference = _doubled(self.features.index_select(0, first[pairs]))
            difference -= _doubled(self.features.index_select(0, second[pairs]))
            torch.sum(difference.square_(), 1, out=square[pairs])
        return square.mul_(self.scale**2).round_()


def _doubled(some: Tensor) -> Tensor:
    """In float64; of float16 by float32, which is as exact and has instructions for both steps."""
    return (some.float() if some.dtype == torch.float16 else some).double()


def scale_of(largest: float) -> float:
    """The power of two that rows are scaled by whose largest squared norm is so much."""
    return 2.0 ** ((42 - round(math.log2(largest))) // 2) if largest > 0 else 1.0


@final
class Picks:
    """What was picked so far, and for each row how many of the picks its key takes account of."""

    def __init__(self, rows: Rows, n: int) -> None:
        device = rows.norm.device
        self.rows = rows
        self.count = 0
        self.index = torch.empty(n, dtype=torch.int64, device=device)
        self.included = torch.zeros(len(rows.norm), dtype=torch.int32, device=device)
        self.bounds: _Bounds | None = None  # made when rows first lack many

    def add(self, index: Tensor) -> None:
        """Pick rows."""
        new = slice(self.count, self.count + len(index))
        self.index[new] = index
        self.count = new.stop
        if self.bounds is not None:
            self.bounds.add(index)

    def bring_up_to_date(self, key: Tensor, index: Tensor) -> None:
        """Let the keys of some rows take account of all picks."""
        included, order = self.included.index_select(0, index).sort()
        index = index.index_select(0, order)
        low = 0
        for first, high in _shared(included, self.count):
            self._lower(key, index[low:high], first)
            low = high
        self.included[index] = self.count

    def _lower(self, key: Tensor, index: Tensor, first: int) -> None:
        lacked = self.count - first
        if lacked * self.rows.features.shape[1] <= FEW:
            self._lower_directly(key, index, first)
            return
        if self.bounds is None:
            self.bounds = _Bounds(self.rows, len(self.index))
            self.bounds.add(self.index[: self.count])
        for some in torch.split(index, self.bounds.rows_at_once(lacked)):
            left = self.bounds.lower(key, some, first, self.index[: self.count])
            if left is not None:
                self._lower_directly(key, left, first)

    def _lower_directly(self, key: Tensor, index: Tensor, first: int) -> None:
        rows = self.rows
        row_tile, pick_tile = _TILE[index.device.type == "cuda"]
        product = torch.empty(row_tile * pick_tile, dtype=key.dtype, device=key.device)
        for low in range(first, self.count, pick_tile):
            new = self.index[low : min(low + pick_tile, self.count)]
            pick_norm, z_new = rows.norm[new], rows[new]
            for some in torch.split(index, row_tile):
                z, norm = rows[some], rows.norm[some]
                out = product[: len(some) * len(new)].view(len(some), -1)
                torch.addmm(pick_norm, z, z_new.T, alpha=-2, out=out)
                key[some] = torch.minimum(key[some], (out.amin(1) + norm).round_())


@final
class _Reduced:
    """All rows with few coordinates, in the fastest type."""

    def __init__(self, rows: Rows) -> None:
        device = rows.norm.device
        self.dtype = _fastest(device)
        self.code = torch.int16 if self.dtype == torch.bfloat16 else torch.int32
        axes = _axes(rows)
        width = rows.features.shape[1] if axes is None else axes.shape[1]
        self.left = torch.empty(len(rows.norm), width + _EXTRA, dtype=self.dtype, device=device)
        self.norm = torch.empty(len(rows.norm), dtype=torch.float32, device=device)
        self.moved = torch.empty(len(rows.norm), dtype=torch.float32, device=device)
        for tile in tiles(len(rows.norm), _CACHED[device.type == "cuda"]):
            reduced = _reduced(rows[tile], axes)
            near = reduced.to(torch.bfloat16)  # in float32, too: products are exact, even in TF32
            exact = near.double()
            square = exact.square().sum(1)
            self.left[tile, :-6], self.left[tile, -6:-3] = near, 1
            self.left[tile, -3:] = _in_three(square)
            # What rounding in float64 can have done to the others, whose square is a difference.
            moved = (reduced - exact).norm(dim=1) + 2.0**-25 * rows.norm[tile].sqrt()
            self.norm[tile], self.moved[tile] = square, moved * (1 + 1e-6)  # in float32
        self.most_moved, self.largest = self.moved.max(), self.norm.max().sqrt()

    def limit(self, key: Tensor, some: Tensor) -> Tensor:
        """The code above which no distance of some rows can be below that of their keys."""
        norm, moved = self.norm[some], self.moved[some]
        # Twice the textbook bound on the error of a sum of products, with room for the norms.
        error = (self.left.shape[1] + 8) * 2.0**-22 * (norm.double().sqrt() + self.largest) ** 2
        square = (key.sqrt() + moved + self.most_moved).square() + error
        ulp = torch.finfo(self.dtype).eps / 2
        return (square / (1 - ulp)).to(self.dtype).view(self.code) + 1  # the next number


@final
class _Bounds:
    """Rows reduced, and the picks among them ready for products."""

    def __init__(self, rows: Rows, n: int) -> None:
        device = rows.norm.device
        self.rows = rows
        self.reduced = rows.reduced
        dtype, width = self.reduced.dtype, self.reduced.left.shape[1]
        _, self.pick_tile = _TILE[device.type == "cuda"]
        self.right = torch.zeros(n + self.pick_tile, width, dtype=dtype, device=device)
        self.right[:, -6] = 2.0**100  # picks that there are not are far from all
        self.count = 0
        self.numbers = torch.empty(0, dtype=dtype, device=device)

    def add(self, index: Tensor) -> None:
        new = slice(self.count, self.count + len(index))
        picked = self.reduced.left.index_select(0, index)
        self.right[new, :-6] = picked[:, :-6] * -2
        self.right[new, -6:-3], self.right[new, -3:] = picked[:, -3:], 1
        self.count = new.stop

    def rows_at_once(self, lacked: int) -> int:
        """So many that their products with the picks they lack fill some 32 MiB at most."""
        most, _ = _TILE[self.right.device.type == "cuda"]
        return max(most // 4, min(most, 2**24 // lacked))

    def lower(self, key: Tensor, some: Tensor, first: int, picks: Tensor) -> Tensor | None:
        """Lower the keys of some rows by the picks from ``first``; give back those it is not for.

        These are rows too many of whose picks would have to be measured.
        """
        lacked = len(picks) - first
        size = min(self.pick_tile, -(-lacked // _GROUP) * _GROUP)
        steps = -(-lacked // size)
        left = self.reduced.left.index_select(0, some)
        needed = steps * len(some) * size
        if len(self.numbers) < needed:  # kept: memory that is new to the process costs time
            self.numbers = self.numbers.new_empty(needed)
        numbers = self.numbers[:needed].view(steps, len(some), size)
        code = numbers.view(self.reduced.code).view(steps, len(some), -1, _GROUP)
        parts = size // _GROUP
        least = torch.empty(steps, len(some), parts, dtype=code.dtype, device=key.device)
        for step in range(steps):
            right = self.right[first + step * size : first + (step + 1) * size]
            torch.mm(left, right.T, out=numbers[step])
            torch.amin(code[step], 2, out=least[step])
        by_row = least.transpose(0, 1).reshape(len(some), -1)
        code = code.view(-1, _GROUP)

        def seen(row: Tensor, group: Tensor) -> Tensor:
            """Where in ``code`` the numbers of a row and a group of picks are."""
            step = group.div(parts, rounding_mode="floor")
            return (step * len(some) + row) * parts + group % parts

        own = key[some]
        best, group = by_row.min(1)
        row = (best <= self.reduced.limit(own, some)).nonzero()[:, 0]
        group = group[row]
        where = seen(row, group)
        place = code.index_select(0, where).argmin(1)
        code[where, place] = torch.iinfo(code.dtype).max  # is measured
        nearest = self.rows.squared_distance(some[row], picks[first + group * _GROUP + place])
        own[row] = torch.minimum(own[row], nearest)

        limit = self.reduced.limit(own, some)
        row, group = (by_row <= limit[:, None]).nonzero(as_tuple=True)
        within = code.index_select(0, seen(row, group)) <= limit[row, None]
        which, place = within.nonzero(as_tuple=True)
        if len(which) * _DIRECT > len(some) * lacked:
            return some
        row, group = row[which], group[which]
        square = self.rows.squared_distance(some[row], picks[first + group * _GROUP + place])
        key[some] = own.scatter_reduce_(0, row, square, "amin")
        return None


def _shared(included: Tensor, count: int) -> Iterator[tuple[int, int]]:
    """From which pick on rows take part in one matmul, and where these rows end.

    They are those that lack the same picks, and so many that lack fewer that a matmul pays.
    """
    firsts, counts = torch.unique_consecutive(included, return_counts=True)
    low = high = start = 0
    for first, number in zip(firsts.tolist(), counts.tolist(), strict=True):
        if first == count:
            break
        if low == high:
            start = first
        high += number
        if high - low >= _SHARED:
            yield start, high
            low = high
    if low < high:
        yield start, high


def _axes(rows: Rows) -> Tensor | None:
    """Those that the cheapest bounds keep, ``[D, r]``; None for all coordinates as they are.

    As many as make coordinates to multiply and pairs to measure fewest, for some of the rows in
    place of picks. Any choice gives the same picks.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(len(rows.norm), generator=generator)[:_SAMPLE]
    sample = rows[drawn.to(rows.norm.device)]
    axes = leading_axes(sample, sample.mean(0), 1.0)
    left, right = torch.split(
        (sample @ axes).float(), [len(sample) // 32, len(sample) - len(sample) // 32]
    )
    square = torch.cdist(left, right).square().amin(1, keepdim=True)
    best, least = None, sample.shape[1] + _EXTRA + _COST / len(right)
    for kept in range(32 - _EXTRA, int(0.8 * sample.shape[1]), 32):
        rest = [part[:, kept:].norm(dim=1) for part in (left, right)]
        low = torch.cdist(left[:, :kept], right[:, :kept]).square()
        low += (rest[0][:, None] - rest[1]).square()
        cost = kept + _EXTRA + _COST * float((low <= square).float().mean())
        if cost < least:
            best, least = axes[:, :kept].contiguous(), cost
    return best


def _reduced(z: Tensor, axes: Tensor | None) -> Tensor:
    if axes is None:
        return torch.cat([z, torch.zeros_like(z[:, :1])], 1)
    return torch.cat(along(z, axes), 1)


def _in_three(numbers: Tensor) -> Tensor:
    """Numbers as the sum of three of bfloat16, ``[N, 3]``: exact to 24 binary digits."""
    parts = []
    for _ in range(3):
        parts.append(numbers.to(torch.bfloat16))
        numbers = numbers - parts[-1].double()
    return torch.stack(parts, 1)


def _fastest(device: torch.device) -> torch.dtype:
    """What the processor multiplies fastest, with sums in float32: a GPU's may be in bfloat16."""
    fast = (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # untyped in torch
        and torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else torch.float32


def tiles(num_rows: int, size: int = 8192) -> Iterator[slice]:
    """Slices that go through rows, so many at a time."""
    return (slice(low, min(low + size, num_rows)) for low in range(0, num_rows, size))


_CACHED = {False: 512, True: 8192}  # rows at once; on a CPU, on a GPU
_TILE = {False: (512, 1024), True: (8192, 4096)}  # rows and picks of a matmul; on a CPU, on a GPU
