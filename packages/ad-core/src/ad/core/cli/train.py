"""`ad train`: from good pictures to a saved detector and its figures."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ad.core.cli.options import (
    BatchSizeOption,
    Budget,
    BudgetOption,
    CategoryArgument,
    CropOption,
    DataRootOption,
    DatasetArgument,
    DeviceOption,
    EpochsOption,
    FalseAlarmsOption,
    FitChoice,
    FitOption,
    HoldoutOption,
    ImgSizeOption,
    JsonOption,
    ModelArgument,
    OverlapOption,
    PrecisionChoice,
    PrecisionOption,
    ReportOption,
    ResizeOption,
    RoiOption,
    SeedOption,
    SetOption,
    StepsOption,
    SupervisedOption,
    TileOption,
    TileScaleOption,
    WeightsOption,
    path_of,
)

if TYPE_CHECKING:
    from ad.core.jobs.train import TrainResult


class FeatureCache(StrEnum):
    """Choices of ``--feature-cache``."""

    auto = "auto"
    off = "off"


def train(
    dataset: DatasetArgument,
    category: CategoryArgument,
    model: ModelArgument,
    data_root: DataRootOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption[int | None] = None,
    img_size: ImgSizeOption[Any] = None,
    fit: FitOption = FitChoice.stretch,
    resize: ResizeOption[Any] = None,
    crop: CropOption[Any] = None,
    roi: RoiOption = None,
    tile: TileOption[Any] = None,
    overlap: OverlapOption = None,
    tile_scale: TileScaleOption = 1.0,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="ImageNet normalisation inside."),
    ] = None,
    set_: SetOption = None,
    weights: WeightsOption = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionChoice.auto,
    seed: SeedOption = 0,
    holdout: HoldoutOption = "auto",
    false_alarms: FalseAlarmsOption[float] = 0.01,
    steps: StepsOption = None,
    budget: BudgetOption = Budget.default,
    feature_cache: Annotated[
        FeatureCache, typer.Option(help="Keep what frozen networks say, or compute it anew.")
    ] = FeatureCache.auto,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Stop after N epochs that bring nothing on held-out good pictures."
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the losses: a slow start, faster steps.")
    ] = False,
    supervised: SupervisedOption = False,
    track: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also tell `tensorboard` or `mlflow` how it goes."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(parser=path_of("`--output`"), metavar="DIR", help="Run directory to make."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--resume`"),
            metavar="RUN",
            help="Go on with a run that was stopped, settings as then.",
        ),
    ] = None,
    report: ReportOption = True,
    json: JsonOption = False,
) -> None:
    """Train a detector on good pictures, test it and save it.

    Example: [bold]ad train mvtec bottle patchcore --data-root ./mvtec_ad[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, print_json
    from ad.core.learning.distributed import is_main
    from ad.core.options import parse_assignments
    from ad.core.registry import load_trainer
    from ad.core.saved.record import read_run
    from ad.runtime.progress import SILENT

    spec = early.check_model(model, set_ or ())
    early.check_data(dataset, category, data_root)
    early.check_files(weights, roi)
    if resume is not None:
        read_run(resume)
    with loading():
        from ad.core.jobs.train import train as run_train

        load_trainer(spec)
    result = run_train(
        dataset,
        category,
        model,
        num_epochs=epochs,
        batch_size=batch_size,
        img_size=img_size,
        fit=fit.value,
        resize=resize,
        crop=crop,
        roi=roi,
        tile=tile,
        overlap=overlap,
        tile_scale=tile_scale,
        normalize=normalize,
        data_root=data_root,
        output_dir=output,
        device=device,
        precision=precision.value,
        seed=seed,
        weights=weights,
        holdout=holdout,
        false_alarms=false_alarms,
        num_steps=steps,
        budget=budget.value,
        feature_cache=feature_cache.value,
        patience=patience,
        compile=compile,
        supervised=supervised,
        track=track or (),
        resume=resume,
        report=report,
        model=parse_assignments(set_ or []),
        progress=ConsoleProgress() if is_main() else SILENT,
    )
    if not is_main():
        return
    if json:
        print_json(result_json(result))
    else:
        print_result(result)


def result_json(result: TrainResult) -> dict[str, Any]:
    """A training's result as ``--json`` prints it."""
    return {
        "run": str(result.run),
        **result.evaluation.to_json(),
        "notes": list(result.notes),
        "threshold": result.threshold,
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory,
        "report": None if result.report is None else str(result.report),
    }


def print_result(result: TrainResult) -> None:
    """A training's result for a person."""
    from ad.core.cli.console import kinds_table, metrics_table, notes, say, say_tested

    notes(result.notes)
    if result.evaluation.num_images:
        metrics_table(result.metrics, result.evaluation.categories)
        if result.evaluation.kinds:
            kinds_table(result.evaluation.kinds)
    say_tested(result.evaluation)
    fit, each = result.seconds["fit"], result.seconds["test_per_image"]
    times = f"learning {fit:.1f} s" if fit is not None else ""
    times += f", testing {each * 1000:.1f} ms a picture" if each is not None else ""
    memory = f", peak memory {result.peak_memory / 2**30:.2f} GiB" if result.peak_memory else ""
    say(f"{times}{memory}")
    say(f"saved to {result.run}")
    if result.report is not None:
        say(f"report to look at: {result.report}")
    found = result.detector.config.calibration
    if found is not None and found.needed is not None:
        say(
            f"\nhint: for a threshold from more good pictures than the {found.num_images} "
            f"{'at hand' if found.folds else 'held out'}: ad calibrate "
            f"{shlex.quote(str(result.run))} --normals FOLDER"
        )
    say(f"\nhint: ad predict {shlex.quote(str(result.run))} PICTURE_OR_FOLDER")
