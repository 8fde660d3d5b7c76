"""`ad benchmark`: how fast a run or an exported model is on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Annotated

import typer

from ad.core.cli.options import JsonOption, path_of, picture_size
from ad.runtime.commands.bench import numbers_of


def _numbers(text: str) -> list[int]:
    try:
        return numbers_of(text)
    except argparse.ArgumentTypeError as error:
        raise typer.BadParameter(str(error)) from error


def benchmark(
    model: Annotated[
        Path,
        typer.Argument(
            parser=path_of("the run"),
            metavar="RUN|EXPORT",
            help="What `ad train` or `ad export` wrote.",
        ),
    ],
    size: Annotated[
        int | None,
        typer.Option(
            parser=picture_size,
            metavar="N|HxW",
            help="Of the picture, in pixels; what the model sees by default.",
        ),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(parser=_numbers, metavar="N,...", help="Of the CPU; all by default."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="all that are installed, onnxruntime or openvino; of a run, torch."),
    ] = "all",
    pictures: Annotated[int, typer.Option(metavar="N", help="To time.")] = 100,
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Also write `benchmark.json` into the run, or beside the export."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Time a model, from a picture's file to its verdict, in each engine by a process of its own.

    Example: [bold]ad benchmark runs/folder-parts-patchcore --threads 1,2[/bold]
    """
    from ad.core.cli.console import ConsoleProgress
    from ad.core.jobs.benchmark import benchmark as time_model
    from ad.runtime.commands.bench import tell

    found = time_model(
        model,
        size=size,
        threads=threads,  # type: ignore[arg-type]  # what its parser gives
        engine=engine,
        pictures=pictures,
        progress=ConsoleProgress(),
    )
    tell(found, json=json, place=model if save else None)
