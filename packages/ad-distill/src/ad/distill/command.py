"""`ad distill-teacher`: from any pictures and a pretrained network to EfficientAD's teacher."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ad.core import (
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    PrecisionChoice,
    SeedOption,
    WeightsOption,
    path_of,
)


class Size(StrEnum):
    """Choices of ``--size``."""

    small = "small"
    medium = "medium"


def distill_teacher(
    images: Annotated[
        Path,
        typer.Option(
            parser=path_of("`--images`"),
            metavar="DIR",
            help="Pictures of anything, the more varied the better.",
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            rich_help_panel="Learning",
            help="The network to imitate: a timm model.",
        ),
    ] = "wide_resnet101_2",
    size: Annotated[
        Size, typer.Option(rich_help_panel="Learning", help="Of the teacher.")
    ] = Size.small,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Batches to learn from.")] = 60_000,
    output: Annotated[
        Path,
        typer.Option(
            parser=path_of("`--output`"),
            metavar="DIR",
            help="Folder for the weights and their card.",
        ),
    ] = Path("."),
    crop: Annotated[
        int | None,
        typer.Option(metavar="N", help="Learn from random squares of N of the 512 pixels."),
    ] = None,
    batch_size: BatchSizeOption[int] = 16,
    seed: SeedOption = 0,
    half: Annotated[
        bool,
        typer.Option("--half", rich_help_panel="Output", help="Write float16, at half the size."),
    ] = False,
    weights: WeightsOption = "auto",
    device: DeviceOption = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="Precision of the networks.")
    ] = PrecisionChoice.auto,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make a teacher for EfficientAD: a small network that imitates a large one.

    Example: [bold]ad distill-teacher --images ./photos --backbone wide_resnet101_2[/bold]
    """
    from ad.core import ConsoleProgress, print_json, say
    from ad.distill.distilling import distill_teacher as run_distill_teacher

    result = run_distill_teacher(
        images,
        backbone=backbone,
        size=size.value,
        steps=steps,
        output=output,
        crop=crop,
        batch_size=batch_size,
        seed=seed,
        half=half,
        weights=weights,
        device=device,
        precision=precision.value,
        resume=resume,
        progress=ConsoleProgress(),
    )
    if json:
        print_json({"file": str(result.path), **result.card})
        return
    say(
        f"mean squared error {result.card['final_loss']:.4f} after {steps} steps, "
        f"{result.card['seconds']:.0f} s; guessing the mean has 1"
    )
    say(f"saved to {result.path}")
    say(
        f"\nhint: ad train folder ./parts efficientad-{size.value} --set "
        f"{shlex.quote(f'teacher={result.path}')}\n"
        f"hint: set AD_WEIGHTS to `{result.path.parent}` to have it found"
    )
