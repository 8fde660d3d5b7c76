"""What drives a trainer: hands it the pictures, in order, on its device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ad.core.callbacks import Callback, Callbacks, LoopState
from ad.core.data.batches import PictureSet, to_device
from ad.core.data.learning import LearningData
from ad.core.errors import DataError, PluginError, SettingError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.descent import Descent
from ad.core.learning.distributed import ALONE, World
from ad.core.trainer import GradientTrainer, OnePassTrainer, Trainer

T = TypeVar("T")


def fit(
    trainer: Trainer,
    pictures: PictureSet,
    *,
    held_out: PictureSet | None = None,
    feature_cache: bool = True,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    world: World = ALONE,
    compiled: bool = False,
) -> None:
    """Teach a trainer's detector from normal pictures.

    Args:
        trainer: Fresh; its detector is fitted afterwards.
        pictures: Good parts only, at the setup's size.
        held_out: Good parts to watch learning by, if the trainer does.
        feature_cache: Whether outputs of frozen networks are kept; see `ad.core.data.learning`.
        patience: Stop after so many epochs without a better value of the trainer's monitor.
        checkpoints: Where to keep what is needed to go on after a kill, and to go on from.
        callbacks: Told how it goes.
        world: The processes that learn together, each of which calls this. A trainer that learns
            by gradient is the same in all of them afterwards; one that learns in one pass has
            learnt in the first one only.
        compiled: Whether the losses are compiled by `torch.compile`.

    Raises:
        PictureError: If a picture cannot be read.
        DataError: If what a frozen network says of a picture is no finite number.
        SettingError: If there is ``patience`` but nothing to judge progress by, or a batch
            cannot be shared by the processes.
        LearningError: If a loss is not finite.
        Interrupted: On SIGTERM or Ctrl-C, after the step was finished and saved; only with
            checkpoints.
        PluginError: If the trainer is of a kind that nothing here can drive, or a callback is
            none.
    """
    for callback in callbacks:
        if not isinstance(callback, Callback):
            msg = f"A callback must be an `ad.core.Callback`; got `{type(callback).__name__}`."
            raise PluginError(msg)
    told = callbacks if isinstance(callbacks, Callbacks) else Callbacks(callbacks)
    if not world.main:
        told = Callbacks()
    if not isinstance(trainer, OnePassTrainer | GradientTrainer):
        msg = f"`{type(trainer).__name__}` must be a `OnePassTrainer` or a `GradientTrainer`."
        raise PluginError(msg)
    try:
        if isinstance(trainer, OnePassTrainer):
            _pass_once(trainer, pictures, told, world)
        else:
            device, seed = trainer.setup.device, trainer.setup.seed
            world.check_batch(trainer.setup.batch_size)
            data = LearningData(pictures, device, trainer.frozen, cache=feature_cache, seed=seed)
            others = None
            if held_out is not None and len(held_out):
                others = LearningData(held_out, device, trainer.frozen, cache=False, seed=seed)
            _check_patience(patience, trainer, others)
            descent = Descent(trainer, data, others, patience, checkpoints, told, world, compiled)
            with _own_randomness(device):
                descent.run()
    except BaseException as error:
        told.tell("on_exception", error)
        raise
    trainer.detector.eval().requires_grad_(False)


def _check_patience(
    patience: int | None, trainer: GradientTrainer, held_out: LearningData | None
) -> None:
    watched = type(trainer).monitor is not GradientTrainer.monitor
    if patience is not None and not (watched and held_out is not None):
        reason = "nothing is held out" if watched else "this model does not watch its learning"
        msg = (
            f"`patience` {patience} has nothing to go by: {reason}. Leave it out"
            f"{', or train with `--holdout 0.1` (`holdout=0.1` in Python)' if watched else ''}."
        )
        raise SettingError(msg)


def _pass_once(
    trainer: OnePassTrainer, pictures: PictureSet, callbacks: Callbacks, world: World
) -> None:
    """Extract in every process, observe in the first one, in the order of one alone."""
    setup = trainer.setup
    groups = range(0, len(pictures), setup.batch_size)
    own = [
        row
        for start in groups[world.rank :: world.size]
        for row in range(start, min(start + setup.batch_size, len(pictures)))
    ]
    batches = pictures.batches(setup.batch_size, order=own)
    with torch.inference_mode():
        trainer.begin(len(pictures))
        callbacks.tell("on_fit_start", LoopState(epoch=0, step=0, total_steps=len(groups)))
        with setup.progress.step("learning", total=len(pictures), unit=pictures.unit) as advance:
            for _ in range(0, len(groups), world.size):
                extracted = [
                    (
                        _finite(trainer.extract(to_device(batch.pictures, setup.device))),
                        len(batch.indices),
                    )
                    for batch in islice(batches, 1)  # in the last round there may be none for all
                ]
                for found in world.gather(extracted):
                    for features, count in found:
                        trainer.observe(features)
                        advance(count)
        if world.main:
            trainer.conclude()
        ended = LoopState(epoch=0, step=len(groups), total_steps=len(groups))
        callbacks.tell("on_fit_end", ended)


def _finite(extracted: T) -> T:
    """What was extracted, checked: statistics of what is no number fail far from the reason."""
    for part in extracted if isinstance(extracted, tuple | list) else (extracted,):
        if isinstance(part, Tensor) and not part.isfinite().all():
            msg = (
                "What the frozen network says of some pictures is no finite number: its weights "
                "are not what they should be. Look at where they come from."
            )
            raise DataError(msg)
    return extracted


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Leave torch's global random generators to the caller as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
