"""`ad export`: a trained detector for other engines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ad.core.cli.options import FalseAlarmsOption, JsonOption, RunArgument, path_of

if TYPE_CHECKING:
    from ad.core.jobs.export import Exported


class FormatChoice(StrEnum):
    """Choices of ``--format``."""

    onnx = "onnx"
    openvino = "openvino"
    pt2 = "pt2"


class InputChoice(StrEnum):
    """Choices of ``--input``."""

    uint8 = "uint8"
    float = "float"


class ExportedPrecision(StrEnum):
    """Choices of ``--precision``."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"
    int8 = "int8"


def export(
    run: RunArgument,
    format_: Annotated[
        FormatChoice, typer.Option("--format", help="Of the file; pt2: for programs with torch.")
    ] = FormatChoice.onnx,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="DIR",
            help="Folder to make; `export` in the run directory by default.",
        ),
    ] = None,
    input_: Annotated[
        InputChoice,
        typer.Option(
            "--input", help="uint8: pictures as they are; float: for engines without uint8."
        ),
    ] = InputChoice.uint8,
    precision: Annotated[
        ExportedPrecision,
        typer.Option(help="bf16 and fp16: with openvino, if it then judges as fp32 does."),
    ] = ExportedPrecision.fp32,
    normals: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--normals`"),
            metavar="DIR",
            help="Good pictures to set the threshold with, in place of the run's held-out ones.",
        ),
    ] = None,
    false_alarms: FalseAlarmsOption[float | None] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--check`"),
            metavar="DIR",
            help="Pictures to compare scores on, in place of those for the threshold.",
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(metavar="N", help="The most pictures at once.")] = 64,
    single_file: Annotated[
        bool, typer.Option("--single-file", help="Have the model's own file work without the rest.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Write a lower precision that judges otherwise.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write a trained detector for onnxruntime, OpenVINO or torch, which need no `ad train` to run.

    Example: [bold]ad export runs/folder-parts-patchcore[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, notes, print_json
    from ad.core.registry import load_trainer

    spec = early.check_run(run)
    if normals is not None:
        early.check_good(normals)
    if check is not None:
        early.check_pictures([check])
    with loading():
        from ad.core.jobs.export import export as write

        load_trainer(spec)
    result = write(
        run,
        format=format_.value,
        output=output,
        input=input_.value,
        precision=precision.value,
        normals=normals,
        false_alarms=false_alarms,
        check=check,
        max_batch=max_batch,
        single_file=single_file,
        force=force,
        progress=ConsoleProgress(),
    )
    if json:
        print_json(result.to_json())
    else:
        _print(result)
    notes(result.notes)


def _print(result: Exported) -> None:
    from ad.core.cli.console import put, say

    config, parity = result.config, result.parity
    for name in config.files:
        size = (result.output / name).stat().st_size / 1e6
        put(f"{name}  {size:.1f} MB, sha256 {result.sha256[name]}")
    if config.calibration is None:
        put("no threshold")
    else:
        where = config.calibrated_on
        put(f"threshold {config.calibration.threshold:.4g}, found by {where}")
        put(config.calibration.promise())
    for name, own in config.calibrations.items():
        put(f"threshold {own.threshold:.4g} for `{name}`")
    gap = parity["score"]
    of_scale = gap["max_scales"]
    most = f"{gap['max_abs']:.2g}" if of_scale is None else f"{of_scale:.2g} of the scale"
    put(
        f"scores differ from those of {parity['reference']} by up to {most} "
        f"({parity['pictures']} pictures, {parity['kind']})"
    )
    say(f"written to {result.output}")
