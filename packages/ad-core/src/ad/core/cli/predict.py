"""`ad predict`: scores, verdicts and heat maps of new pictures."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
import warnings
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ad.core.cli.options import (
    CompileOption,
    DeviceOption,
    JsonOption,
    PrecisionChoice,
    ReportOption,
    RunArgument,
    SaveMapsOption,
    path_of,
)
from ad.core.errors import SettingError

if TYPE_CHECKING:
    from ad.core.jobs.inspect import Inspection
    from ad.runtime.results import Row


class Executor(StrEnum):
    """Choices of ``--executor``."""

    local = "local"
    ray = "ray"


class Only(StrEnum):
    """Choices of ``--only``."""

    defective = "defective"


class ColoursChoice(StrEnum):
    """Choices of ``--colours``."""

    threshold = "threshold"
    picture = "picture"


def _shard(text: str) -> tuple[int, int]:
    from ad.runtime.commands.many import shard_of

    try:
        return shard_of(text)
    except argparse.ArgumentTypeError as error:
        raise typer.BadParameter(str(error)) from error


def predict(
    context: typer.Context,
    run: RunArgument,
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH...",
            help="Pictures, folders, videos, quoted patterns ('new/**/*.png'); - reads stdin.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        Path | None,
        typer.Option(
            "--list",
            parser=path_of("`--list`"),
            metavar="FILE",
            help="Names of pictures and folders, one a line, from the current folder on.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="N|Ns",
            help="Of videos, each N-th frame, or one each N seconds (1s, 0.5s, 40ms); all by "
            "default.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="DIR",
            help="Where to write; `predictions` in the run directory by default. Of many pictures, "
            "FILE.jsonl.",
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
    min_area: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Leave out regions of fewer pixels of the picture.",
            min=1,
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Pictures scored at once; 8, of an export 1 by default.",
            show_default=False,
            rich_help_panel="Machine",
        ),
    ] = None,
    heatmaps: Annotated[
        bool,
        typer.Option("--heatmaps/--no-heatmaps", help="Write heat maps, or none."),
    ] = True,
    only: Annotated[
        Only | None,
        typer.Option(help="Heat maps and the table of these alone; files of results have all."),
    ] = None,
    save_maps: SaveMapsOption = None,
    compiled: CompileOption = False,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Of an export: processes that score; see `--resume`.", min=1
        ),
    ] = None,
    executor: Annotated[
        Executor | None, typer.Option(help="Of an export: here, or on a Ray cluster.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            parser=_shard, metavar="K/N", help="Of an export: only the K-th of N parts of all."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Of an export: go on with the output, if it is there.")
    ] = False,
    colours: Annotated[
        ColoursChoice,
        typer.Option(help="Of heat maps: up from the threshold, or each picture's own range."),
    ] = ColoursChoice.threshold,
    report: ReportOption = True,
    fail_on_defect: Annotated[
        bool, typer.Option("--fail-on-defect", help="Status 4 if a picture is defective.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Say errors and the last line, the summary, alone.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Score new pictures; write verdicts, heat maps and a report.

    Exit status: 0 done, 1 failed, 2 misused, 3 a picture could not be read, 4 one is defective
    (with --fail-on-defect, and if all could be read).

    Example: [bold]ad predict runs/folder-parts-patchcore ./new_parts[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, print_json, say
    from ad.core.registry import load_trainer
    from ad.runtime.pictures.frames import check_every
    from ad.runtime.progress import SILENT
    from ad.runtime.results import exit_status
    from ad.runtime.sources import NOTHING, named_sources

    if not paths and listed is None:
        raise typer.BadParameter(NOTHING, param_hint="PATH...")
    early.refuse_swapped(run, paths or [], sys.argv[1:])
    if quiet:
        warnings.simplefilter("ignore")
    sources = named_sources(paths or [], listed=listed)
    check_every(every, sources)
    typed = {
        name
        for name in ("heatmaps", "report")
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    if workers is not None or executor is not None or shard is not None or resume:
        asked = [name for name, on in (("heatmaps", heatmaps), ("report", report)) if on]
        many = "many pictures (`--workers`, `--executor`, `--shard`, `--resume`) are predicted"
        if colours is not ColoursChoice.threshold:
            msg = f"`--colours {colours.value}` is for heat maps, and {many} without. Leave it out."
            raise SettingError(msg)
        for name in typed.intersection(asked):
            msg = (
                f"`--{name}`: {many} without heat maps and without a report. Leave it out; "
                "`--save-maps DIR` keeps the maps."
            )
            raise SettingError(msg)
        given = argparse.Namespace(
            export=run,
            inputs=sources,
            output=output,
            workers=workers,
            executor=None if executor is None else executor.value,
            shard=shard,
            maps=save_maps,
            resume=resume,
            engine="auto",
            device="cpu" if device == "auto" else device,
            threads=None,
            batch_size=1 if batch_size is None else batch_size,
            category=category,
            threshold=threshold,
            min_area=min_area,
            only=only,
            fail_on_defect=fail_on_defect,
            quiet=quiet,
            json=json,
        )
        status = _many(given, precision, compile=compiled)
        if asked and not quiet:
            words = {"heatmaps": "heat maps", "report": "`report.html`"}
            without = " and ".join(words[name] for name in asked)
            say(f"without {without}, which are not written of many pictures")
        raise typer.Exit(status)
    if colours is not ColoursChoice.threshold and not heatmaps:
        msg = (
            f"`--colours {colours.value}` is for heat maps, and `--no-heatmaps` writes none. Leave "
            "one of them out; `report.html` has a switch of colours."
        )
        raise SettingError(msg)
    spec = early.check_run_or_export(run)
    with contextlib.nullcontext() if quiet else loading():
        from ad.core.jobs.inspect import inspect

        if spec is not None:
            load_trainer(spec)
    drawn: Literal["all", "defective", "none"] = "none"
    if heatmaps:
        drawn = "all" if only is None else "defective"
    needs_verdicts = "`--fail-on-defect`" if fail_on_defect else ""
    result = inspect(
        run,
        sources,
        every=every,
        output=output,
        device=device,
        precision=precision.value,
        threshold=threshold,
        category=category,
        min_area=min_area,
        batch_size=batch_size,
        heatmaps=drawn,
        save_maps=save_maps,
        colours=colours.value,
        report=report,
        verdicts_for="`--only defective`" if only else needs_verdicts,
        compile=compiled,
        progress=SILENT if quiet else ConsoleProgress(),
    )
    if json:
        print_json(result.printed())
    elif not quiet:
        _print(result, only)
    failed = result.rows.verdicts["error"]
    for row in result.rows if failed else ():
        if row.error is not None:
            say(f"error: {row.error}")
    if quiet:
        say(result.summary())
    elif failed:
        say(f"{failed} of {len(result.rows)} pictures could not be read and have no verdict")
    # Or a script would take those that cannot be read for good ones.
    if status := exit_status(result.rows.verdicts, fail_on_defect=fail_on_defect):
        raise typer.Exit(status)


def _many(given: argparse.Namespace, precision: PrecisionChoice, *, compile: bool) -> int:
    from ad.core.cli.console import ConsoleProgress
    from ad.core.jobs.exported import refuse_for_exported
    from ad.runtime.commands.many import predict as predict_many
    from ad.runtime.package import is_exported
    from ad.runtime.progress import SILENT

    if not is_exported(given.export):
        msg = (
            "`--workers`, `--executor`, `--shard` and `--resume` are for what `ad export` wrote; "
            f"`{given.export}` is no such thing.\nhint: ad export {shlex.quote(str(given.export))}"
        )
        raise SettingError(msg)
    if precision is not PrecisionChoice.auto:
        msg = f"`--precision {precision.value}`: an exported model has its own. Leave it out."
        raise SettingError(msg)
    refuse_for_exported(given.export, "auto", compile=compile)
    return predict_many(given, SILENT if given.quiet else ConsoleProgress())


def _print(result: Inspection, only: Only | None) -> None:
    from ad.core.cli.console import say
    from ad.runtime.results import worst

    rows = (row for row in result.rows if only in (None, row.verdict))
    if sys.stdout.isatty():
        shown = worst(rows)
        _print_table(shown)
        asked = len(result.rows) if only is None else result.rows.verdicts[only]
        if more := asked - len(shown):
            table = result.output / "predictions.csv"
            say(f"the {len(shown)} highest scores; {more} more in {table}")
    else:  # a pipe gets all of them, in the order in which they were given
        while some := [*islice(rows, _TOGETHER)]:
            _print_table(some)
    say(result.summary())
    if (regions := result.promise_of_regions()) is not None:
        say(regions)
    for line in result.drift.lines():
        say(line)
    say(f"written to {result.output}")
    if result.report is not None:
        say(f"report to look at: {result.report}")


_TOGETHER = 10_000
"""Rows of a table, which is held as a whole to find the widths of its columns."""


def _print_table(rows: Sequence[Row]) -> None:
    from rich.table import Table

    from ad.core.cli.console import out
    from ad.runtime.printable import in_one_line

    table = Table(header_style="bold")
    table.add_column("picture", overflow="fold")
    for title in ("score", "0 to 1", "verdict"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        if row.error is not None:
            table.add_row(in_one_line(row.path), "-", "-", "error")
            continue
        scaled = "-" if row.normalized is None else f"{row.normalized:.3f}"
        table.add_row(in_one_line(row.path), f"{row.score:.4g}", scaled, row.verdict)
    if rows:
        out().print(table)
