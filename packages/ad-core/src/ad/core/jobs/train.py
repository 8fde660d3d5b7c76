"""The main job: learn from good pictures, calibrate, save, test.

What is tested is the saved model, loaded again: the figures are those of the files a user ships.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ad.core.callbacks import Callback, Callbacks
from ad.core.data.batches import PictureSet
from ad.core.data.contents import check_pictures
from ad.core.data.inventory import take_inventory
from ad.core.data.levels import find_white_level
from ad.core.data.samples import Sample, collect, locate
from ad.core.devices import peak_memory, resolve_device, resolve_precision
from ad.core.errors import DataError, OutputError, PictureError, SettingError
from ad.core.figures.measure import Evaluation, Metrics, measure
from ad.core.jobs.run_directory import describe_run, forget, make_run, resume_run
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.distributed import join_world
from ad.core.learning.loop import fit
from ad.core.options import Minutes, checked
from ad.core.predict import Conditions, LoadedDetector, ModelConfig, load
from ad.core.progress import SILENT, Progress
from ad.core.registry import ModelRegistry, get_dataset, get_tracker, load_trainer
from ad.core.report.gallery import Gallery
from ad.core.report.run import REPORT, write_run_report
from ad.core.saved.allocation import fits_in_memory
from ad.core.saved.claims import letting_go
from ad.core.saved.files import save_model, to_json, write_atomic
from ad.core.saved.paths import given_path
from ad.core.saved.record import LOG, RunLog
from ad.core.settings import DEFAULT_FALSE_ALARMS, RunSettings, run_settings
from ad.core.thresholds.calibrate import Calibration
from ad.core.thresholds.held_out import calibrate_on, hold_out
from ad.core.thresholds.verdicts import calibration_notes
from ad.core.tracking import Tracker
from ad.core.trainer import GradientTrainer, OnePassTrainer, Setup


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What `train` made."""

    run: Path
    """The run directory."""
    metrics: Metrics
    """The figures on the test split; None where one is not defined."""
    evaluation: Evaluation
    """The same with each category's figures and notes."""
    detector: LoadedDetector
    """The saved detector, loaded."""
    threshold: float | None
    """Score above which a picture is called anomalous; None without held-out pictures."""
    seconds: dict[str, float | None]
    """``fit``: learning from the pictures; ``test_per_image``: decoding and scoring one."""
    peak_memory: int | None
    """Largest memory of the process so far (of the GPU, if on one), in bytes; None if unknown."""
    notes: tuple[str, ...]
    """What a user should know about this run."""
    report: Path | None
    """The report that was written, if one was."""


@letting_go()
def train(
    dataset_type: str,
    category: str,
    model_type: str,
    num_epochs: int | None = None,
    batch_size: int | None = None,
    img_size: int | None = None,
    normalize: bool | None = None,
    *,
    data_root: str | Path | None = None,
    output_dir: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    seed: int = 0,
    weights: str | Path = "auto",
    holdout: float = 0.1,
    false_alarms: float = DEFAULT_FALSE_ALARMS,
    num_steps: int | None = None,
    budget: Literal["default", "paper"] = "default",
    feature_cache: Literal["auto", "off"] = "auto",
    patience: int | None = None,
    compile: bool = False,
    track: Sequence[str] = (),
    resume: str | Path | None = None,
    checkpoint_minutes: float = 5.0,
    report: bool = True,
    model: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a detector on good pictures, calibrate it, save it and test what was saved.

    Args:
        dataset_type: Layout of the data: ``mvtec``, ``mtd``, ``folder``, ``synthetic``, ...
        category: A category, a comma list, or ``all``: one detector for them together.
        model_type: Registry name: ``patchcore``, ...
        num_epochs: How often each picture is seen; the catalogue's number by default.
        batch_size: Pictures in a training batch; the catalogue's by default.
        img_size: Side of the square pictures in pixels; the catalogue's by default.
        normalize: ImageNet normalisation inside the detector; the catalogue's by default.
        data_root: Folder of the data set.
        output_dir: Run directory to make; ``runs/<data set>-<category>-<model>`` by default,
            with a number behind it when that is taken.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: Of frozen networks; ``auto`` is the fastest safe one of the device.
        seed: Same seed, machine and threads: same files, but for ``log.jsonl``, which has times.
        weights: ``auto``, ``random`` or a file: see `ad.core.networks.backbones`.
        holdout: Share of the training pictures kept back to calibrate threshold and scale; 0
            keeps none, and then there is no verdict. Data that bring validation pictures are
            calibrated with these instead, whatever the share above 0.
        false_alarms: Share of good pictures that the threshold may call defective, in (0, 1);
            how many held-out pictures it takes to promise that is in the notes.
        num_steps: Batches to learn from, in place of epochs; for models that learn by gradient.
        budget: ``paper`` is the authors' schedule where they published one; what is set here
            counts more than either.
        feature_cache: ``off`` computes outputs of frozen networks anew in each epoch.
        patience: Stop after so many epochs without a better value on held-out good pictures.
        compile: Compile the computation of losses by `torch.compile`: a minute or more at the
            start, for faster steps. Needs a C++ compiler on the CPU.
        track: Names of trackers that are told how it goes beside ``log.jsonl``:
            ``tensorboard``, ``mlflow``, or a plug-in's; see `ad.core.tracking`.
        resume: Run directory of a run that was stopped or killed; all else must be as it was. It
            ends like a run that was not.
        checkpoint_minutes: How often what was learnt is saved to resume from.
        report: Whether to write ``report.html`` into the run directory.
        model: Options of the model.
        callbacks: Told how it goes: see `ad.core.callbacks`.
        progress: Where to show how far it is; silent by default.

    Raises:
        AdError: One of its kinds, for anything that can be wrong with settings, data or files.
    """
    spec = ModelRegistry.get(model_type)
    trainer_class = load_trainer(spec)
    dataset = get_dataset(dataset_type)
    title = category
    category, root = locate(dataset, category, data_root)
    if data_root is None and dataset.path_as_category and root is not None:
        title = root.name  # the category was given as a folder
    settings = run_settings(
        spec,
        trainer_class,
        dataset=dataset_type,
        category=category,
        data_root=None if root is None else str(root),
        num_epochs=num_epochs,
        batch_size=batch_size,
        img_size=img_size,
        normalize=normalize,
        options=dict(model or {}),
        weights=str(weights),
        device=device,
        precision=precision,
        seed=seed,
        holdout=float(holdout) if isinstance(holdout, int) else holdout,
        false_alarms=false_alarms,
        num_steps=num_steps,
        budget=budget,
        feature_cache=feature_cache,
        patience=patience,
        compile=compile,
    )
    checked(Minutes, checkpoint_minutes, "`checkpoint_minutes`")
    if issubclass(trainer_class, OnePassTrainer):
        _check_one_pass(settings)
    trackers = [get_tracker(name) for name in dict.fromkeys(track)]
    world = join_world()
    target = resolve_device(settings.device)
    used_precision = resolve_precision(settings.precision, target)
    samples = collect(dataset, category, root=root, seed=seed, progress=progress)
    learning, held_out = hold_out(samples, settings.holdout, seed)
    test = [sample for sample in samples if sample.split == "test"]
    inventory = take_inventory(dataset, root, samples)
    if world.main:
        for line in inventory.read_as():
            progress.tell(line)
        if left_out := inventory.not_read():
            progress.tell(f"left out: {left_out}")
    data_notes = [*inventory.notes(), *check_pictures(samples, progress=progress)]
    white = find_white_level([sample.path for sample in samples], progress=progress)

    # Everything that can be refused has been; only now does the run touch the disk.
    setup = Setup(
        img_size=settings.img_size,
        normalize=settings.normalize,
        num_epochs=settings.num_epochs,
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        weights=settings.weights,
        device=target,
        precision=used_precision,
        progress=progress,
    )
    with fits_in_memory(spec.name):
        trainer = trainer_class(setup, **settings.options)
    record = describe_run(
        settings, samples, trainer, target, used_precision, world, read=inventory.to_json()
    )
    name = f"{dataset_type}-{title}-{model_type}"
    run = world.tell(_begin(record, name, output_dir, resume) if world.main else Path())
    log = RunLog(run / LOG, quiet=not world.main)
    log.write(
        "start" if resume is None else "resume",
        learning=len(learning),
        held_out=len(held_out),
        test=len(test),
    )
    told = Callbacks([log, *callbacks])
    read = partial(
        PictureSet,
        size=settings.img_size,
        cache=isinstance(trainer, GradientTrainer),
        white=white.value,
    )
    started = time.perf_counter()
    try:
        if world.main:
            told += [tracker(run, record) for tracker in trackers]
        fit(
            trainer,
            read([sample.path for sample in learning]),
            held_out=read([sample.path for sample in held_out]),
            feature_cache=settings.feature_cache == "auto",
            patience=settings.patience,
            checkpoints=Checkpoints(run / "checkpoint", every_seconds=60 * checkpoint_minutes),
            callbacks=told,
            world=world,
            compiled=settings.compile,
        )
    except BaseException:
        if world.main and resume is None and not (run / "checkpoint").exists():
            forget(run)
        raise
    fit_seconds = time.perf_counter() - started
    log.write("fitted", seconds=fit_seconds)

    config = ModelConfig(
        model=spec.name,
        options=settings.options,
        img_size=settings.img_size,
        normalize=settings.normalize,
        precision=used_precision,
        categories=tuple(dict.fromkeys(sample.category for sample in samples)),
        calibration=None,
        calibrated_on=None,
        white_level=white.value,
    )
    if world.main:
        if held_out:
            fitted = LoadedDetector(trainer.detector, config, target)
            found = _calibrate(fitted, held_out, settings, run, progress)
            config = replace(config, calibration=found, calibrated_on=Conditions.of(target))
        save_model(run / "model", trainer.detector, config.to_json())
    log.write("saved")
    trainer_notes = trainer.notes
    del trainer  # its memory is free before the saved model comes in

    world.wait()  # until it is there
    detector = load(run, device=settings.device)
    calibration = detector.config.calibration
    gallery = Gallery(test, calibration) if report else None
    try:
        evaluation = measure(
            detector,
            test,
            batch_size=settings.batch_size,
            progress=progress,
            world=world,
            watch=None if gallery is None else gallery.see,
        )
    except PictureError as error:
        msg = (
            f"{error}\nhint: the model is saved; repair the test pictures, then: ad evaluate {run}"
        )
        raise PictureError(msg) from error
    seconds = {"fit": fit_seconds, "test_per_image": evaluation.seconds_per_image}
    peak = peak_memory(target)
    notes = (
        *white.notes,
        *trainer_notes,
        *calibration_notes(calibration),
        *data_notes,
        *evaluation.notes,
    )
    if gallery is not None:
        gallery.merge(world.gather(gallery.shown))
    if world.main:
        _write_figures(run, test, evaluation, notes)
        if gallery is not None:
            try:
                write_run_report(
                    run / REPORT,
                    record=record,
                    config=detector.config,
                    samples=test,
                    evaluation=evaluation,
                    gallery=gallery,
                    notes=notes,
                )
            except (DataError, OutputError) as error:
                msg = f"{error}\nhint: all else is there; for the report: ad report {run}"
                raise type(error)(msg) from error
        told[:] = [callback for callback in told if isinstance(callback, Tracker)]
        told.tell("on_tested", evaluation.metrics)
    log.write("tested", seconds=seconds, peak_memory_bytes=peak, metrics=evaluation.metrics)
    return TrainResult(
        run=run,
        metrics=evaluation.metrics,
        evaluation=evaluation,
        detector=detector,
        threshold=detector.threshold,
        seconds=seconds,
        peak_memory=peak,
        notes=notes,
        report=run / REPORT if report else None,
    )


def _calibrate(
    detector: LoadedDetector,
    held_out: Sequence[Sample],
    settings: RunSettings,
    run: Path,
    progress: Progress,
) -> Calibration:
    pictures = detector.pictures([sample.path for sample in held_out])
    rate, batch_size = settings.false_alarms, settings.batch_size
    try:
        return calibrate_on(
            detector.score, pictures, rate, batch_size=batch_size, progress=progress
        )
    except PictureError as error:
        msg = (
            f"{error}\nhint: it was held out to set the threshold; restore it, then the "
            f"same command with `--resume {run}`"
        )
        raise PictureError(msg) from error


def _begin(
    record: Mapping[str, Any], name: str, output_dir: str | Path | None, resume: str | Path | None
) -> Path:
    """Make the folder of a run, or find the one that goes on."""
    if resume is not None:
        return resume_run(given_path(resume, "the run to resume"), record, output_dir)
    run = make_run(name, output_dir)
    try:
        write_atomic(run / "run.json", to_json(record))
    except OutputError:
        (run / LOG).unlink()  # so that the same command can be tried again
        raise
    return run


def _write_figures(
    run: Path, test: Sequence[Sample], evaluation: Evaluation, notes: Sequence[str]
) -> None:
    """Write scores and metrics; the run is finished by that."""
    lines = "".join(
        json.dumps(
            {
                "path": str(sample.path),
                "category": sample.category,
                "group": sample.group,
                "label": sample.label,
                "score": score,
            }
        )
        + "\n"
        for sample, score in zip(test, evaluation.scores, strict=True)
    )
    write_atomic(run / "scores.jsonl", lines.encode())
    write_atomic(run / "metrics.json", to_json({**evaluation.to_json(), "notes": list(notes)}))
    Checkpoints(run / "checkpoint").clear()


def _check_one_pass(settings: RunSettings) -> None:
    for name, value, allowed in (
        ("num_epochs", settings.num_epochs, 1),
        ("num_steps", settings.num_steps, None),
        ("patience", settings.patience, None),
    ):
        if value != allowed:
            msg = (
                f"`{settings.model}` learns in one pass over the pictures: `{name}` must be "
                f"{allowed or 'left out'}; got {value}."
            )
            raise SettingError(msg)
