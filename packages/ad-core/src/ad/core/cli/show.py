"""`ad show`: one model's card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ad.core.cli.options import JsonOption
from ad.core.registry import ModelRegistry, load_trainer


def show(
    model: Annotated[
        str, typer.Argument(help="A name from `ad models`, or what `ad export` wrote.")
    ],
    json: JsonOption = False,
) -> None:
    """Show a model: paper, defaults, options; or what an exported one is.

    Example: [bold]ad show patchcore[/bold]
    """
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.console import out, print_json
    from ad.core.options import allowed_of
    from ad.core.settings import describe_options
    from ad.runtime.package import is_exported

    if is_exported(Path(model)):
        from ad.runtime.cli import main

        main(["info", model, *(["--json"] if json else [])])
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
    trainer = load_trainer(spec)
    options = describe_options(spec, trainer)
    if json:
        print_json(
            {
                "name": spec.name,
                **{key.replace(" ", "_"): value for key, value in facts.items() if value},
                "train": spec.train,
                "options": {
                    key: {
                        "default": value,
                        "allowed": allowed and list(allowed),
                        "limits": allowed_of(trainer, key)[1],
                    }
                    for key, (value, allowed) in options.items()
                },
            }
        )
        return
    table = Table(title=spec.name, show_header=False, title_justify="left", title_style="bold")
    for key, value in facts.items():
        if value:
            table.add_row(key, value)
    table.add_section()
    for key, value in spec.train.items():
        table.add_row(key, str(value))
    table.add_section()
    for key, (value, allowed) in options.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        limits = allowed_of(trainer, key)[1]
        others = f"   ({', '.join(map(str, allowed))})" if allowed else ""
        others = f"   (in {limits})" if limits else others
        table.add_row(f"--set {key}=", Text(f"{text}{others}"))
    out().print(table)
