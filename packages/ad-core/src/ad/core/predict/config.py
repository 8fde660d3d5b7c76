"""What a saved model says of itself: ``config.json``, and where its threshold was found."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ad.core.errors import ModelFileError, SettingError
from ad.core.framing import Framing
from ad.core.saved.files import saved_roi
from ad.core.trainer import Precision
from ad.runtime.calibration import Calibration
from ad.runtime.framing.region import Region
from ad.runtime.manifest import ROI
from ad.runtime.pictures.levels import WHITE_LEVELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Where scores were computed: what can shift them beside the precision."""

    device: str
    """Kind of device: ``cpu``, ``cuda``."""
    threads: int
    """Threads of the CPU; they change the last digits of a score."""
    tiles: tuple[int, int] | None = None
    """The fewest and the most tiles of a picture; None if pictures were not cut."""
    compiled: bool = False
    """Whether by the compiled form of the detector."""

    @classmethod
    def of(
        cls,
        device: torch.device,
        tiles: tuple[int, int] | None = None,
        *,
        compiled: bool = False,
    ) -> Conditions:
        """Those of this process."""
        threads = torch.get_num_threads()
        return cls(device=device.type, threads=threads, tiles=tiles, compiled=compiled)

    def to_json(self) -> dict[str, Any]:
        """As it is saved with a model; without tiles and what is false."""
        values = asdict(self)
        return {key: values[key] for key in values if values[key] not in (None, False)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Conditions:
        """Read what `to_json` wrote, if nothing is `wrong` with it."""
        tiles = values.get("tiles")
        return cls(**{**values, "tiles": None if tiles is None else tuple(tiles)})

    @staticmethod
    def wrong(values: dict[str, Any]) -> bool:
        """Whether something cannot be their JSON."""
        tiles = values.get("tiles", [1, 1])
        return (
            not {"device", "threads"} <= set(values) <= {"device", "threads", "tiles", "compiled"}
            or type(values.get("compiled", False)) is not bool
            or not isinstance(values["device"], str)
            or type(values["threads"]) is not int
            or not isinstance(tiles, list)
            or [type(count) for count in tiles] != [int, int]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What a saved model says about itself: ``config.json``."""

    model: str
    """Registry name."""
    options: dict[str, Any]
    """The model's options, all of them."""
    framing: Framing
    """How a picture becomes what it sees."""
    normalize: bool
    """Whether ImageNet normalisation happens inside."""
    precision: Precision
    """Precision of frozen networks; the threshold holds in this one."""
    categories: tuple[str, ...]
    """What it was trained on."""
    calibration: Calibration | None
    """Threshold and scale; None if nothing was held out."""
    calibrated_on: Conditions | None
    """Where they were found; None without them, or if it is not known."""
    white_level: int | None = None
    """The value that is white in pictures of more than 8 bits; None if it has learnt from none."""

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json`` but for the schema's number."""
        return {
            "model": self.model,
            "options": self.options,
            **self.framing.to_json(),
            "normalize": self.normalize,
            "precision": self.precision,
            "categories": list(self.categories),
            "calibration": self.calibration.to_json() if self.calibration else None,
            "calibrated_on": self.calibrated_on.to_json() if self.calibrated_on else None,
            "white_level": self.white_level,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], folder: Path) -> ModelConfig:
        """Read ``config.json``; every key must be known, there and of its kind.

        Raises:
            ModelFileError: If one is not.
        """
        kinds: dict[str, type | tuple[type, ...]] = {
            "model": str,
            "options": dict,
            "img_size": (int, list),
            "fit": str,
            "resize": (int, list, type(None)),
            "crop": (list, type(None)),
            "roi": (str, type(None)),
            "tiling": (dict, type(None)),
            "normalize": bool,
            "precision": str,
            "categories": list,
            "calibration": (dict, type(None)),
            "calibrated_on": (dict, type(None)),
            "white_level": (int, type(None)),
        }
        # What was not recorded at first.
        at_first = {"fit": "stretch", "resize": None, "crop": None, "roi": None, "tiling": None}
        values = {**at_first, "calibrated_on": None, "white_level": None, **values}
        wrong = set(values) ^ set(kinds) or {
            key
            for key, kind in kinds.items()
            if not isinstance(values[key], kind) or isinstance(values[key], bool) != (kind is bool)
        }
        if not wrong:
            wrong = Framing.wrong_in(values)
        if not wrong and values["white_level"] not in (None, *WHITE_LEVELS):
            wrong = {"white_level"}
        if not wrong and not all(isinstance(name, str) for name in values["categories"]):
            wrong = {"categories"}
        where = None if wrong else values["calibrated_on"]
        if where is not None and Conditions.wrong(where):
            wrong = {"calibrated_on"}
        if wrong or values["precision"] not in ("fp32", "bf16"):
            name = min(wrong, default="precision")
            msg = (
                f"The configuration of `{folder}` has a missing, unknown or malformed entry "
                f"`{name}`: it was written by another version."
            )
            raise ModelFileError(msg)
        calibration = values["calibration"]
        framing = Framing.from_json(values, _region(values["roi"], folder))
        rest = {key: value for key, value in values.items() if key not in framing.to_json()}
        return cls(
            framing=framing,
            **{
                **rest,
                "categories": tuple(values["categories"]),
                "calibration": (
                    None if calibration is None else Calibration.from_json(calibration)
                ),
                "calibrated_on": None if where is None else Conditions.from_json(where),
            },
        )


def _region(sha256: str | None, folder: Path) -> Region | None:
    """The region of a saved model that has one.

    Raises:
        ModelFileError: If its file is not the one that the configuration speaks of.
    """
    if sha256 is None:
        return None
    try:
        region = Region.read(saved_roi(folder))
    except SettingError as error:  # nobody who loads a model has set anything
        msg = (
            f"The region of interest of the saved model `{folder}` cannot be used: {error} It was "
            "changed; take it from the original again."
        )
        raise ModelFileError(msg) from error
    if region.sha256 != sha256:
        msg = (
            f"`{folder / ROI}` is not the region of interest that the configuration speaks of. It "
            "was changed; take it from the original again."
        )
        raise ModelFileError(msg)
    return region


def chosen_by_hand(
    config: ModelConfig, run: str | Path, threshold: float, pixel_threshold: float | None = None
) -> ModelConfig:
    """A detector's configuration with a threshold that a person chose.

    Raises:
        SettingError: If a threshold is no finite number, or there is no calibration whose scale
            0-to-1 scores could keep.
    """
    if config.calibration is None:
        msg = (
            f"`{run}` has no calibration, as nothing was held out, and so no scale that 0-to-1 "
            f"scores around the threshold {threshold} could be on. First set one from good "
            f"pictures: ad calibrate {shlex.quote(str(run))} --normals DIR"
        )
        raise SettingError(msg)
    return replace(config, calibration=config.calibration.by_hand(threshold, pixel_threshold))
