"""`ad watch`: pictures scored as they appear in a folder, as `ad-runtime watch` does it."""

from __future__ import annotations

import typer

from ad.runtime.commands.watch import TEXT, run_line

HELP = f"""{TEXT}

Example: [bold]ad watch parts ./camera[/bold]; all options: [bold]ad watch --help[/bold]
"""


def watch(context: typer.Context) -> None:
    """Pass the rest of the command line on."""
    raise typer.Exit(run_line(context.args))
