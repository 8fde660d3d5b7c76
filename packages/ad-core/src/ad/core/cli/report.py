"""`ad report`: one HTML file to look at, of one run or of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ad.core.cli.options import JsonOption, path_of


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            parser=path_of("a run"), metavar="RUN...", help="Run directories that `ad train` wrote."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="FILE",
            help="Where to write; `report.html` in the run directory of one run by default, "
            "`comparison.html` for several.",
        ),
    ] = None,
    data_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of one run's data set, if it has moved."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a report to look at: one run's pictures, or several runs side by side.

    Example: [bold]ad report runs/mvtec-bottle-patchcore[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, out, print_json, say
    from ad.core.saved.record import read_run, run_around

    if len(runs) == 1:
        early.check_trained(runs[0], data_root)
    for run in runs:
        read_run(run_around(run))
    with loading():
        from ad.core.jobs.report import write_report

    if len(runs) == 1:
        say("the test pictures are scored again with the saved model")
    path = write_report(runs, output=output, data_root=data_root, progress=ConsoleProgress())
    if json:
        print_json({"report": str(path)})
        return
    say("report to look at, in any browser:")
    out().print(str(path), soft_wrap=True)
