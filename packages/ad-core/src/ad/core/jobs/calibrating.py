"""The threshold of a detector that has just learnt, from what was held out or across folds."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ad.core.errors import DataError, PictureError
from ad.core.jobs.good_pictures import CrossFitted
from ad.core.jobs.plan import Plan, RunData
from ad.core.learning.cross_fitting import cross_fitted
from ad.core.predict import Conditions, LoadedDetector, ModelConfig
from ad.core.saved.allocation import fits_in_memory
from ad.core.thresholds.held_out import calibrate_across
from ad.core.trainer import OnePassTrainer, Trainer
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.good_scores import Scored, calibrate_on
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT


def with_threshold(
    config: ModelConfig,
    trainer: Trainer,
    plan: Plan,
    data: RunData,
    run: Path,
    watch: CrossFitted | None = None,
) -> ModelConfig:
    """A fitted detector's configuration with its threshold; as it is where there is none to find.

    Args:
        config: Without one.
        trainer: That has learnt.
        plan: Of the run.
        data: What it was held out of, or the folds.
        run: Its directory, for what an error says.
        watch: Looks at the pictures of folds as they are scored.

    Raises:
        PictureError: If a picture cannot be read any more.
        DataError: If there are too few for a detector that is fitted to the other folds.
        AdError: As `ad.core.learning.loop.fit` does, where detectors are fitted to folds.
    """
    samples = data.learning if data.folds else data.held_out
    if not samples:
        return config
    pictures = [sample.path for sample in samples]
    try:
        found = (
            _across(config, plan, data, pictures, watch)
            if data.folds
            else calibrate_on(
                LoadedDetector(trainer.detector, config, plan.device).scored,
                pictures,
                plan.settings.false_alarms,
                plan.framing,
                batch_size=plan.settings.batch_size,
                progress=plan.progress,
            )
        )
    except PictureError as error:
        used = "used" if data.folds else "held out"
        msg = (
            f"{error}\nhint: it was {used} to set the threshold; restore it, then the "
            f"same command with `--resume {shlex.quote(str(run))}`"
        )
        raise PictureError(msg) from error
    except DataError as error:
        if not data.folds:  # it is the scores that cannot be: pictures that cannot are told above
            name = plan.spec.name
            msg = f"{error}\nhint: they are scores of model `{name}`; `ad check {name}` tries it"
            raise DataError(msg) from error
        msg = (
            f"{error}\nhint: a detector that learns from the other folds of so few good pictures "
            "(`--holdout cross`) cannot; `--holdout 0` learns from all, and sets no threshold"
        )
        raise DataError(msg) from error
    where = Conditions.of(plan.device, plan.framing.tile_counts(pictures))
    return replace(config, calibration=found, calibrated_on=where)


def _across(
    config: ModelConfig,
    plan: Plan,
    data: RunData,
    pictures: Sequence[Path],
    watch: CrossFitted | None,
) -> Calibration:
    setup = replace(plan.setup(), progress=SILENT)  # that of the folds is shown

    def fresh() -> OnePassTrainer:
        with fits_in_memory(plan.spec.name):
            trainer = plan.trainer(setup, **plan.settings.options)
        assert isinstance(trainer, OnePassTrainer)  # others are refused before they learn
        return trainer

    def scored() -> Iterator[Callable[[Sequence[Source], int], Scored]]:
        read = partial(plan.framing.pictures, white=data.white)
        folds = [read([pictures[number] for number in fold]) for fold in data.folds]
        for fold, detector in zip(data.folds, cross_fitted(fresh, folds), strict=True):
            one = LoadedDetector(detector, config, plan.device)
            yield one.scored if watch is None else watch.watching(one, fold)

    return calibrate_across(
        scored(),
        pictures,
        data.folds,
        plan.settings.false_alarms,
        plan.framing,
        batch_size=plan.settings.batch_size,
        progress=plan.progress,
    )
