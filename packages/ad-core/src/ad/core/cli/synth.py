"""`ad synth`: synthetic defects on a sheet, to be looked at before a model learns from them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ad.core.cli.options import (
    CategoryArgument,
    DataRootOption,
    DatasetArgument,
    ImgSizeOption,
    JsonOption,
    SeedOption,
    path_of,
)


class Recipe(StrEnum):
    """Choices of ``--recipe``."""

    draem = "draem"
    cut_paste = "cut-paste"


def synth(
    dataset: DatasetArgument,
    category: CategoryArgument,
    output: Annotated[
        Path,
        typer.Option(
            parser=path_of("`--output`"), metavar="DIR", help="Folder to make for the sheet."
        ),
    ],
    data_root: DataRootOption = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Examples to show.")] = 8,
    seed: SeedOption = 0,
    textures: Annotated[
        Path | None,
        typer.Option(
            parser=path_of("`--textures`"),
            metavar="DIR",
            help="Pictures to fill defects with; made by code if left out.",
        ),
    ] = None,
    recipe: Annotated[
        Recipe, typer.Option(help="Blotches of texture, or parts of the picture put elsewhere.")
    ] = Recipe.draem,
    img_size: ImgSizeOption[Any] = "256",
    json: JsonOption = False,
) -> None:
    """Show the synthetic defects that some models learn from: normal picture, mask, broken one.

    Example: [bold]ad synth folder ./parts --output defects[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, notes, print_json, say
    from ad.runtime.errors import counted

    early.check_data(dataset, category, data_root)
    with loading():
        from ad.core.synth.preview import preview

    result = preview(
        dataset,
        category,
        output=output,
        data_root=data_root,
        count=count,
        seed=seed,
        textures="" if textures is None else str(textures),
        recipe=recipe.value,
        img_size=img_size,
        progress=ConsoleProgress(),
    )
    if json:
        print_json(result.to_json())
        return
    notes(result.notes)
    broken = counted(len(result.paths), "good picture", "good pictures")
    say(f"{broken} broken; a model leaves half of them as they are")
    say(f"written to {result.sheet}")
