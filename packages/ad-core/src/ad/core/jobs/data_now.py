"""A run's data as they are now: what it has learnt from, what it held out, and what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ad.core.data.samples import Sample, defects_to_learn
from ad.core.errors import AdError, DataError
from ad.core.jobs.evaluate import samples_of
from ad.core.jobs.run_directory import pictures_of
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.saved.record import read_run
from ad.core.thresholds.held_out import CROSS, hold_out, share_out
from ad.core.trainer import GradientTrainer
from ad.runtime.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class DataNow:
    """The data of a run."""

    samples: Sequence[Sample]
    """All."""
    learning: Sequence[Sample]
    """What a run with its settings learns from or is chosen by, defective ones included."""
    chosen_by: bool
    """Whether some of these were held out, and what was learnt was chosen or scaled by them."""
    cross_fitted: bool
    """Whether nothing is held out since thresholds are cross-fitted."""
    held_out: Sequence[Sample]
    """What such a run sets its threshold with."""
    changed: str | None
    """What is not as it was among the training pictures, such as ``The run's data have changed
    (then ...)``, so that others may be held out; None if all is. Empty if one that is listed is
    gone."""
    held_out_changed: bool
    """Whether other pictures may be held out than those of then."""


def data_now(run: Path, progress: Progress) -> DataNow | None:
    """Find the data of a run again; None if they are gone or cannot be read.

    Args:
        run: Its directory.
        progress: Where to show how far a data set is that must be made first.
    """
    try:
        record = read_run(run)
        settings = record["settings"]
        samples = samples_of(record, None, progress)
        share, seed = settings["holdout"], settings["seed"]
        learning, held_out = hold_out(samples, share, seed)
        learning += defects_to_learn(samples)
        trainer = load_trainer(ModelRegistry.get(settings["model"]))
        chosen_by = issubclass(trainer, GradientTrainer) and trainer.uses_held_out()
        if chosen_by:
            choosing, held_out = share_out(held_out, seed)
            learning += choosing
    except (AdError, KeyError, TypeError, ValueError):
        return None
    changed, other_validation = None, True
    try:
        then, now = record["data"]["training"], pictures_of(samples, "train")
        if then != now:
            changed = (
                f"The run's data have changed (then {then[0]} good training pictures, now {now[0]})"
            )
        now = pictures_of(samples, "validation")
        # The first runs did not record it, and could not have any.
        other_validation = record["data"].get("validation", now) != now
    except DataError:  # a picture that a table lists is gone
        changed = ""
    return DataNow(
        samples=samples,
        learning=learning,
        chosen_by=chosen_by,
        cross_fitted=share == CROSS,
        held_out=held_out,
        changed=changed,
        held_out_changed=changed is not None or other_validation,
    )
