"""Principal components of all training patches, though each picture is seen only once.

Components are known after the last picture only, and the Gaussians need them from the first on.
So the feature maps wait in a temporary file, in their own precision and before up-sampling, and
are read back in order: exact, and no memory grows with the number of pictures. The file takes
about 1 MB a picture of 256 pixels for ResNet-18 in bf16, 4 MB for Wide ResNet-50.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.core.errors import OutputError
from ad.core.networks import leading_directions
from ad.memory.reduction import nearest_index

_RESERVE_BYTES = 2**28
"""What is left free on the disk where the feature maps wait."""


@final
class PatchPca:
    """Sums the covariance of patches over all positions and pictures, and keeps the maps.

    A patch is the vector of all layers' channels at a position of the first layer's grid, deeper
    layers up-sampled by nearest neighbours. The up-sampled maps are never built: the sum over the
    grid of a fine times a coarse map is a product on the coarse cells, with the fine map summed
    over each of them.

    Args:
        num_images: How many pictures will come.
        channels: Channels of each layer's map, ``C`` in all.
        device: Where the maps are.
    """

    def __init__(self, num_images: int, channels: Sequence[int], device: torch.device) -> None:
        self.num_images = num_images
        self.channels = tuple(channels)
        self.device = device
        total = sum(self.channels)
        self._count = 0  # patches
        self._shift = torch.zeros(total, device=device)
        self._sum = torch.zeros(total, dtype=torch.float64, device=device)
        self._products = torch.zeros(total, total, dtype=torch.float64, device=device)
        self._file = tempfile.TemporaryFile(prefix="ad-features-")  # noqa: SIM115 - see `close`
        self._batches: list[list[tuple[torch.Size, torch.dtype]]] = []

    def add(self, maps: Sequence[Tensor]) -> None:
        """Take in a batch.

        Args:
            maps: One ``[B, C_l, h_l, w_l]`` per layer, from shallow to deep.

        Raises:
            OutputError: If the temporary file does not fit on its disk.
        """
        rows = [m.permute(0, 2, 3, 1).contiguous() for m in maps]
        if not self._batches:
            self._check_room(rows)
            # Any constant will do; one near the mean keeps the float32 products exact.
            self._shift = torch.cat([r.float().mean(dim=(0, 1, 2)) for r in rows])
        self._accumulate(rows)
        try:
            for r in rows:
                self._file.write(_bytes_of(r.cpu()))
        except OSError as error:
            self.close()
            msg = f"{self._what()} cannot be written ({error.strerror}). {_REMEDY}"
            raise OutputError(msg) from error
        self._batches.append([(r.shape, r.dtype) for r in rows])

    def covariance(self) -> Tensor:
        """The covariance of all patches seen, ``[C, C]``, float64."""
        mean = self._sum / self._count
        upper = self._products / self._count - torch.outer(mean, mean)
        return upper.triu() + upper.triu(1).T  # only the upper blocks are summed

    def components(self, num_components: int) -> Tensor:
        """The directions of largest variance, ``[C, num_components]``, float32, orthonormal.

        The largest entry of each is positive: which way it points is otherwise arbitrary.
        """
        directions = leading_directions(self.covariance(), num_components)
        return directions.T.float().contiguous()

    def replay(self) -> Iterator[list[Tensor]]:
        """The batches once more, in order, as they were given to `add`."""
        self._file.seek(0)
        for batch in self._batches:
            maps = []
            for shape, dtype in batch:
                rows = torch.empty(shape, dtype=dtype)
                self._file.readinto(_bytes_of(rows))
                maps.append(rows.to(self.device).permute(0, 3, 1, 2))
            yield maps

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _accumulate(self, maps: Sequence[Tensor]) -> None:
        shifts = torch.split(self._shift, list(self.channels))
        cells = [  # [h_l, w_l, B, C_l]
            (rows.float() - shift).permute(1, 2, 0, 3)
            for rows, shift in zip(maps, shifts, strict=True)
        ]
        height, width, batch, _ = cells[0].shape
        ends = [0, *torch.tensor(self.channels).cumsum(0).tolist()]
        for m, coarse in enumerate(cells):
            to = slice(ends[m], ends[m + 1])
            for layer in range(m + 1):
                fine = _summed_over_cells(cells[layer], coarse.shape[:2], (height, width))
                products = fine.flatten(0, 2).T @ coarse.flatten(0, 2)
                self._products[ends[layer] : ends[layer + 1], to] += products
                if layer == m:
                    self._sum[to] += fine.sum(dim=(0, 1, 2))
        self._count += height * width * batch

    def _check_room(self, rows: Sequence[Tensor]) -> None:
        per_image = sum(r[0].numel() * r.element_size() for r in rows)
        needed = per_image * self.num_images
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if needed + _RESERVE_BYTES > free:
            self.close()
            msg = (
                f"{self._what()} needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are "
                f"free. {_REMEDY}"
            )
            raise OutputError(msg)

    def _what(self) -> str:
        return (
            f"The temporary file in `{tempfile.gettempdir()}` for the features of "
            f"{self.num_images} pictures"
        )


_REMEDY = (
    "Make room, set TMPDIR to a folder that has it, or use `reduction=random`, which needs no file."
)


def _bytes_of(rows: Tensor) -> memoryview:
    return rows.view(torch.uint8).numpy().data.cast("B")


def _summed_over_cells(
    cells: Tensor, coarse: tuple[int, ...], grid: tuple[int, int]
) -> Tensor:  # [h_l, w_l, B, C] -> [h_m, w_m, B, C]
    for axis in (0, 1):
        size, target = cells.shape[axis], coarse[axis]
        mine = F.one_hot(nearest_index(size, grid[axis], cells.device), size)
        theirs = F.one_hot(nearest_index(target, grid[axis], cells.device), target)
        overlap = theirs.T.float() @ mine.float()  # grid lines that a pair of cells shares
        cells = torch.tensordot(overlap, cells, dims=([1], [axis])).movedim(0, axis)
    return cells
