"""`ad datasets`: the layouts that can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ad.core.cli.options import JsonOption
from ad.core.registry import dataset_names, get_dataset

if TYPE_CHECKING:
    from ad.core.data.samples import DatasetSpec


def datasets(
    name: Annotated[str | None, typer.Argument(help="One of them, to see its layout.")] = None,
    json: JsonOption = False,
) -> None:
    """List the data set layouts, or show the tree, source and licence of one.

    Example: [bold]ad datasets folder[/bold]
    """
    from ad.core.cli.console import out, print_json

    if json:
        names = dataset_names() if name is None else [name]
        print_json({"datasets": [_row(get_dataset(one)) for one in names]})
        return
    console = out()
    if name is not None:
        from ad.core.data.samples import describe

        spec = get_dataset(name)
        # Not wrapped: a tree and an address are of use in one piece only.
        console.print(f"{spec.summary}\n{describe(spec)}", soft_wrap=True)
        return
    from rich.table import Table

    table = Table(header_style="bold")
    for title in ("data set", "what", "licence"):
        table.add_column(title, no_wrap=title == "data set")
    for spec in map(get_dataset, dataset_names()):
        table.add_row(spec.name, spec.summary, spec.licence)
    console.print(table)


def _row(spec: DatasetSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "summary": spec.summary,
        "tree": spec.tree,
        "source": spec.source,
        "licence": spec.licence,
        "archive": None if spec.archive is None else spec.archive.url,
    }
