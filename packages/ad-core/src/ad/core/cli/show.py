"""`ad show`: one model's card."""

from __future__ import annotations

from ad.core.cli.options import ModelArgument
from ad.core.registry import ModelRegistry, load_trainer


def show(model: ModelArgument) -> None:
    """Show a model: paper, defaults, options.

    Example: [bold]ad show patchcore[/bold]
    """
    from rich.table import Table
    from rich.text import Text

    from ad.core.cli.console import loading, out
    from ad.core.options import allowed_of

    spec = ModelRegistry.get(model)
    with loading():
        from ad.core.settings import describe_options

        trainer = load_trainer(spec)
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
    for key, (value, allowed) in describe_options(spec, trainer).items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        limits = allowed_of(trainer, key)[1]
        others = f"   ({', '.join(map(str, allowed))})" if allowed else ""
        others = f"   (in {limits})" if limits else others
        table.add_row(f"--set {key}=", Text(f"{text}{others}"))
    out().print(table)
