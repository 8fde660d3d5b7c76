"""`ad predict`: scores, verdicts and heat maps of new pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ad.core.cli.options import (
    DeviceOption,
    JsonOption,
    PrecisionChoice,
    RunArgument,
    SaveMapsOption,
    path_of,
)

if TYPE_CHECKING:
    from ad.core.jobs.inspect import Inspection


def predict(
    run: RunArgument,
    paths: Annotated[
        list[Path],
        typer.Argument(
            parser=path_of("a picture or folder"),
            metavar="PATH...",
            help="Pictures and folders of pictures.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="DIR",
            help="Where to write; `predictions` in the run directory by default.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="Of frozen networks; auto: that of the threshold.")
    ] = PrecisionChoice.auto,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="Call defective what scores above it, this time; the saved one stays.",
            show_default=False,
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of an export: take its threshold, where it has one of its own."
        ),
    ] = None,
    save_maps: SaveMapsOption = None,
    json: JsonOption = False,
) -> None:
    """Score new pictures; write verdicts and heat map overlays. Status 1 if one cannot be read.

    Example: [bold]ad predict runs/folder-parts-patchcore ./new_parts[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, print_json, say
    from ad.core.registry import load_trainer

    spec = early.check_run_or_export(run)
    early.check_pictures(paths)
    with loading():
        from ad.core.jobs.inspect import inspect

        if spec is not None:
            load_trainer(spec)
    result = inspect(
        run,
        paths,
        output=output,
        device=device,
        precision=precision.value,
        threshold=threshold,
        category=category,
        save_maps=save_maps,
        progress=ConsoleProgress(),
    )
    if json:
        print_json(result.to_json())
    else:
        _print(result)
    for row in result.rows:
        if row.error is not None:
            say(f"error: {row.error}")
    if failed := sum(row.error is not None for row in result.rows):
        say(f"{failed} of {len(result.rows)} pictures could not be read and have no verdict")
        raise typer.Exit(1)  # or a script would take them for good ones


def _print(result: Inspection) -> None:
    from rich.table import Table

    from ad.core.cli.console import out, say
    from ad.runtime.printable import in_one_line

    table = Table(header_style="bold")
    table.add_column("picture", overflow="fold")
    for title in ("score", "0 to 1", "verdict"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.rows:
        if row.error is not None:
            table.add_row(in_one_line(row.path), "-", "-", "error")
            continue
        scaled = "-" if row.normalized is None else f"{row.normalized:.3f}"
        table.add_row(in_one_line(row.path), f"{row.score:.4g}", scaled, row.verdict)
    out().print(table)
    say(result.summary())
    say(f"written to {result.output}")
