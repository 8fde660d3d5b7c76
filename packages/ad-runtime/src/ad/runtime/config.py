"""What an exported model says of itself: ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, final

from ad.runtime.calibration import Calibration
from ad.runtime.conditions import Conditions
from ad.runtime.errors import ModelFileError
from ad.runtime.framing import Framing, Region
from ad.runtime.pictures.levels import WHITE_LEVELS
from ad.runtime.resize import NAME as RESIZE

KIND = "ad-export"

Format = Literal["onnx", "openvino", "pt2"]
FILES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "onnx": (("model.onnx",), ("model.onnx", "model.onnx.data")),
    "openvino": (("model.xml", "model.bin"),),
    "pt2": (("model.pt2",),),
}
"""The names that a model's own files can have, by its format; the first is the one to open."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MOST_PICTURES = 4096
"""The largest batch that a model may be made for."""

_NAME = re.compile(r"\w[\w.-]{0,199}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a graph takes."""

    dtype: Literal["uint8", "float32"] = "uint8"
    """``uint8``: pictures ``[B, h, w, 3]``. ``float32``: ``[B, 3, h, w]`` in [0, 1]."""
    max_batch: int = 64
    """The most pictures at once."""

    @property
    def name(self) -> str:
        """Of the graph's input."""
        return "pictures" if self.dtype == "uint8" else "images"

    def to_json(self) -> dict[str, Any]:
        """As it is saved."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "layout": "NHWC" if self.dtype == "uint8" else "NCHW",
            "colours": "RGB",
            "resize": RESIZE,
            "max_batch": self.max_batch,
        }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a model was exported from, for the record."""

    versions: Mapping[str, str]
    """Of the packages, by their names."""
    seed: int | None
    """Of the training."""
    fingerprint: str | None
    """Of the data it has learnt from."""
    sha256: str | None
    """Of the run's ``model.safetensors``."""
    licence: str | None
    """Of the weights that it began with."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """What an exported model says about itself: ``config.json``."""

    name: str
    """Under which it is served: letters, digits, ``_``, ``.`` and ``-``."""
    model: str
    """Registry name of the detector."""
    options: Mapping[str, Any]
    """The detector's options, for the record."""
    engine: Format
    """The format of the graph, and the engine that it was made for."""
    files: tuple[str, ...]
    """Names of the graph's files, one of the `FILES` of its format."""
    opset: int | None
    """Of the ONNX operators; None for other formats."""
    precision: str = "fp32"
    """Of the graph, one of `PRECISIONS`."""
    input: Input
    """What the graph takes."""
    framing: Framing
    """How a picture becomes that."""
    white_level: int | None
    """The value that is white in pictures of more than 8 bits; None if it has learnt from none."""
    localises: bool
    """Whether the graph gives a map beside the score."""
    categories: tuple[str, ...]
    """What it was trained on."""
    calibration: Calibration | None
    """Threshold and scale; None if there were no good pictures to find them from."""
    calibrations: Mapping[str, Calibration]
    """Those of single categories."""
    calibrated_on: Conditions | None
    """Where they were found; None without them, or if it is not known."""
    origin: Origin
    """What it was exported from."""

    def calibration_of(self, category: str | None) -> tuple[Calibration | None, int]:
        """What verdicts on a category are made by, and for how many of them that is together.

        Args:
            category: One that it was trained on; None if that is not known.
        """
        if category is not None and category in self.calibrations:
            return self.calibrations[category], 1
        return self.calibration, len(self.categories)

    def to_json(self) -> dict[str, Any]:
        """The content of ``config.json`` but for the schema's number."""
        number = {"dtype": "float32"}
        return {
            "kind": KIND,
            "name": self.name,
            "model": self.model,
            "options": dict(self.options),
            "engine": self.engine,
            "files": list(self.files),
            "opset": self.opset,
            "precision": self.precision,
            "input": self.input.to_json(),
            **self.framing.to_json(),
            "white_level": self.white_level,
            "outputs": {"score": number, "map": number if self.localises else None},
            "categories": list(self.categories),
            "calibration": self.calibration.to_json() if self.calibration else None,
            "calibrations": {name: one.to_json() for name, one in self.calibrations.items()},
            "calibrated_on": self.calibrated_on.to_json() if self.calibrated_on else None,
            "origin": {**asdict(self.origin), "versions": dict(self.origin.versions)},
        }

    @classmethod
    def from_json(
        cls, values: Mapping[str, Any], where: Path, region: Region | None = None
    ) -> ExportConfig:
        """Read what `to_json` wrote; every key must be known, there, of its kind and in its range.

        Args:
            values: As it was saved.
            where: The folder or file that it is of, for an error.
            region: The one whose hash is ``roi``.

        Raises:
            ModelFileError: If something is not so; it says what.
        """
        wrong = next(_wrong(values), None)
        if wrong is None and values["roi"] != (None if region is None else region.sha256):
            wrong = "roi", "is not the hash of its file"
        if wrong is not None:
            key, reason = wrong
            msg = (
                f"The configuration of the exported model `{where}` cannot be used: `{key}` "
                f"{reason}. It was changed, or belongs to another version of ad-runtime: update "
                "ad-runtime, or export again."
            )
            raise ModelFileError(msg)
        calibrations = values["calibrations"]
        calibration, on = values["calibration"], values["calibrated_on"]
        given, origin = values["input"], values["origin"]
        return cls(
            name=values["name"],
            model=values["model"],
            options=values["options"],
            engine=values["engine"],
            files=tuple(values["files"]),
            opset=values["opset"],
            precision=values["precision"],
            input=Input(dtype=given["dtype"], max_batch=given["max_batch"]),
            framing=Framing.from_json(values, region),
            white_level=values["white_level"],
            localises=values["outputs"]["map"] is not None,
            categories=tuple(values["categories"]),
            calibration=None if calibration is None else Calibration.from_json(calibration),
            calibrations={name: Calibration.from_json(one) for name, one in calibrations.items()},
            calibrated_on=None if on is None else Conditions.from_json(on),
            origin=Origin(**origin),
        )


_NONE = type(None)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "kind": (str,),
    "name": (str,),
    "model": (str,),
    "options": (dict,),
    "engine": (str,),
    "files": (list,),
    "opset": (int, _NONE),
    "precision": (str,),
    "input": (dict,),
    "img_size": (int, list),
    "fit": (str,),
    "resize": (int, list, _NONE),
    "crop": (list, _NONE),
    "roi": (str, _NONE),
    "tiling": (dict, _NONE),
    "white_level": (int, _NONE),
    "outputs": (dict,),
    "categories": (list,),
    "calibration": (dict, _NONE),
    "calibrations": (dict,),
    "calibrated_on": (dict, _NONE),
    "origin": (dict,),
}
_ORIGIN: Mapping[str, tuple[type, ...]] = {
    "versions": (dict,),
    "seed": (int, _NONE),
    "fingerprint": (str, _NONE),
    "sha256": (str, _NONE),
    "licence": (str, _NONE),
}


def _wrong(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys of a configuration that cannot be right, and why; each takes those before for right."""
    yield from _wrong_kinds(values, _KINDS)
    if values["kind"] != KIND:
        yield "kind", f"must be `{KIND}`; it is `{values['kind']}`"
    if not _NAME.fullmatch(values["name"]):
        yield "name", "must be up to 200 letters, digits, `_`, `.` and `-`"
    if values["engine"] not in FILES:
        yield "engine", f"must be one of {', '.join(FILES)}; it is `{values['engine']}`"
    allowed = FILES[values["engine"]]
    if tuple(values["files"]) not in allowed:
        yield "files", f"must be {' or '.join(str(list(names)) for names in allowed)}"
    if values["opset"] is not None and not 1 <= values["opset"] <= 1000:
        yield "opset", f"must be from 1 to 1000; it is {values['opset']}"
    if values["precision"] not in PRECISIONS:
        yield "precision", f"must be one of {', '.join(PRECISIONS)}"
    yield from _wrong_input(values["input"])
    for key in sorted(Framing.wrong_in(values)):
        yield key, "is not what it can be"
    if values["white_level"] not in (None, *WHITE_LEVELS):
        yield "white_level", f"must be null or one of {', '.join(map(str, WHITE_LEVELS))}"
    outputs, number = values["outputs"], {"dtype": "float32"}
    if outputs not in ({"score": number, "map": number}, {"score": number, "map": None}):
        yield "outputs", "must be `score` and `map`, each of dtype float32, or `map` null"
    if outputs["map"] is None and values["roi"] is not None:
        yield "roi", "is for models that have a map, and this one has none"
    if not all(isinstance(name, str) for name in values["categories"]):
        yield "categories", "must be names"
    for name, one in values["calibrations"].items():
        if name not in values["categories"] or not isinstance(one, dict):
            yield "calibrations", "must have a calibration for each of some of the `categories`"
    if values["calibrations"] and values["calibration"] is None:
        yield "calibration", "is null although single categories have one"
    on = values["calibrated_on"]
    if on is not None and (reason := Conditions.wrong(on)) is not None:
        yield "calibrated_on", f"is malformed: {reason}"
    for key, reason in _wrong_kinds(values["origin"], _ORIGIN):
        yield f"origin.{key}", reason
    if not all(isinstance(text, str) for text in values["origin"]["versions"].values()):
        yield "origin.versions", "must be texts"


def _wrong_kinds(
    values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]]
) -> Iterator[tuple[str, str]]:
    for key in sorted(set(kinds) - set(values)):
        yield key, "is missing"
    for key in sorted(set(values) - set(kinds)):
        yield key, "is not known"
    for key, allowed in kinds.items():
        if type(values[key]) not in allowed:
            words = " or ".join(_WORDS[kind] for kind in allowed)
            yield key, f"must be {words}; it is {_WORDS.get(type(values[key]), 'another kind')}"


_WORDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    _NONE: "null",
}


def _wrong_input(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    most = values.get("max_batch")
    if type(most) is not int or not 1 <= most <= MOST_PICTURES:
        yield "input", f"must have a `max_batch` from 1 to {MOST_PICTURES}"
    known = [Input(dtype=dtype, max_batch=most or 1) for dtype in ("uint8", "float32")]
    if values not in [one.to_json() for one in known]:
        yield "input", f"must be {known[0].to_json()} or {known[1].to_json()}"
