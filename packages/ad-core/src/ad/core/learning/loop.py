"""What drives a trainer: hands it the pictures, in order, on its device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from ad.core.callbacks import Callback, Callbacks, LoopState, checked_callbacks
from ad.core.data.batches import PictureSet, to_device
from ad.core.data.learning import Defects, LearningData
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
    defects: Defects | None = None,
    held_out: PictureSet | None = None,
    feature_cache: bool = True,
    patience: int | None = None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Callback] = (),
    world: World = ALONE,
    compiled: bool = False,
) -> None:
    """Teach a trainer's detector.

    Args:
        trainer: Fresh; its detector is fitted afterwards.
        pictures: Good parts, but for ``defects``, at the setup's size.
        defects: Which of them are defective, for a trainer that learns from defects, each with its
            mask ``[H, W]`` at the setup's size, or None where there is none.
        held_out: Good parts to watch learning by, or to scale by, if the trainer does: see
            `GradientTrainer.uses_held_out`. A threshold that is set on them promises too much.
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
            Or if there are no defects, and the trainer learns from some.
        SettingError: If there is ``patience`` but nothing to judge progress by, a batch cannot be
            shared by the processes, or there are defects that the trainer does not learn from, or
            that are not among the pictures, or whose masks are of another size.
        LearningError: If a loss is not finite.
        Interrupted: On SIGTERM or Ctrl-C, after the step was finished and saved; only with
            checkpoints.
        PluginError: If the trainer is of a kind that nothing here can drive, or a callback is
            none.
    """
    checked = checked_callbacks(callbacks)
    told = callbacks if isinstance(callbacks, Callbacks) else Callbacks(checked)
    if not world.main:
        told = Callbacks()
    if not isinstance(trainer, OnePassTrainer | GradientTrainer):
        msg = f"`{type(trainer).__name__}` must be a `OnePassTrainer` or a `GradientTrainer`."
        raise PluginError(msg)
    _check_defects(trainer, pictures, defects)
    try:
        if isinstance(trainer, OnePassTrainer):
            _pass_once(trainer, pictures, told, world)
        else:
            device, seed = trainer.setup.device, trainer.setup.seed
            world.check_batch(trainer.setup.batch_size)
            data = LearningData(
                pictures, device, trainer.frozen, cache=feature_cache, seed=seed, defects=defects
            )
            others = None
            if held_out is not None and len(held_out) and trainer.uses_held_out():
                kept = feature_cache and _watches_kept(trainer)
                others = LearningData(held_out, device, trainer.frozen, cache=kept, seed=seed)
            _check_patience(patience, trainer, others)
            descent = Descent(trainer, data, others, patience, checkpoints, told, world, compiled)
            with _own_randomness(device):
                descent.run()
    except BaseException as error:
        told.tell("on_exception", error)
        raise
    trainer.detector.eval().requires_grad_(False)


def _check_defects(trainer: Trainer, pictures: PictureSet, defects: Defects | None) -> None:
    name = type(trainer).__name__
    if not trainer.learns_from_defects:
        if defects:
            msg = f"`{name}` learns from good pictures alone; got {len(defects)} `defects`."
            raise SettingError(msg)
        return
    if isinstance(trainer, OnePassTrainer):
        msg = f"`{name}` must be a `GradientTrainer` to learn from defects."
        raise PluginError(msg)
    if not defects:
        msg = (
            f"`{name}` learns from labelled defective pictures, too, and there are none. Give them "
            "among the pictures and say in `defects` which they are."
        )
        raise DataError(msg)
    height, width = pictures.size
    for index, mask in defects.items():
        if not 0 <= index < len(pictures):
            msg = (
                f"`defects` names pictures by their numbers, 0 to {len(pictures) - 1}; got {index}."
            )
            raise SettingError(msg)
        if mask is not None and mask.shape != (height, width):
            msg = (
                f"A mask in `defects` must be of the pictures' size, {height} x {width}; that of "
                f"picture {index} is {' x '.join(map(str, mask.shape))}."
            )
            raise SettingError(msg)
    if len(defects) == len(pictures):
        all_ = "The only picture is" if len(pictures) == 1 else f"All {len(pictures)} pictures are"
        msg = f"{all_} defective; `{name}` needs good ones, too."
        raise DataError(msg)


def _check_patience(
    patience: int | None, trainer: GradientTrainer, held_out: LearningData | None
) -> None:
    watched = type(trainer).monitor is not GradientTrainer.monitor or _watches_kept(trainer)
    if patience is not None and not (watched and held_out is not None):
        reason = "this model does not watch its learning"
        if watched:
            reason = "nothing is held out, or a single picture, which is for the threshold"
        more = ", or hold out 2 or more: `--holdout 0.1` (`holdout=0.1` in Python)"
        msg = (
            f"`patience` {patience} has nothing to go by: {reason}. Leave it out"
            f"{more if watched else ''}."
        )
        raise SettingError(msg)


def _watches_kept(trainer: GradientTrainer) -> bool:
    return type(trainer).monitor_kept is not GradientTrainer.monitor_kept


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
                        finite(trainer.extract(to_device(batch.pictures, setup.device))),
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


def finite(extracted: T) -> T:
    """What was extracted, checked: statistics of what is no number fail far from the reason.

    Raises:
        DataError: If a number is not finite.
    """
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
