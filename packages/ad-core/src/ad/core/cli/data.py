"""`ad data`: data sets on disk."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ad.core.cli.help import Command, Group
from ad.core.cli.options import (
    CategoryArgument,
    DataRootOption,
    DatasetArgument,
    JsonOption,
    SeedOption,
    path_of,
)

app = typer.Typer(
    cls=Group,
    help="Show what a data set is read as, fetch one, or verify one on disk.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@app.command("show", cls=Command)
def show(
    dataset: DatasetArgument,
    category: CategoryArgument = "all",
    data_root: DataRootOption = None,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Show what each folder is read as, and what is left out and why. Nothing is learnt.

    Example: [bold]ad data show folder ./parts[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, inventory_table, loading, notes, print_json
    from ad.core.data.finding import collect, locate
    from ad.core.data.inventory import take_inventory
    from ad.core.registry import get_dataset
    from ad.runtime.pictures.levels import find_white_level

    early.check_data(dataset, category, data_root)
    with loading():
        from ad.core.data.contents import check_pictures
    layout, progress = get_dataset(dataset), ConsoleProgress()
    names, root = locate(layout, category, data_root)
    samples = collect(layout, names, root=root, seed=seed, progress=progress)
    found = take_inventory(layout, root, samples)
    # As a training does that is asked for nothing else.
    told = [*found.notes(), *check_pictures(samples, stretched=True, progress=progress)]
    told += find_white_level([sample.path for sample in samples], progress=progress).notes
    if json:
        print_json({"root": None if root is None else str(root), **found.to_json(), "notes": told})
    else:
        inventory_table(found)
    notes(told)


@app.command("download", cls=Command)
def download(
    name: Annotated[str, typer.Argument(help="A data set of `ad datasets`.")],
    output: Annotated[
        Path,
        typer.Option(parser=path_of("`--output`"), metavar="DIR", help="Folder to make for it."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the licence beforehand.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch the official file of a data set, check it and unpack it, if its terms suit you.

    A download that breaks off is gone on with by the same command.

    Example: [bold]ad data download visa --output ./visa[/bold]
    """
    from ad.core.cli.console import ConsoleProgress, print_json, put, say
    from ad.core.data.download import download as run_download
    from ad.core.data.samples import describe_source
    from ad.core.registry import get_dataset

    dataset = get_dataset(name)
    if dataset.archive is not None and not yes:
        say(f"{dataset.summary}\n{describe_source(dataset)}\n\nFetch it under this licence? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was fetched\n\nhint: `--yes` agrees beforehand")
            raise typer.Exit(1)
    root = run_download(dataset, output, progress=ConsoleProgress())
    if json:
        print_json({"root": str(root)})
    else:
        put(str(root))
    say(f"\nhint: ad train {name} CATEGORY MODEL --data-root {shlex.quote(str(root))}")


@app.command("verify", cls=Command)
def verify(
    folder: Annotated[
        Path,
        typer.Argument(parser=path_of("the folder"), metavar="DIR", help="Folder of the data set."),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--manifest`"),
            metavar="FILE",
            help="The manifest; DIR/ad-manifest.json by default.",
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the manifest, also in place of an older one.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Find what changed in a data set since its manifest was written. Status 1 if something did.

    Example: [bold]ad data verify ./mvtec_ad --write[/bold], and later the same without --write
    """
    from ad.core.cli.console import ConsoleProgress, print_json, put, say
    from ad.core.data.manifest import NAME, compare, write_manifest
    from ad.runtime.errors import counted
    from ad.runtime.printable import in_one_line

    file = folder / NAME if manifest is None else manifest
    if write:
        count = write_manifest(folder, file, progress=ConsoleProgress())
        files = counted(count, "file", "files")
        say(f"wrote the manifest of {files} to {file}; nothing was compared")
        if json:
            print_json({"manifest": str(file), "written": True, "files": count})
        return
    found = compare(folder, file, progress=ConsoleProgress())
    kinds = {"missing": found.missing, "new": found.new, "changed": found.changed}
    if json:
        lists = {kind: list(names) for kind, names in kinds.items()}
        print_json({"manifest": str(file), "written": False, "files": found.num_files, **lists})
    else:
        for kind, names in kinds.items():
            for name in names:
                put(f"{kind:8}{in_one_line(name)}")
    if found.same:
        say(f"{counted(found.num_files, 'file is', 'files are')} as in {file}")
        return
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
    say(f"not as in {file}: {counts}\n\nhint: if that is meant, `--write` writes the manifest anew")
    raise typer.Exit(1)
