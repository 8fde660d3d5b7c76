"""Many pictures to batches: decoded by threads, resized, cached when they are needed again.

Batches travel as uint8 and become [0, 1] on the device.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad.core.data.resizing import resize
from ad.core.errors import PictureError
from ad.runtime.budget import at_most
from ad.runtime.ordered import threads_of
from ad.runtime.pictures.opening import said
from ad.runtime.pictures.reading import Sides, Source, glimpse, height_and_width, rgb_array
from ad.runtime.spill import on_disk

View = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]
"""From a decoded picture, as `ad.runtime.pictures.reading.glimpse` gives it, and its name, for an
error, to what is seen of it ``[h, w, 3]``, uint8."""

RAM_BUDGET = 2 * 2**30
"""Bytes of decoded pictures that are cached in memory; more go to a temporary file."""


@dataclass(slots=True)
class Batch:
    """Some pictures of a `PictureSet`, in its order."""

    indices: list[int]
    """Which ones, ``B`` of them; those that could not be read are not among them."""
    pictures: Tensor
    """``[B, H, W, 3]``, uint8."""
    errors: list[tuple[int, PictureError]] = field(default_factory=list)
    """Index and reason of those that could not be read, if errors are recorded."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width of each of the ``B``, upright, in its own pixels; says nothing of tiles."""


class PictureSet:
    """Pictures at one size, read in batches.

    Args:
        sources: Files, images or arrays.
        size: Of the pictures.
        cache: Keep decoded pictures for further passes: each is decoded once.
        ram_budget: Bytes to keep in memory; a larger cache is a temporary file on disk.
        white: The value that is white in pictures of more than 8 bits; see
            `ad.runtime.pictures.reading.read_picture`.
        view: What is seen of a picture, at that size; a file is then decoded whole. None for all
            of it, stretched.

    Attributes:
        unit: What they are, in the plural, for a person.
    """

    unit = "pictures"

    def __init__(
        self,
        sources: Sequence[Source],
        size: Sides,
        *,
        cache: bool = False,
        ram_budget: int = RAM_BUDGET,
        white: int | None = None,
        view: View | None = None,
    ) -> None:
        self.sources = sources
        self.size = height_and_width(size)
        self.white = white
        self.view = view
        self._sizes = np.full((len(sources), 2), self.size, dtype=np.int32)  # until it is decoded
        self._cached = np.zeros(len(sources), dtype=bool) if cache else None
        self._cache = _storage((len(sources), *self.size, 3), ram_budget) if cache else None

    def __len__(self) -> int:
        return len(self.sources)

    def batches(
        self,
        batch_size: int,
        *,
        order: Sequence[int] | None = None,
        on_error: Literal["raise", "record"] = "raise",
    ) -> Iterator[Batch]:
        """Read batches; the next ones are decoded while the caller works on one.

        Args:
            batch_size: Pictures in a batch; the last one may be smaller.
            order: Which pictures, in which order; all by default.
            on_error: Whether a picture that cannot be read is raised or recorded in its batch.

        Raises:
            PictureError: Of the first picture that cannot be read, if ``on_error`` is ``raise``.
        """
        indices = range(len(self)) if order is None else order
        groups = (indices[at : at + batch_size] for at in range(0, len(indices), batch_size))
        workers = min(8, os.cpu_count() or 1)
        with threads_of(workers, "decode") as pool:
            ahead: deque[tuple[Sequence[int], list[Future[Tensor]]]] = deque()
            for group in groups:
                ahead.append((group, [pool.submit(self._read, index) for index in group]))
                if len(ahead) > 2:  # two batches are decoded ahead
                    yield self._gather(*ahead.popleft(), on_error)
            while ahead:
                yield self._gather(*ahead.popleft(), on_error)

    def _read(self, index: int) -> Tensor:
        if self._cached is not None and self._cache is not None and self._cached[index]:
            return torch.from_numpy(np.array(self._cache[index]))
        picture = self._decode(index)
        if self._cached is not None and self._cache is not None:
            self._cache[index] = picture.numpy()
            self._cached[index] = True
        return picture

    def _decode(self, index: int) -> Tensor:
        source = self.sources[index]
        if isinstance(source, np.ndarray):
            pixels, name = rgb_array(source, white=self.white), "The array"
        else:
            pixels, name = glimpse(source, white=self.white), said("picture", source)
        self._sizes[index] = pixels.shape[:2]
        if self.view is None:
            return resize(pixels, self.size)
        return torch.from_numpy(self.view(pixels, name))

    def _gather(
        self,
        group: Sequence[int],
        futures: list[Future[Tensor]],
        on_error: Literal["raise", "record"],
    ) -> Batch:
        read, pictures, errors = [], [], []
        for index, future in zip(group, futures, strict=True):
            try:
                pictures.append(future.result())
                read.append(index)
            except PictureError as error:
                if on_error == "raise":
                    raise
                errors.append((index, error))
        empty = torch.empty(0, *self.size, 3, dtype=torch.uint8)
        sizes = [(int(height), int(width)) for height, width in self._sizes[read]]
        return Batch(read, torch.stack(pictures) if pictures else empty, errors, sizes)


def to_device(pictures: Tensor, device: torch.device) -> Tensor:
    """Move uint8 pictures to a device and scale them there.

    Args:
        pictures: ``[B, H, W, 3]``, uint8.
        device: Where to.

    Returns:
        ``[B, 3, H, W]``, float32 in [0, 1], channels-last in memory.
    """
    return pictures.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def _storage(shape: tuple[int, ...], ram_budget: int) -> NDArray[np.uint8]:
    if int(np.prod(shape)) <= at_most(ram_budget):
        return np.empty(shape, dtype=np.uint8)
    return on_disk(int(np.prod(shape)), "pictures").reshape(shape)
