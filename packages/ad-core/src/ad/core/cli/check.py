"""`ad check`: whether a model keeps the promises of every detector."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ad.core.cli.options import ImgSizeOption, JsonOption, ModelArgument, SetOption

if TYPE_CHECKING:
    from ad.core.testing import CheckResult


def check(
    model: ModelArgument,
    img_size: ImgSizeOption[Any] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", help="How long it may learn to see a defect.")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Train a model on tiny pictures, offline, and check what every detector promises.

    Example: [bold]ad check my-model[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, print_json, say
    from ad.core.options import parse_assignments

    early.check_model(model, set_ or ())
    with loading():
        from ad.core.testing import run_checks

    results = run_checks(
        model,
        img_size=img_size,
        options=parse_assignments(set_) if set_ else None,
        num_epochs=epochs,
        progress=ConsoleProgress(),
    )
    if json:
        print_json({"model": model, "checks": [asdict(result) for result in results]})
    else:
        _print(results)
    outcomes = [result.outcome for result in results]
    counts = [f"{outcomes.count(kind)} {kind}" for kind in dict.fromkeys(outcomes)]
    say(f"`{model}`: {', '.join(counts)}")
    if "failed" in outcomes:
        raise typer.Exit(1)


def _print(results: list[CheckResult]) -> None:
    from rich.table import Table

    from ad.core.cli.console import out

    table = Table(header_style="bold")
    for title in ("check", "outcome"):
        table.add_column(title, no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for result in results:
        table.add_row(result.id, result.outcome, f"{result.seconds:.1f}", result.message)
    out().print(table)
