"""The main job: learn from good pictures, calibrate, save, test.

What is tested is the saved model, loaded again: the figures are those of the files a user ships.
"""

from __future__ import annotations

import json
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from ad.core.callbacks import Callback, Callbacks, LoopState, checked_callbacks
from ad.core.data.samples import Sample
from ad.core.devices import peak_memory
from ad.core.errors import DataError, LearningError, OutputError, PictureError, SettingError
from ad.core.figures.measure import Evaluation, Metrics, maps_beyond, measure
from ad.core.jobs.calibrating import with_threshold
from ad.core.jobs.good_pictures import CrossFitted, good_pictures
from ad.core.jobs.plan import Plan, RunData, build, look_at_data, settle
from ad.core.jobs.run_directory import describe_run, forget, make_run, resume_run
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.loop import fit
from ad.core.options import Minutes, checked
from ad.core.predict import LoadedDetector, load
from ad.core.report.gallery import Gallery, GoodPictures
from ad.core.report.run import REPORT, write_run_report
from ad.core.saved.claims import letting_go
from ad.core.saved.files import save_model
from ad.core.saved.record import LOG, RunLog
from ad.core.settings import DEFAULT_FALSE_ALARMS, Holdout
from ad.core.thresholds.verdicts import calibration_notes
from ad.core.tracking import Tracker
from ad.core.trainer import GradientTrainer, Trainer
from ad.runtime.budget import memory_budget
from ad.runtime.errors import counted, shown
from ad.runtime.files import to_json, write_atomic
from ad.runtime.framing.fit import Fit
from ad.runtime.framing.size import Sides
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress


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
    img_size: Sides | None = None,
    normalize: bool | None = None,
    *,
    fit: Fit = "stretch",
    resize: Sides | None = None,
    crop: tuple[int, int, int, int] | None = None,
    roi: str | Path | None = None,
    tile: Sides | None = None,
    overlap: int | None = None,
    tile_scale: float = 1.0,
    data_root: str | Path | None = None,
    output_dir: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    seed: int = 0,
    weights: str | Path = "auto",
    holdout: Holdout = "auto",
    false_alarms: float = DEFAULT_FALSE_ALARMS,
    num_steps: int | None = None,
    budget: Literal["default", "paper"] = "default",
    feature_cache: Literal["auto", "off"] = "auto",
    patience: int | None = None,
    compile: bool = False,
    supervised: bool = False,
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
        img_size: What the detector sees of a picture: side of a square in pixels, or height and
            width; the catalogue's by default.
        normalize: ImageNet normalisation inside the detector; the catalogue's by default.
        fit: How a picture of another shape gets that size: ``stretch``; ``pad`` keeps its
            proportions and goes on with its edge beyond it; ``crop`` stretches it to ``resize`` and
            cuts out the middle.
        resize: For ``fit`` ``crop``: a side in pixels, or height and width.
        crop: Rectangle of each picture that is looked at: x, y, width, height in its own pixels.
        roi: Region of interest: a mask at the pictures' proportions, white where they are looked at
            and black where not; for models that localise.
        tile: Cut pictures into tiles of this size, each seen by itself, in training as later:
            a side in pixels, or height and width; multiples of 32. It is ``img_size``, then.
        overlap: How far tiles overlap, in pixels, a multiple of 32; half of a tile by default.
        tile_scale: Resize pictures by this before they are cut.
        data_root: Folder of the data set.
        output_dir: Run directory to make; ``runs/<data set>-<category>-<model>`` by default,
            with a number behind it when that is taken.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: Of frozen networks; ``auto`` is the fastest safe one of the device.
        seed: Same seed, machine and threads: same files, but for ``log.jsonl``, which has times.
        weights: ``auto``, ``random`` or a file: see `ad.core.networks.backbones`.
        holdout: Share of the training pictures kept back to calibrate threshold and scale; 0
            keeps none, and then there is no verdict. Data that bring validation pictures are
            calibrated with these instead, whatever the share above 0. ``cross``: none is kept back,
            and each is scored by a detector that has not seen it, for models that learn in one
            pass; see `ad.core.thresholds.held_out.folds_of`. ``auto``: 0.1; but ``cross`` for such
            models with at most 200 good pictures, if 0.1 would promise a worse rate than
            ``false_alarms`` and there are no validation pictures.
        false_alarms: Share of good pictures that the threshold may call defective, in (0, 1);
            how many held-out pictures it takes to promise that is in the notes.
        num_steps: Batches to learn from, in place of ``num_epochs``, which is not given, then; for
            models that learn by gradient.
        budget: ``paper`` is the authors' schedule where they published one; what is set here
            counts more than either.
        feature_cache: ``off`` computes outputs of frozen networks anew in each epoch.
        patience: Stop after so many epochs without a better value on held-out good pictures.
        compile: Compile the computation of losses by `torch.compile`: a minute or more at the
            start, for faster steps. Needs a C++ compiler on the CPU.
        supervised: For a ``folder`` and a model that learns from labelled defects: take 80 % of
            each kind of defect to learn from. Data that bring such pictures to train on hand them
            over to such a model in any case.
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
    checked(Minutes, checkpoint_minutes, "`checkpoint_minutes`")
    callbacks = checked_callbacks(callbacks)
    plan = settle(
        dataset_type,
        category,
        model_type,
        data_root=data_root,
        track=track,
        progress=progress,
        num_epochs=num_epochs,
        batch_size=batch_size,
        img_size=img_size,
        normalize=normalize,
        fit=fit,
        resize=resize,
        crop=crop,
        roi=None if roi is None else str(given_path(roi, "the region of interest")),
        tile=tile,
        overlap=overlap,
        tile_scale=float(tile_scale) if isinstance(tile_scale, Integral) else tile_scale,
        options=_by_name(model),
        weights=str(weights),
        device=device,
        precision=precision,
        seed=seed,
        holdout=float(holdout) if isinstance(holdout, Integral) else holdout,
        false_alarms=false_alarms,
        num_steps=num_steps,
        budget=budget,
        feature_cache=feature_cache,
        patience=patience,
        compile=compile,
        supervised=supervised,
    )
    trainer = build(plan)
    plan, data = look_at_data(plan, trainer)

    # Everything that can be refused has been; only now does the run touch the disk.
    run = _begin(plan, data, trainer, output_dir, resume, callbacks)
    fit_seconds = _learn(plan, data, trainer, run, checkpoint_minutes)
    watch = None
    if data.folds and not data.test:
        watch = CrossFitted(data.learning, plan.framing, shown=report)
    _save(plan, data, trainer, run, watch)
    trainer_notes = trainer.notes
    del trainer  # its memory is free before the saved model comes in

    plan.world.wait()  # until it is there
    detector = load(run.path, device=plan.settings.device)
    gallery = Gallery(data.test, detector.config.calibration, detector) if report else None
    evaluation = _test(plan, data, run, detector, gallery)
    seconds = {"fit": fit_seconds, "test_per_image": evaluation.seconds_per_image}
    peak = peak_memory(plan.device)
    calibrated = calibration_notes(detector.config.calibration)
    early = _ended_early(run.log.reached, plan.settings.patience)
    notes = (*trainer_notes, *early, *calibrated, *data.notes, *evaluation.notes)
    if plan.world.main:
        _write_figures(run.path, data.test, evaluation, notes)
        if gallery is not None:
            good = None
            if not data.test:
                good = good_pictures(plan, data, detector, watch)
            _write_report(data, run, detector, evaluation, gallery, notes, good)
        run.told[:] = [callback for callback in run.told if isinstance(callback, Tracker)]
        run.told.tell("on_tested", evaluation.metrics)
    run.log.write("tested", seconds=seconds, peak_memory_bytes=peak, metrics=evaluation.metrics)
    return TrainResult(
        run=run.path,
        metrics=evaluation.metrics,
        evaluation=evaluation,
        detector=detector,
        threshold=detector.threshold,
        seconds=seconds,
        peak_memory=peak,
        notes=notes,
        report=run.path / REPORT if report else None,
    )


def _by_name(model: Mapping[str, Any] | None) -> dict[str, Any]:
    if not isinstance(model, Mapping | None):
        msg = (
            "`model` takes the model's options by their names, such as "
            f"`model={{'coreset_ratio': 0.01}}`; got {shown(model)}."
        )
        raise SettingError(msg)
    return dict(model or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """A run that has begun."""

    path: Path
    record: Mapping[str, Any]
    log: RunLog
    told: Callbacks
    resumed: bool


def _begin(
    plan: Plan,
    data: RunData,
    trainer: Trainer,
    output_dir: str | Path | None,
    resume: str | Path | None,
    callbacks: Sequence[Callback],
) -> _Run:
    """Make the folder of a run, or find the one that goes on."""
    world = plan.world
    record = describe_run(
        plan.settings,
        data.samples,
        trainer,
        plan.device,
        plan.precision,
        world,
        read=data.read,
        region=plan.framing.region,
    )
    path = Path()
    if world.main and resume is not None:
        path = resume_run(given_path(resume, "the run to resume"), record, output_dir)
    elif world.main:
        path = make_run(plan.name, output_dir)
        try:
            write_atomic(path / "run.json", to_json(record))
        except OutputError:
            (path / LOG).unlink()  # so that the same command can be tried again
            raise
    path = world.tell(path)
    log = RunLog(path / LOG, quiet=not world.main)
    log.write(
        "start" if resume is None else "resume",
        learning=len(data.learning),
        choosing=len(data.choosing),
        held_out=len(data.held_out),
        test=len(data.test),
        notes=list(data.notes),
    )
    told = Callbacks([log, *callbacks])
    return _Run(path=path, record=record, log=log, told=told, resumed=resume is not None)


def _learn(plan: Plan, data: RunData, trainer: Trainer, run: _Run, minutes: float) -> float:
    """Drive the trainer; seconds that it took."""
    read = partial(
        plan.framing.pictures,
        cache=isinstance(trainer, GradientTrainer),
        white=data.white,
    )
    checkpoints = Checkpoints(run.path / "checkpoint", every_seconds=60 * minutes)
    started = time.perf_counter()
    try:
        if plan.world.main:
            run.told.extend(tracker(run.path, run.record) for tracker in plan.trackers)
        fit(
            trainer,
            read([sample.path for sample in data.learning]),
            defects={
                index: plan.framing.truth(sample) if sample.masks else None
                for index, sample in enumerate(data.learning)
                if sample.label
            },
            held_out=read([sample.path for sample in data.choosing]),
            feature_cache=plan.settings.feature_cache == "auto",
            patience=plan.settings.patience,
            checkpoints=checkpoints,
            callbacks=run.told,
            world=plan.world,
            compiled=plan.settings.compile,
        )
    except BaseException as error:
        if plan.world.main and not run.resumed and not (run.path / "checkpoint").exists():
            forget(run.path)
        if isinstance(error, LearningError):
            name = plan.spec.name
            hint = f"if `{name}` gets here with any pictures, `ad check {name}` tries it"
            msg = f"{error}\nhint: {hint}"
            raise LearningError(msg) from error
        raise
    seconds = time.perf_counter() - started
    run.log.write("fitted", seconds=seconds)
    return seconds


def _ended_early(reached: LoopState | None, patience: int | None) -> list[str]:
    """That fewer steps were taken than the settings say, and why."""
    if reached is None or reached.step == reached.total_steps:
        return []
    why = "as a callback asked; the command alone goes on to the end"
    if patience is not None:
        epochs = counted(patience, "epoch", "epochs")
        why = f"since {epochs} brought nothing (`patience`), or as a callback asked"
    return [f"Learning ended after step {reached.step} of {reached.total_steps}, {why}."]


def _save(
    plan: Plan, data: RunData, trainer: Trainer, run: _Run, watch: CrossFitted | None
) -> None:
    """Calibrate the fitted detector and save both."""
    config = plan.config(data)
    if plan.world.main:
        try:
            config = with_threshold(config, trainer, plan, data, run.path, watch)
        except PictureError:
            raise  # it goes on when the picture is there again
        except DataError:
            if not run.resumed:
                forget(run.path)
            raise
        region = plan.framing.region
        roi = None if region is None else region.png
        save_model(run.path / "model", trainer.detector, config.to_json(), roi=roi)
        if watch is not None:
            watch.write(run.path)
    run.log.write("saved", notes=list(trainer.notes))


def _test(
    plan: Plan, data: RunData, run: _Run, detector: LoadedDetector, gallery: Gallery | None
) -> Evaluation:
    """Test what was saved; what the report shows is gathered meanwhile."""
    if detector.localises and (size := maps_beyond(memory_budget(), data.test, plan.framing)):
        run.log.write("maps_on_disk", bytes=size, folder=tempfile.gettempdir())
    try:
        evaluation = measure(
            detector,
            data.test,
            batch_size=plan.settings.batch_size,
            progress=plan.progress,
            world=plan.world,
            watch=None if gallery is None else gallery.see,
        )
    except PictureError as error:
        msg = (
            f"{error}\nhint: the model is saved; repair the test pictures, then: "
            f"ad evaluate {shlex.quote(str(run.path))}"
        )
        raise PictureError(msg) from error
    if gallery is not None:
        gallery.merge(plan.world.gather(gallery.shown))
    return evaluation


def _write_report(
    data: RunData,
    run: _Run,
    detector: LoadedDetector,
    evaluation: Evaluation,
    gallery: Gallery,
    notes: Sequence[str],
    good: GoodPictures | None,
) -> None:
    try:
        write_run_report(
            run.path / REPORT,
            record=run.record,
            config=detector.config,
            samples=data.test,
            evaluation=evaluation,
            gallery=gallery,
            notes=notes,
            good=good,
        )
    except (DataError, OutputError) as error:
        again = shlex.quote(str(run.path))
        msg = f"{error}\nhint: all else is there; for the report: ad report {again}"
        raise type(error)(msg) from error


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
