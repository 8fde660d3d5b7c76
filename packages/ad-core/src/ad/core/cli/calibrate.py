"""`ad calibrate`: another threshold for a detector that is trained."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ad.core.cli.options import (
    CompileOption,
    FalseAlarmsOption,
    JsonOption,
    PrecisionChoice,
    RunArgument,
    path_of,
)

if TYPE_CHECKING:
    from ad.runtime.calibration import Calibration


def calibrate(
    run: RunArgument,
    normals: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--normals`"),
            metavar="DIR",
            help="Good pictures that the detector has not learnt from.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--validation`"),
            metavar="DIR",
            help="In their place: `good` and folders of defective pictures, for the best F1.",
        ),
    ] = None,
    false_alarms: FalseAlarmsOption[float | None] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="In their place: a score of your choice, as the report's slider has it.",
            show_default=False,
        ),
    ] = None,
    pixel_threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="With --threshold: the same for pixels; else theirs stays.",
            show_default=False,
        ),
    ] = None,
    undo: Annotated[
        bool,
        typer.Option(
            "--undo", help="In their place: take back the calibration before; see `ad show RUN`."
        ),
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where the detector will work.")
    ] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="In which it will work; auto: as until now.")
    ] = PrecisionChoice.auto,
    compiled: CompileOption = False,
    json: JsonOption = False,
) -> None:
    """Set the threshold of a trained detector anew, from pictures it has not seen or by hand.

    Example: [bold]ad calibrate runs/folder-parts-patchcore --normals ./new_good_parts[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, notes, print_json, put, say
    from ad.core.registry import load_trainer
    from ad.core.saved.record import run_around

    spec = early.check_run_or_export(run)
    if normals is not None:
        early.check_good(normals)
    if validation is not None:
        early.check_data("folder", "all", validation)
    with loading():
        from ad.core.jobs.recalibrate import recalibrate

        if spec is not None:
            load_trainer(spec)
    result = recalibrate(
        run,
        normals=normals,
        validation=validation,
        false_alarms=false_alarms,
        threshold=threshold,
        pixel_threshold=pixel_threshold,
        undo=undo,
        device=device,
        precision=precision.value,
        compile=compiled,
        progress=ConsoleProgress(),
    )
    if json:
        before = result.before.facts() if result.before else None
        print_json(
            {
                "run": str(run),
                "before": before,
                "after": result.after.facts() if result.after else None,
                "checked": result.checked,
                "notes": list(result.notes),
            }
        )
    else:
        put(f"before  {described(result.before)}")
        put(f"now     {described(result.after)}")
    notes(result.notes)
    say(f"the change is kept in {result.log}")
    if not undo:
        say(f"\nhint: to take it back: ad calibrate {shlex.quote(str(run))} --undo")
    if result.tested:
        home = run_around(run)
        scores = home / "scores.jsonl"  # empty where there are no test pictures to evaluate on
        again = "report" if scores.is_file() and not scores.stat().st_size else "evaluate"
        say(
            "metrics.json and report.html were made before this, with verdicts of an earlier "
            f"threshold\n\nhint: the verdicts of the new one: ad {again} "
            f"{shlex.quote(str(home))}"
        )


def described(calibration: Calibration | None) -> str:
    """A calibration for a person: its thresholds, and below, indented, what they promise."""
    if calibration is None:
        return "no threshold"
    pixels = calibration.pixel_threshold
    of_pixels = "" if pixels is None else f", {pixels:.4g} for pixels"
    return f"threshold {calibration.threshold:.4g}{of_pixels}\n        {calibration.promise()}"
