"""The pictures a gradient trainer learns from, with what its frozen networks say of them.

A frozen network sees each picture once: its outputs are kept in memory, or in a temporary file
where they are many, in the precision in which they were computed. Training with the cache and
without gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad.core.data.batches import PictureSet, to_device
from ad.runtime.budget import at_most
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Progress
from ad.runtime.spill import on_disk

FEATURE_BUDGET = 4 * 2**30
"""Bytes of frozen networks' outputs that are kept in memory; more go to a temporary file."""

Defects = Mapping[int, NDArray[np.bool_] | None]
"""Which pictures are defective, each with its mask ``[H, W]``, or None where there is none."""

_FILL_BATCH = 8
_FLIPS = ((1,), (2,), (1, 2))  # of a picture `[3, H, W]`: upside down, left to right, half a turn


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
    """Which pictures they are; flipped ones have numbers of their own."""
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

    Each defective picture counts four times: as it is and flipped three ways. It is numbered as it
    is, and so is every picture; the flipped ones come behind all of them.

    Args:
        pictures: Good parts, but for ``defects``.
        device: Where batches are wanted.
        frozen: Images ``[B, 3, H, W]`` to what does not change while learning.
        cache: Whether to keep that.
        seed: Of the run.
        budget: Bytes to keep in memory; a larger cache is a temporary file.
        defects: Which pictures are defective; None if all are good.
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
        defects: Defects | None = None,
    ) -> None:
        self.pictures = pictures
        self.device = device
        self.frozen = frozen
        self.cache = cache
        self.seed = seed
        self.budget = budget
        self._kept: list[Tensor] | None = None
        self.defective = sorted(defects or ())
        """Which pictures are."""
        self.good = [index for index in range(len(pictures)) if index not in (defects or ())]
        """Which ones are not."""
        # A bit for each pixel: there may be thousands of them.
        self._masks = {
            index: None if mask is None or not mask.any() else np.packbits(mask, axis=1)
            for index, mask in (defects or {}).items()
        }

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def masked(self) -> list[int]:
        """Which of the defective pictures have a mask that marks something."""
        return [index for index in self.defective if self._masks[index] is not None]

    @property
    def epoch_length(self) -> int:
        """How many pictures an epoch has: half of them defective, if any are."""
        return 8 * len(self.defective) or len(self)

    def order(self, epoch: int) -> list[int]:
        """Which pictures an epoch has, in its order: it depends on seed and epoch alone.

        With defective ones it has each of them four times, and as many good ones: the next of a
        row in which each good picture comes once before any comes again. Both are mixed over the
        whole epoch, not batch by batch.

        Source:
            Rolih, Fučka, Skočaj, "SuperSimpleNet", ICPR 2024, whose official code draws good
            pictures at random, the more likely the less often they were drawn.
        """
        chosen: list[int] = list(range(len(self)))
        if self.defective:
            flipped = range(len(self), self._num_rows)
            chosen = [*self.defective, *flipped]
            start = epoch * len(chosen)
            chosen += self._good_from(start, start + len(chosen))
        mixed: list[int] = np.random.default_rng((self.seed, 0, epoch)).permutation(chosen).tolist()
        return mixed

    def source(self, index: int) -> Source:
        """What the picture of a number was read from, as it is or flipped."""
        return self.pictures.sources[self._upright(index)]

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
        with progress.step("features", total=self._num_rows, unit=self.pictures.unit) as advance:
            for indices, images in self._read(_FILL_BATCH, range(self._num_rows)):
                outputs = self._ask(images)
                for kept, output in zip(self._kept, outputs, strict=True):
                    kept[indices] = _cells_first(output).cpu()
                advance(len(indices))

    def batches(
        self, batch_size: int, *, order: Sequence[int] | None = None, epoch: int = 0
    ) -> Iterator[LearningBatch]:
        """Go through pictures.

        Args:
            batch_size: Pictures in a batch; the last one may be smaller.
            order: Which pictures, in which order; all good ones by default.
            epoch: How often all were seen before.
        """
        for indices, images in self._read(batch_size, self.good if order is None else order):
            yield LearningBatch(
                images=images,
                frozen=self._ask(images) if self._kept is None else self._recall(indices),
                indices=tuple(indices),
                epoch=epoch,
                seed=self.seed,
                truth=self._truth(indices) if self.defective else None,
            )

    @property
    def _num_rows(self) -> int:
        return len(self) + len(_FLIPS) * len(self.defective)

    def _upright(self, index: int) -> int:
        """Number of a picture as it is."""
        flipped = index - len(self)
        return index if flipped < 0 else self.defective[flipped // len(_FLIPS)]

    def _flip(self, index: int) -> tuple[int, ...]:
        """Which sides of ``[., H, W]`` are flipped."""
        flipped = index - len(self)
        return () if flipped < 0 else _FLIPS[flipped % len(_FLIPS)]

    def _good_from(self, start: int, stop: int) -> list[int]:
        """A part of the endless row of good pictures."""
        count = len(self.good)
        found = []
        for turn in range(start // count, -(-stop // count)):
            mixed = np.random.default_rng((self.seed, 4, turn)).permutation(self.good).tolist()
            found += mixed[max(0, start - turn * count) : stop - turn * count]
        return found

    def _read(self, batch_size: int, order: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        """Numbers and pictures ``[B, 3, H, W]`` of each batch."""
        upright = [self._upright(index) for index in order]
        numbers = iter(order)
        for batch in self.pictures.batches(batch_size, order=upright):
            indices = list(islice(numbers, len(batch.indices)))
            images = to_device(batch.pictures, self.device)
            for row, index in enumerate(indices):
                if sides := self._flip(index):
                    images[row] = images[row].flip(sides)
            yield indices, images

    def _truth(self, indices: Sequence[int]) -> Truth:
        height, width = self.pictures.size
        masks = np.zeros((len(indices), height, width), dtype=np.float32)
        labels, known = [], []
        for row, index in enumerate(indices):
            upright = self._upright(index)
            mask = self._masks.get(upright)
            labels.append(float(upright in self._masks))
            known.append(upright not in self._masks or mask is not None)
            if mask is not None:
                whole = np.unpackbits(mask, axis=1, count=width)
                masks[row] = np.flip(whole, tuple(side - 1 for side in self._flip(index)))
        return Truth(
            labels=torch.tensor(labels, device=self.device),
            masks=torch.from_numpy(masks).to(self.device),
            known=torch.tensor(known, device=self.device),
        )

    def _ask(self, images: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():  # not inference mode: gradients of others pass by these tensors
            return tuple(self.frozen(images))

    def _recall(self, indices: list[int]) -> tuple[Tensor, ...]:
        assert self._kept is not None
        rows = (kept[indices].to(self.device, non_blocking=True) for kept in self._kept)
        return tuple(_channels_first(some) for some in rows)

    def _room(self, output: Tensor) -> Tensor:
        shape = (self._num_rows, *_cells_first(output).shape[1:])
        size = self._num_rows * output[0].numel() * output.element_size()
        if size * 4 <= at_most(self.budget):  # there are up to four layers
            return torch.empty(shape, dtype=output.dtype)
        return torch.from_numpy(on_disk(size, "features")).view(output.dtype).view(shape)


def _cells_first(output: Tensor) -> Tensor:
    """Maps as they lie in memory, so that they come back channels-last without a copy."""
    return output.permute(0, 2, 3, 1) if output.ndim == 4 else output


def _channels_first(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
