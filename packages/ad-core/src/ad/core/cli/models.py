"""`ad models`: what is installed."""

from __future__ import annotations

from typing import Any

from ad.core.cli.options import JsonOption
from ad.core.errors import PluginError, how_to_install
from ad.core.registry import ModelRegistry, ModelSpec


def models(json: JsonOption = False) -> None:
    """List the installed models.

    Example: [bold]ad models[/bold]
    """
    from ad.core.cli.console import notes, out, print_json

    found, broken = {}, []
    for name in ModelRegistry.names():
        try:
            spec = ModelRegistry.get(name)
            found[spec.name] = spec  # an alias is no row of its own
        except PluginError as error:  # a broken plug-in breaks nothing but itself
            broken.append((name, str(error)))
    specs = [found[name] for name in sorted(found)]
    if json:
        rows = [row(spec) for spec in specs]
        print_json({"models": rows, "broken": [{"name": n, "error": e} for n, e in broken]})
        return
    if not specs:
        notes([f"No models are installed. Install a family, {how_to_install('ad-memory')}"])
    else:
        from rich.table import Table

        table = Table(header_style="bold")
        for title in ("model", "package", "idea", "finds"):
            table.add_column(title, no_wrap=title in ("model", "package"))
        for spec in specs:
            finds = "where" if "localises" in spec.tasks else "whether"
            also = f" (also: {', '.join(spec.aliases)})" if spec.aliases else ""
            table.add_row(spec.name, spec.package, f"{spec.summary}{also}", finds)
        out().print(table)
    notes([f"broken: {error}" for _, error in broken])


def row(spec: ModelSpec) -> dict[str, Any]:
    """A model as ``--json`` tells of it."""
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "package": spec.package,
        "summary": spec.summary,
        "year": spec.year,
        "tasks": list(spec.tasks),
        **spec.train,
    }
