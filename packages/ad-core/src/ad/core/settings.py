"""What a user may set for a run: the defaults, the limits and the checks, all in one place.

A run's settings are `RunSettings`; a model's own options are whatever keyword-only arguments its
trainer has, and are checked against their annotations.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from ad.core.errors import SettingError, listed
from ad.core.framing import Framing
from ad.core.options import (
    BatchSize,
    PathName,
    Seed,
    Steps,
    allowed_of,
    check_option,
    options_of,
    refuse_hidden,
    refuse_unknown,
)
from ad.core.registry import ModelRegistry, ModelSpec
from ad.core.thresholds.held_out import CROSS
from ad.core.trainer import GradientTrainer, OnePassTrainer, Trainer
from ad.runtime.calibration.by_rate import DEFAULT_FALSE_ALARMS as DEFAULT_FALSE_ALARMS
from ad.runtime.calibration.by_rate import FALSE_ALARMS_RANGE, wrong_share
from ad.runtime.errors import shown
from ad.runtime.framing.fit import Fit, wrong_fit
from ad.runtime.framing.region import Crop, Region, wrong_crop
from ad.runtime.framing.size import LEAST_OF_RUN, size_of, wrong_size
from ad.runtime.framing.tiles import Tiling, wrong_tile
from ad.runtime.pictures.reading import Sides

Holdout = float | Literal["auto", "cross"]
"""Share of the good pictures that is held out, or how thresholds are found without any."""

_HOLDOUT_WORDS: tuple[Literal["auto"], Literal["cross"]] = ("auto", "cross")
_SHARES = {
    "holdout": "from 0 to below 1, or `cross`, or `auto`",
    "false_alarms": FALSE_ALARMS_RANGE,
}
"""What may be given for each share of the good pictures."""
DEFAULT_HOLDOUT = 0.1
"""Share that ``auto`` stands for where pictures are held out."""


def _img_size(value: Any) -> Sides:  # noqa: ANN401 - whatever was given
    if reason := wrong_size(value, LEAST_OF_RUN):
        kind = "size"
        raise PydanticCustomError(kind, reason)
    return size_of(value).plain


def _resize(value: Any) -> Sides | None:  # noqa: ANN401 - whatever was given
    return None if value is None else _img_size(value)


def _crop(value: Any) -> tuple[int, int, int, int] | None:  # noqa: ANN401 - whatever was given
    if value is None:
        return None
    if reason := wrong_crop(value):
        kind = "crop"
        raise PydanticCustomError(kind, reason)
    x, y, width, height = value
    return x, y, width, height


def _holdout(value: Any) -> Holdout:  # noqa: ANN401 - whatever was given
    for word in _HOLDOUT_WORDS:
        if value == word:
            return word
    if isinstance(value, str):
        reason = "must be a share such as 0.1, `cross` or `auto`"
    elif not isinstance(value, float):
        reason = "input should be a valid number"
    elif not 0 <= value < 1:
        reason = _SHARES["holdout"]
    else:
        return value
    kind = "holdout"
    raise PydanticCustomError(kind, reason)


class RunSettings(BaseModel):
    """One run, resolved: everything that is needed to repeat it, and nothing that varies by it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    dataset: str
    """Name of the data set layout."""
    category: str
    """A category, a comma list, or ``all``."""
    model: str
    """Registry name of the model."""
    data_root: str | None
    """The data set's folder; None where the layout has a default."""
    num_epochs: Annotated[int, Field(ge=1, le=10**6)]
    """How often each training picture is seen."""
    num_steps: Steps | None = None
    """Batches to learn from, in place of `num_epochs`; None for epochs."""
    budget: Literal["default", "paper"] = "default"
    """Where the numbers come from that the user left open: the catalogue, or the authors."""
    batch_size: BatchSize
    """Pictures in a training batch."""
    img_size: Annotated[Sides, PlainValidator(_img_size)]
    """Height and width of the pictures in pixels; one number for a square."""
    fit: Fit = "stretch"
    """How a picture of another shape gets that size."""
    resize: Annotated[Sides | None, PlainValidator(_resize)] = None
    """What a picture is stretched to before its middle is cut out, for `fit` ``crop``."""
    crop: Annotated[tuple[int, int, int, int] | None, PlainValidator(_crop)] = None
    """Rectangle of a picture that is looked at: x, y, width, height in pixels; None for all."""
    roi: PathName | None = None
    """File of the region of interest; None for none."""
    tile: Annotated[Sides | None, PlainValidator(_resize)] = None
    """Height and width of the tiles that pictures are cut into, in pixels; None for whole ones."""
    overlap: Annotated[int, Field(ge=0, le=4096)] | None = None
    """How far tiles overlap, in pixels; None for half of the tile."""
    tile_scale: Annotated[float, Field(gt=0, le=8)] = 1.0
    """Pictures are resized by it before they are cut."""
    normalize: bool
    """ImageNet normalisation, inside the detector."""
    options: dict[str, Any]
    """The model's own options, all of them."""
    weights: Annotated[PathName, Field(min_length=1)] = "auto"
    """``auto``, ``random`` or a file: see `ad.core.networks.backbones`."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where to run."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of frozen networks."""
    seed: Seed = 0
    """Seed of every random choice."""
    holdout: Annotated[Holdout, PlainValidator(_holdout)] = "auto"
    """Share of the training pictures kept back to calibrate the threshold, 0 for none; ``cross``
    for cross-fitting, and ``auto`` until the data are known."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = DEFAULT_FALSE_ALARMS
    """Share of good pictures that the threshold may call defective."""
    feature_cache: Literal["auto", "off"] = "auto"
    """Whether outputs of frozen networks are kept while learning by gradient."""
    patience: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Stop after so many epochs that bring nothing on held-out good pictures; None for never."""
    compile: bool = False
    """Whether the computation of losses is compiled."""
    supervised: bool = False
    """Whether the data hand over labelled defective pictures to learn from."""

    def asked(self) -> dict[str, Any]:
        """What to ask of `run_settings` for the same run: of epochs and steps what counts."""
        left_out = None if self.num_steps is None else {"num_epochs"}
        return self.model_dump(exclude=left_out)

    def framing(self) -> Framing:
        """How a picture becomes what the detector sees; reads the region of interest.

        Raises:
            SettingError: If the region cannot be used.
        """
        framing = Framing(
            size=size_of(self.img_size),
            fit=self.fit,
            resize=None if self.resize is None else size_of(self.resize),
            crop=None if self.crop is None else Crop(*self.crop),
            region=None if self.roi is None else Region.read(Path(self.roi)),
            tiling=(
                None
                if self.tile is None
                else Tiling.of(size_of(self.tile), self.overlap, self.tile_scale)
            ),
        )
        framing.check_region()
        return framing


def run_settings(spec: ModelSpec, trainer: type[Trainer], **given: Any) -> RunSettings:  # noqa: ANN401 - checked below
    """Check and complete a run's settings.

    Args:
        spec: The model; its catalogue entry gives what the user leaves open.
        trainer: The model's trainer, whose signature says which options there are.
        given: Fields of `RunSettings`; None means the catalogue's or the field's default.

    Raises:
        SettingError: If a value cannot work; says what was given and what is allowed.
    """
    chosen = {key: _without_numpy(value) for key, value in given.items() if value is not None}
    options = dict(chosen.get("options", {}))
    schedule = dict(spec.train)
    if chosen.get("budget") == "paper":
        if not spec.paper_budget:
            msg = (
                f"Model `{spec.name}` has no schedule of its authors that differs from the "
                "catalogue's. Leave `budget` at `default`."
            )
            raise SettingError(msg)
        schedule |= {key: v for key, v in spec.paper_budget.items() if key != "options"}
        options = {**spec.paper_budget.get("options", {}), **options}
        if "num_epochs" in chosen:  # what a user says counts more
            schedule.pop("num_steps", None)
    values: dict[str, Any] = {**schedule, "data_root": None, **chosen, "model": spec.name}
    if "tile" in chosen and "img_size" not in chosen:
        values["img_size"] = chosen["tile"]
    values["options"] = resolve_options(spec, trainer, options)
    try:
        settings = RunSettings(**values)
    except ValidationError as error:
        raise SettingError(_explain(error)) from error
    resize = None if settings.resize is None else size_of(settings.resize)
    if reason := wrong_fit(settings.fit, size_of(settings.img_size), resize):
        raise SettingError(reason)
    _check_tiling(spec, settings)
    _check_passes(trainer, settings)
    if "num_epochs" in chosen and "num_steps" in chosen:
        epochs, steps = settings.num_epochs, settings.num_steps
        msg = (
            f"`--epochs {epochs}` and `--steps {steps}` (`num_epochs={epochs}`, "
            f"`num_steps={steps}` in Python) both say how long to learn. Give one of them, and "
            "leave the other out."
        )
        raise SettingError(msg)
    return settings


def _without_numpy(value: Any) -> Any:  # noqa: ANN401 - whatever was given
    """Numbers of NumPy as Python's own: seeds and sizes come from `arange` as well as `range`."""
    if isinstance(value, tuple | list) and any(isinstance(part, np.generic) for part in value):
        return tuple(map(_without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value


def _check_passes(trainer: type[Trainer], settings: RunSettings) -> None:
    if issubclass(trainer, GradientTrainer) and settings.holdout == CROSS:
        msg = (
            f"`holdout` cross is for models that learn in one pass: it fits up to 20 detectors, "
            f"and `{settings.model}` learns by gradient. Give a share to hold out (`--holdout "
            "0.1`; `holdout=0.1` in Python), or take a model such as `patchcore` or `padim`."
        )
        raise SettingError(msg)
    if not issubclass(trainer, OnePassTrainer):
        return
    for name, value, allowed in (
        ("num_epochs", settings.num_epochs, 1),
        ("num_steps", settings.num_steps, None),
        ("patience", settings.patience, None),
    ):
        if value != allowed:
            msg = (
                f"`{settings.model}` learns in one pass over the pictures: `{name}` must be "
                f"{allowed or 'left out'}; got {value}."
            )
            raise SettingError(msg)


def _check_tiling(spec: ModelSpec, settings: RunSettings) -> None:
    tile, overlap, scale = settings.tile, settings.overlap, settings.tile_scale
    if tile is None:
        for name, value, default in (("overlap", overlap, None), ("tile_scale", scale, 1.0)):
            if value != default:
                msg = f"`{name}` {value} is of tiles: set `tile`, too, or leave it out."
                raise SettingError(msg)
        return
    if reason := wrong_tile(size_of(tile), overlap, scale):
        raise SettingError(reason)
    if size_of(tile) != size_of(settings.img_size):
        msg = (
            f"`tile` {size_of(tile).typed} is what the model sees, so `img_size` is the same; got "
            f"{size_of(settings.img_size).typed}. Leave `img_size` out. To see pictures smaller "
            "before they are cut, set `tile_scale`."
        )
        raise SettingError(msg)
    if settings.fit != "stretch":
        msg = (
            f"`fit` {settings.fit} gives a whole picture one size, and with `tile` it is cut as it "
            "is. Leave `fit` out, or `tile`."
        )
        raise SettingError(msg)
    if not spec.tileable:
        msg = (
            f"`{spec.name}` knows where on a picture things are, so that one model cannot serve "
            f"for all tiles. Leave `tile` out and see whole pictures in more pixels (`img_size`), "
            f"or take a model that judges by looks alone, such as {_tileable()}."
        )
        raise SettingError(msg)


def _tileable() -> str:
    """A few models of each kind that is installed, which may be cut into tiles."""
    usual = ("patchcore", "stfpm", "reverse-distillation", "efficientad-small", "draem")
    installed = set(ModelRegistry.names())
    found = [name for name in usual if name in installed]
    return listed(found) if found else "`patchcore` of ad-memory"


def resolve_options(
    spec: ModelSpec, trainer: type[Trainer], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Check a model's options and complete them with its defaults.

    Args:
        spec: The model's catalogue entry.
        trainer: Its trainer: keyword-only arguments of the constructor are the options.
        given: What the user set.

    Returns:
        Every option of the trainer with its value.

    Raises:
        SettingError: On an unknown option or a value of the wrong type; names the nearest
            option, or the values that are allowed.
    """
    parameters = options_of(trainer)
    refuse_hidden(trainer, spec.model, spec.name)
    refuse_unknown({**spec.model, **given}, parameters, spec.name)
    options: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name in given or name in spec.model:
            value = given.get(name, spec.model.get(name))
            options[name] = check_option(trainer, name, value, f"model `{spec.name}`")
        elif parameter.default is inspect.Parameter.empty:
            msg = f"Model `{spec.name}` needs a value for its option `{name}`."
            raise SettingError(msg)
        else:
            options[name] = parameter.default
    return options


def describe_options(
    spec: ModelSpec, trainer: type[Trainer]
) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """A model's options with their defaults and, where it is one of few, the values allowed."""
    options = resolve_options(spec, trainer, {})
    return {name: (value, allowed_of(trainer, name)[0]) for name, value in options.items()}


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"][0].lower() + problem["msg"][1:]
        if name == "device":
            reason = "must be `auto`, `cpu`, `cuda` or `cuda:N`"
        if name in _SHARES and type(problem["input"]) in (int, float):
            lines.append(wrong_share(name, _SHARES[name], problem["input"]))
            continue
        lines.append(f"`{name}`: {reason}; got {shown(problem['input'])}.")
    return "\n".join(lines)
