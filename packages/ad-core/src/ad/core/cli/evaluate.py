"""`ad evaluate`: the figures of a run, from its saved model."""

from __future__ import annotations

from typing import Annotated

import typer

from ad.core.cli.options import JsonOption, ReportOption, RunArgument, SaveMapsOption


def evaluate(
    run: RunArgument,
    data_root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of the data set, if it has moved."),
    ] = None,
    report: ReportOption = True,
    save_maps: SaveMapsOption = None,
    json: JsonOption = False,
) -> None:
    """Test a saved detector on the test split of its data.

    Example: [bold]ad evaluate runs/mvtec-bottle-patchcore[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import (
        ConsoleProgress,
        kinds_table,
        loading,
        metrics_table,
        notes,
        print_json,
        say,
        say_tested,
    )
    from ad.core.registry import load_trainer
    from ad.core.saved.record import run_around

    spec = early.check_trained(run, data_root)
    with loading():
        from ad.core.jobs.evaluate import evaluate as run_evaluate
        from ad.core.report.run import REPORT

        load_trainer(spec)
    result = run_evaluate(
        run, data_root=data_root, report=report, save_maps=save_maps, progress=ConsoleProgress()
    )
    each = result.seconds_per_image
    if json:
        print_json({"run": str(run), **result.to_json(), "seconds": {"test_per_image": each}})
        return
    notes(result.notes)
    metrics_table(result.metrics, result.categories)
    if result.kinds:
        kinds_table(result.kinds)
    say_tested(result)
    if each is not None:
        say(f"testing {each * 1000:.1f} ms a picture")
    if report:
        say(f"report to look at: {run_around(run) / REPORT}")
