"""Detectors that have each not seen some of the pictures, for scores of all good ones.

What a frozen network says of the pictures is asked once; each detector's trainer is a fresh one,
unless a single one fits them all (`OnePassTrainer.fit_folds`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ad.core.data.batches import PictureSet, to_device
from ad.core.data.learning import FEATURE_BUDGET
from ad.core.detector import Detector
from ad.core.errors import PluginError
from ad.core.learning.loop import finite
from ad.core.trainer import OnePassTrainer
from ad.runtime.budget import at_most


def cross_fitted(
    fresh: Callable[[], OnePassTrainer],
    folds: Sequence[PictureSet],
    *,
    budget: int = FEATURE_BUDGET,
) -> Iterator[Detector]:
    """Fit a detector for each fold, to the pictures of all the others.

    Args:
        fresh: Makes a trainer that has seen nothing, each time with the same settings.
        folds: Good parts, at least two sets of at least one each.
        budget: Bytes of what `OnePassTrainer.extract` says that are kept in memory; the rest is
            asked again for each detector.

    Yields:
        For each fold in turn its detector, fitted. Only one is there at a time, though they may
        have a frozen network in common.

    Raises:
        AdError: As `ad.core.learning.loop.fit` does.
        PluginError: If a trainer that fits all folds itself gives too few detectors.
    """
    features = _Features(folds, budget)
    trainer = fresh()
    with torch.inference_mode():
        together = trainer.fit_folds(
            [(len(fold), features.of(n, trainer, keep=False)) for n, fold in enumerate(folds)]
        )
    for own in range(len(folds)):
        if together is not None:
            with torch.inference_mode():
                detector = next(together, None)
            if detector is None:
                msg = (
                    f"`fit_folds` of `{type(trainer).__name__}` must give a detector for each of "
                    f"the {len(folds)} folds, or None for all; it gave {own}."
                )
                raise PluginError(msg)
            yield detector.eval().requires_grad_(False)
            continue
        if own:
            trainer = fresh()
        others = [number for number in range(len(folds)) if number != own]
        with torch.inference_mode():
            trainer.begin(sum(len(folds[number]) for number in others))
            for number in others:
                for batch in features.of(number, trainer):
                    trainer.observe(batch)
            trainer.conclude()
        yield trainer.detector.eval().requires_grad_(False)


class _Features:
    """What a frozen network says of folds, batch by batch; no batch has pictures of two."""

    def __init__(self, folds: Sequence[PictureSet], budget: int) -> None:
        self._folds = folds
        self._kept: list[list[Any]] = [[] for _ in folds]  # of each, its first batches
        self._room: float = at_most(budget)

    def of(self, number: int, trainer: OnePassTrainer, *, keep: bool = True) -> Iterator[Any]:
        """Those of a fold, for a trainer that may change them; kept for the next one that asks."""
        pictures, kept, setup = self._folds[number], self._kept[number], trainer.setup
        for batch in tuple(kept):
            yield _copied(batch, setup.device)
        rest = range(len(kept) * setup.batch_size, len(pictures))
        if not rest:
            return
        for read in pictures.batches(setup.batch_size, order=rest):
            batch = finite(trainer.extract(to_device(read.pictures, setup.device)))
            if keep:
                self._room -= _size(batch)
                if self._room >= 0:
                    kept.append(_copied(batch, torch.device("cpu")))
            yield batch


def _size(features: Any) -> float:  # noqa: ANN401 - what `extract` of the model gives
    """Bytes of tensors; no end of what is none and so cannot be kept."""
    if isinstance(features, Tensor):
        return features.numel() * features.element_size()
    return sum(map(_size, features)) if type(features) in (tuple, list) else math.inf


def _copied(features: Any, device: torch.device) -> Any:  # noqa: ANN401 - as above
    """Tensors, or tuples or lists of them, on a device."""
    if isinstance(features, Tensor):
        return features.to(device, copy=True)
    return type(features)(_copied(part, device) for part in features)
