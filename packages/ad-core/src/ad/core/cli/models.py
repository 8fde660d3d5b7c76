"""`ad models`: what is installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ad.core.cli.options import JsonOption
from ad.core.errors import PluginError, SettingError, UnknownNameError, how_to_install, nearest
from ad.core.registry import TASKS, ModelRegistry, ModelSpec, is_family

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDE = 120
"""Columns from which a package has one of its own."""


def _tasks(incomplete: str) -> list[tuple[str, str]]:
    return [(task, told) for task, told in TASKS.items() if task.startswith(incomplete)]


def models(
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK",
            autocompletion=_tasks,
            help=f"Only those made for it: {', '.join(TASKS)}. Given again, for all of them.",
        ),
    ] = None,
    package: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of a package.")
    ] = None,
    no_gradient: Annotated[
        bool,
        typer.Option("--no-gradient", help="Only those that learn without gradients, in one pass."),
    ] = False,
    no_weights: Annotated[
        bool,
        typer.Option("--no-weights", help="Only those that need no pretrained weights."),
    ] = False,
    max_img_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only up to pictures of N pixels.")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only up to N epochs.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """List the installed models, or those that fit all that is asked for.

    Sizes and epochs are the catalogue's, which `ad train` takes unless told otherwise.

    Example: [bold]ad models --task few-shot --no-gradient[/bold]
    """
    from ad.core.cli.console import notes, out, print_json

    installed, broken = _installed()
    _check(task or [], package, installed)
    specs, unsaid = [], []
    for spec in installed:
        if not set(task or ()) <= set(spec.tasks):
            continue
        if package not in (None, spec.package) or (no_weights and spec.pretrained):
            continue
        if max_img_size is not None and spec.train["img_size"] > max_img_size:
            continue
        if max_epochs is not None and spec.train["num_epochs"] > max_epochs:
            continue
        if not no_gradient or spec.by_gradient is False:
            specs.append(spec)
        elif spec.by_gradient is None:
            unsaid.append(spec.name)
    if json:
        rows = [row(spec) for spec in specs]
        print_json({"models": rows, "broken": [{"name": n, "error": e} for n, e in broken]})
        return
    if specs:
        console = out()
        console.print(_table(specs, console))
    elif installed:
        notes([f"None of the {len(installed)} installed models fits all of this; ask for less."])
    else:
        notes([f"No models are installed. Install a family, {how_to_install('ad-memory')}"])
    notes([f"`{name}` does not say whether it learns by gradient: left out" for name in unsaid])
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
        "by_gradient": spec.by_gradient,
        "weights": list(spec.pretrained),
        **spec.train,
    }


def _installed() -> tuple[list[ModelSpec], list[tuple[str, str]]]:
    """All models, sorted, and names with errors."""
    found, broken = {}, []
    for name in ModelRegistry.names():
        try:
            spec = ModelRegistry.get(name)
            found[spec.name] = spec  # an alias is no row of its own
        except PluginError as error:  # a broken plug-in breaks nothing but itself
            broken.append((name, str(error)))
    return [found[name] for name in sorted(found)], broken


def _check(tasks: Sequence[str], package: str | None, installed: Sequence[ModelSpec]) -> None:
    """Refuse a task that no model could have, and a package that brings no model."""
    for task in tasks:
        if task not in TASKS:
            told = "".join(f"\n  {name}: {meaning}" for name, meaning in TASKS.items())
            msg = f"There is no task `{task}`.{nearest(task, TASKS)} Tasks are:{told}"
            raise UnknownNameError(msg)
    packages = sorted({spec.package for spec in installed if spec.package})
    if package is not None and package not in packages:
        msg = (
            f"No installed package `{package}` brings models.{nearest(package, packages)} Those "
            f"that do: {', '.join(packages) or 'none'}."
        )
        if is_family(package):
            msg += f"\nhint: {how_to_install(package)}"
        raise SettingError(msg)


def _table(specs: Sequence[ModelSpec], console: Console) -> Table:
    """All of them; where lines are narrow, a package stands below its model's name."""
    from rich.table import Table

    wide = console.width >= _WIDE
    table = Table(header_style="bold")
    for title in ("model", "package", "idea", "finds") if wide else ("model", "idea", "finds"):
        table.add_column(title, no_wrap=title in ("model", "package"))
    for spec in specs:
        finds = "where" if "localises" in spec.tasks else "whether"
        also = f" (also: {', '.join(spec.aliases)})" if spec.aliases else ""
        name = [spec.name, spec.package] if wide else [f"{spec.name}\n  {spec.package}".rstrip()]
        table.add_row(*name, f"{spec.summary}{also}", finds)
    return table
