"""The arguments and options that several commands have, each with the one text of its help.

A command states its own default, and writes an option out itself where it means something else
there. What may be unset in one command and not in another takes its type: ``ImgSizeOption[int]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ad.core.registry import ModelRegistry, dataset_names
from ad.runtime.paths import given_path

T = TypeVar("T")


def path_of(what: str) -> Callable[[str], Path]:
    """Read a path from the command line; an empty one is refused, and `what` names the option."""

    def path(text: str) -> Path:
        return given_path(text, what)

    return path


def picture_size(text: str) -> int | tuple[int, int]:
    """Read ``256``, or height x width as ``256x640``; what sizes there may be is checked later.

    Raises:
        typer.BadParameter: If it is neither.
    """
    found = re.fullmatch(r"\s*([+-]?[0-9]{1,18})\s*(?:[xX]\s*([+-]?[0-9]{1,18})\s*)?", text)
    if found is None:
        msg = (
            "it takes the side of a square in pixels, such as `256`, or height x width, such as "
            f"`256x640`; got `{text}`."
        )
        raise typer.BadParameter(msg)
    first, second = found.groups()
    return int(first) if second is None else (int(first), int(second))


def rectangle(text: str) -> tuple[int, int, int, int]:
    """Read x, y, width and height as ``X,Y,W,H``; what there may be is checked later.

    Raises:
        typer.BadParameter: If it is not four whole numbers.
    """
    found = re.fullmatch(r",".join([r"\s*([+-]?[0-9]{1,9})\s*"] * 4), text, re.ASCII)
    if found is None:
        msg = (
            "it takes x, y, width and height in the pictures' pixels, counted from the upper left "
            f"corner, such as `100,50,800,600`; got `{text}`."
        )
        raise typer.BadParameter(msg)
    x, y, width, height = map(int, found.groups())
    return x, y, width, height


def holdout(text: str) -> float | str:
    """Read a share, ``cross`` or ``auto``; what shares there may be is checked later.

    Raises:
        typer.BadParameter: If it is none of these.
    """
    if text in ("auto", "cross"):
        return text
    try:
        return float(text)
    except ValueError:
        msg = (
            "it takes a share of the good pictures from 0 to below 1, such as `0.1`, or `cross`, "
            f"or `auto`; got `{text}`."
        )
        raise typer.BadParameter(msg) from None


class FitChoice(StrEnum):
    """Choices of ``--fit``."""

    stretch = "stretch"
    pad = "pad"
    crop = "crop"


class PrecisionChoice(StrEnum):
    """Choices of ``--precision``."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Budget(StrEnum):
    """Choices of ``--budget``."""

    default = "default"
    paper = "paper"


def _models(incomplete: str) -> list[str]:
    """Names to complete; of a list with commas, of its last part."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{n}" for n in ModelRegistry.names() if n.startswith(last)]


def _datasets(incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{n}" for n in dataset_names() if n.startswith(last)]


DatasetArgument = Annotated[
    str,
    typer.Argument(help="Layout of the data: see `ad datasets`.", autocompletion=_datasets),
]
CategoryArgument = Annotated[
    str, typer.Argument(help="A category, a comma list, or `all`; for `folder`, also a path.")
]
ModelArgument = Annotated[
    str, typer.Argument(help="A name from `ad models`.", autocompletion=_models)
]
ShownArgument = Annotated[
    str,
    typer.Argument(
        help="A name from `ad models`, or what `ad export` wrote.", autocompletion=_models
    ),
]
ModelsArgument = Annotated[
    str,
    typer.Argument(
        help="Names from `ad models`, separated by commas; with options of its own, "
        "'NAME[KEY=VALUE;KEY=VALUE]'.",
        autocompletion=_models,
    ),
]
DatasetsArgument = Annotated[
    str, typer.Argument(help="Layouts, separated by commas.", autocompletion=_datasets)
]
RunArgument = Annotated[
    Path,
    typer.Argument(parser=path_of("the run"), help="A run directory that `ad train` wrote."),
]

DataRootOption = Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the data set.")]
EpochsOption = Annotated[
    int | None, typer.Option(metavar="N", help="How often each picture is seen.")
]
StepsOption = Annotated[
    int | None, typer.Option(metavar="N", help="Batches to learn from, in place of epochs.")
]
BudgetOption = Annotated[
    Budget, typer.Option(help="Epochs of the catalogue, or the authors' schedule.")
]
BatchSizeOption = Annotated[
    T, typer.Option(metavar="N", min=1, help="Pictures in a training batch.")
]
ImgSizeOption = Annotated[
    T,
    typer.Option(
        parser=picture_size,
        metavar="N|HxW",
        help="What the model sees of a picture, in pixels: a square's side, or height x width.",
    ),
]
FitOption = Annotated[
    FitChoice,
    typer.Option(
        help="How a picture gets that size: stretched; padded, in its own proportions; or the "
        "middle of what `--resize` makes of it."
    ),
]
ResizeOption = Annotated[
    T,
    typer.Option(
        parser=picture_size,
        metavar="N|HxW",
        help="With `--fit crop`: what a picture is stretched to before its middle is cut out.",
    ),
]
CropOption = Annotated[
    T,
    typer.Option(
        parser=rectangle,
        metavar="X,Y,W,H",
        help="Look at this rectangle of each picture only, in the picture's own pixels.",
    ),
]
RoiOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_of("`--roi`"),
        metavar="MASK.png",
        help="Region of interest: white is looked at, black is not.",
    ),
]
TileOption = Annotated[
    T,
    typer.Option(
        parser=picture_size,
        metavar="N|HxW",
        help="Cut pictures into tiles of this size, each seen by itself, for small defects on "
        "large pictures.",
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="How far tiles overlap, in pixels; half of a tile by default."),
]
TileScaleOption = Annotated[
    float, typer.Option(metavar="F", help="Resize pictures by this before they are cut.")
]
SaveMapsOption = Annotated[
    Path | None,
    typer.Option(
        parser=path_of("`--save-maps`"),
        metavar="DIR",
        help="Also write each map in its picture's own pixels, as `.npz`.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the model: see `ad show`."),
]
HoldoutOption = Annotated[
    Any,
    typer.Option(
        parser=holdout,
        metavar="F|cross|auto",
        help="Share of good pictures kept back to set the threshold; 0: none; cross: it is set "
        "with all, each scored by a detector that has not seen it; auto: 0.1, or cross for few.",
    ),
]
FalseAlarmsOption = Annotated[
    T,
    typer.Option(
        "--false-alarms",
        "--rate",
        metavar="F",
        help="Share of good pictures that may be called defective; 0.01 by default.",
        show_default=False,
    ),
]
WeightsOption = Annotated[
    str, typer.Option(metavar="auto|random|FILE", help="Weights of the backbone.")
]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to run.")]
PrecisionOption = Annotated[PrecisionChoice, typer.Option(help="Precision of frozen networks.")]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the detector: a slow start, for thousands of pictures."
    ),
]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of every random choice.")]
SupervisedOption = Annotated[
    bool,
    typer.Option(
        "--supervised", help="Of a `folder`, take most defects to learn from, if MODEL does."
    ),
]
ReportOption = Annotated[
    bool, typer.Option("--report/--no-report", help="Write `report.html` to look at.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
