"""`ad show`: a model's card, or what a trained detector says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ad.core.registry import ModelRegistry, load_trainer


def show(
    model: Annotated[
        str,
        typer.Argument(help="A name from `ad models`, or a run directory.", metavar="MODEL|RUN"),
    ],
) -> None:
    """Show a model: paper, defaults, options; or a trained one: its threshold and those before.

    Example: [bold]ad show patchcore[/bold]
    """
    if model not in ModelRegistry.names() and (Path(model).is_dir() or Path(model).name != model):
        _show_run(model)
    else:
        _show_model(model)


def _show_model(model: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.console import out
    from ad.core.options import allowed_of
    from ad.core.settings import describe_options

    spec = ModelRegistry.get(model)
    facts = {
        "also called": ", ".join(spec.aliases),
        "idea": spec.summary,
        "paper": spec.paper,
        "read": spec.url,
        "year": "" if spec.year is None else str(spec.year),
        "official code": spec.code_licence,
        "tasks": ", ".join(spec.tasks),
        "wants beyond good pictures": ", ".join(spec.extra_data) or "nothing",
        "package": spec.package,
        "trainer": spec.trainer,
    }
    table = Table(title=spec.name, show_header=False, title_justify="left", title_style="bold")
    for key, value in facts.items():
        if value:
            table.add_row(key, value)
    table.add_section()
    for key, value in spec.train.items():
        table.add_row(key, str(value))
    table.add_section()
    trainer = load_trainer(spec)
    for key, (value, allowed) in describe_options(spec, trainer).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        limits = allowed_of(trainer, key)[1]
        others = f"   ({', '.join(map(str, allowed))})" if allowed else ""
        others = f"   (in {limits})" if limits else others
        table.add_row(f"--set {key}=", Text(f"{text}{others}"))
    out().print(table)


def _show_run(run: str) -> None:
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.calibrate import described
    from ad.core.cli.console import out, say
    from ad.core.jobs.calibrations import calibrations_before
    from ad.core.predict import ModelConfig, model_folder
    from ad.core.saved.files import read_config

    folder = model_folder(run)
    config = ModelConfig.from_json(read_config(folder), folder)
    before = calibrations_before(folder, config)
    table = Table(title=run, show_header=False, title_justify="left", title_style="bold")
    for key, value in (
        ("model", config.model),
        ("trained on", ", ".join(config.categories)),
        ("pictures", "; ".join([f"{config.framing.size}", *config.framing.notes()])),
        ("precision", config.precision),
    ):
        table.add_row(key, Text(value))
    table.add_section()
    table.add_row("threshold", Text(_plain(described(config.calibration))))
    if before:
        table.add_section()
    for number, kept in enumerate(reversed(before), start=1):
        table.add_row(f"{number} before", Text(_plain(described(kept.calibration))))
    out().print(table)
    if before:
        say(f"hint: to take back the one before: ad calibrate {run} --undo")


def _plain(text: str) -> str:
    """Lines without the indent that they have where a word is before the first."""
    return "\n".join(line.strip() for line in text.splitlines())
