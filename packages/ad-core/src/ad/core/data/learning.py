"""The pictures a gradient trainer learns from, with what its frozen networks say of them.

A frozen network sees each picture once: its outputs are kept in memory, or in a temporary file
where they are many, in the precision in which they were computed. Training with the cache and
without gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from ad.core.data.batches import PictureSet, on_disk, to_device
from ad.core.progress import SILENT, Progress

FEATURE_BUDGET = 4 * 2**30
"""Bytes of frozen networks' outputs that are kept in memory; more go to a temporary file."""

_FILL_BATCH = 8


def stream(*key: int) -> int:
    """A seed for one use of randomness, drawn from the whole numbers that name it."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is known of some pictures to learn from, good and defective."""

    labels: Tensor
    """``[B]``, float32: 1 if a picture is defective, 0 if it is good."""
    masks: Tensor
    """``[B, H, W]``, float32: 1 where a picture is defective, 0 elsewhere and where that is not
    known."""
    known: Tensor
    """``[B]``, bool: whether it is known where: of good pictures, and of defective ones with masks
    that mark something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningBatch:
    """Some pictures to learn from."""

    images: Tensor
    """``[B, 3, H, W]``, float32 in [0, 1], on the device."""
    frozen: tuple[Tensor, ...]
    """What `GradientTrainer.frozen` says of them."""
    indices: tuple[int, ...]
    """Which pictures they are."""
    epoch: int
    """How often all pictures were seen before."""
    seed: int
    """Of the run."""
    step: int = 0
    """How many batches were learnt from before, where learning has phases."""
    update: int = 0
    """Which of the updates that it gives is meant; see `GradientTrainer.num_updates`."""
    truth: Truth | None = None
    """What is known of them; None if all are good and no others were asked for."""

    def generator(self, row: int) -> torch.Generator:
        """A fresh source of randomness for one picture: it depends on seed, epoch and picture.

        Args:
            row: Place in the batch.
        """
        index = self.indices[row]
        return torch.Generator().manual_seed(stream(self.seed, 2, self.epoch, index))


@final
class LearningData:
    """Pictures on the device of a trainer, again and again.

    Args:
        pictures: Good parts.
        device: Where batches are wanted.
        frozen: Images ``[B, 3, H, W]`` to what does not change while learning.
        cache: Whether to keep that.
        seed: Of the run.
        budget: Bytes to keep in memory; a larger cache is a temporary file.
    """

    def __init__(
        self,
        pictures: PictureSet,
        device: torch.device,
        frozen: Callable[[Tensor], Sequence[Tensor]],
        *,
        cache: bool = True,
        seed: int = 0,
        budget: int = FEATURE_BUDGET,
    ) -> None:
        self.pictures = pictures
        self.device = device
        self.frozen = frozen
        self.cache = cache
        self.seed = seed
        self.budget = budget
        self._kept: list[Tensor] | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def fill(self, progress: Progress = SILENT) -> None:
        """Compute and keep what the frozen networks say, if it is to be kept and there is any."""
        if not self.cache or self._kept is not None:
            return
        (first,) = self.pictures.batches(1, order=[0])
        outputs = self._ask(to_device(first.pictures, self.device))
        if not outputs:  # nothing is frozen: a pass would be for nothing
            self.cache = False
            return
        self._kept = [self._room(output) for output in outputs]
        with progress.step("features", total=len(self), unit=self.pictures.unit) as advance:
            for batch in self.pictures.batches(_FILL_BATCH):
                outputs = self._ask(to_device(batch.pictures, self.device))
                for kept, output in zip(self._kept, outputs, strict=True):
                    kept[batch.indices] = _cells_first(output).cpu()
                advance(len(batch.indices))

    def batches(
        self, batch_size: int, *, order: Sequence[int] | None = None, epoch: int = 0
    ) -> Iterator[LearningBatch]:
        """Go through pictures.

        Args:
            batch_size: Pictures in a batch; the last one may be smaller.
            order: Which pictures, in which order; all by default.
            epoch: How often all were seen before.
        """
        for batch in self.pictures.batches(batch_size, order=order):
            images = to_device(batch.pictures, self.device)
            yield LearningBatch(
                images=images,
                frozen=self._ask(images) if self._kept is None else self._recall(batch.indices),
                indices=tuple(batch.indices),
                epoch=epoch,
                seed=self.seed,
            )

    def _ask(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # not inference mode: gradients of others pass by these tensors
            return tuple(self.frozen(images))

    def _recall(self, indices: list[int]) -> tuple[Tensor, ...]:
        assert self._kept is not None
        rows = (kept[indices].to(self.device, non_blocking=True) for kept in self._kept)
        return tuple(_channels_first(some) for some in rows)

    def _room(self, output: Tensor) -> Tensor:
        shape = (len(self), *_cells_first(output).shape[1:])
        size = len(self) * output[0].numel() * output.element_size()
        if size * 4 <= self.budget:  # there are up to four layers
            return torch.empty(shape, dtype=output.dtype)
        return torch.from_numpy(on_disk(size, "features")).view(output.dtype).view(shape)


def _cells_first(output: Tensor) -> Tensor:
    """Maps as they lie in memory, so that they come back channels-last without a copy."""
    return output.permute(0, 2, 3, 1) if output.ndim == 4 else output


def _channels_first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
