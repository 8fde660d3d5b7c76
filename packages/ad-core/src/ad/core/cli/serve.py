"""`ad serve`: exported models over HTTP, as `ad-runtime serve` does it."""

from __future__ import annotations

import typer

from ad.runtime.commands.serve import SHORT, run_line

HELP = f"""{SHORT}

Example: [bold]ad serve parts[/bold]; all options: [bold]ad serve --help[/bold]
"""
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""Of the command: its options are those of `ad-runtime serve`, which reads them itself."""


def serve(context: typer.Context) -> None:
    """Pass the rest of the command line on."""
    raise typer.Exit(run_line(context.args))
