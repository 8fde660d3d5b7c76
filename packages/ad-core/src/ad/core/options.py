"""What the options of a trainer may be: its signature says it, and every value is held to it.

An option is a keyword-only argument of the constructor. Its annotation is its type and its limits:
``lr: Annotated[float, Field(gt=0, le=10)]``; what several models have is named here. Numbers have
limits on both sides, so that no saved model and no slip of a key asks for all of the memory.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic import Field as Field
from pydantic.errors import PydanticUserError

from ad.core.errors import PluginError, SettingError, listed, nearest
from ad.runtime.errors import SHOWN, shown

Name = Annotated[str, Field(max_length=200)]
"""A name, such as a backbone's."""

Layers = Annotated[tuple[Name, ...], Field(max_length=64)]
"""Names of a backbone's layers."""

PathName = Annotated[str, Field(max_length=4096)]
"""A file or a folder; empty for none."""

LearningRate = Annotated[float, Field(gt=0, le=10)]
"""Of an optimiser."""

WeightDecay = Annotated[float, Field(ge=0, le=1)]
"""Of an optimiser."""

Probability = Annotated[float, Field(ge=0, le=1)]
"""From 0 to 1."""

Side = Annotated[int, Field(ge=1, le=4096)]
"""Of a picture, in pixels."""

Steps = Annotated[int, Field(ge=1, le=10**9)]
"""Batches to learn from."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Of random choices."""

BatchSize = Annotated[int, Field(ge=1, le=2**16)]
"""Pictures in a batch."""

Minutes = Annotated[float, Field(ge=0, le=10**6)]
"""A span of time; a million minutes are two years."""


def renamed(values: Mapping[str, str], *, told: str | None = None) -> BeforeValidator:
    """For an annotation: values that had another name, in saved models and in what people type.

    ``Annotated[Literal["pooled"], renamed({"official1024": "pooled"})]`` takes both and gives
    ``pooled``, which is what a run then records; the old one is not told of any more.

    Args:
        values: The new name of each old one.
        told: What is warned of where an old one is given, if it meant something else.
    """

    def now(value: object) -> object:
        if type(value) is not str or value not in values:
            return value
        if told is not None:
            warnings.warn(told, stacklevel=2)
        return values[value]

    return BeforeValidator(now)


_FINITE = ConfigDict(allow_inf_nan=False)


def options_of(trainer: type) -> dict[str, inspect.Parameter]:
    """The options of a trainer: the keyword-only arguments of its constructor."""
    return _keyword_only(_constructor(trainer))


def refuse_hidden(trainer: type, names: Iterable[str], model: str) -> None:
    """Refuse a trainer that takes options otherwise than by keyword alone, each with its name.

    Args:
        trainer: Its class.
        names: Options that a user or a catalogue set.
        model: Its name, for the error.

    Raises:
        PluginError: If one of these is such.
    """
    parameters = inspect.signature(_constructor(trainer)).parameters
    loose = [one for one in parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]
    for name in names:
        found = parameters.get(name, loose[0] if loose else None)
        if found is not None and found.kind is not inspect.Parameter.KEYWORD_ONLY:
            msg = (
                f"`{trainer.__name__}.__init__` of model `{model}` must take its option `{name}` "
                f"by keyword alone: `def __init__(self, setup: Setup, *, {name}: ...)`."
            )
            raise PluginError(msg)


def refuse_unknown(given: Iterable[str], known: Iterable[str], model: str) -> None:
    """Refuse an option that a model does not have.

    Args:
        given: Names that a user or a catalogue set.
        known: The model's options.
        model: Its name, for the error.

    Raises:
        SettingError: If one is unknown; names the nearest, and all.
    """
    known = list(known)
    for name in given:
        if name not in known:
            msg = (
                f"Model `{model}` has no option `{name}`.{nearest(name, known)} "
                f"It has {listed(known)}."
            )
            raise SettingError(msg)


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` texts, as typed after ``--set``.

    A value is read as JSON where it is JSON (``0.1``, ``true``, ``["layer2"]``) and as text
    otherwise; for an option that takes several values, a comma list will do.

    Raises:
        SettingError: If a text is no assignment, or one sets again what another one has set.
    """
    options: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not (key.isidentifier() and equals):
            msg = f"`--set` takes KEY=VALUE, such as `--set coreset_ratio=0.01`; got `{text}`."
            raise SettingError(msg)
        if key in options:
            msg = f"`--set {key}=...` is given twice, the second time as `{text}`. Leave out one."
            raise SettingError(msg)
        options[key] = json_or_text(value)
    return options


def split_models(text: str) -> list[str]:
    """Split a list of models at its commas, but not at those inside brackets.

    Raises:
        SettingError: If a bracket is not closed, or was not opened.
    """
    return [part for part in _parts(text, re.compile(",")) if part]


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME`` or ``NAME[KEY=VALUE;KEY=VALUE]``.

    Options are parted by ``;``, or by a comma before the next ``KEY=``: other commas are of a
    value. Values are read as by `parse_assignments`.

    Returns:
        The name, and the options in brackets.

    Raises:
        SettingError: If it is neither.
    """
    name, bracket, inside = text.strip().partition("[")
    if not bracket:
        return name, {}
    if not (name and inside.endswith("]")) or not inside[:-1].strip():
        raise SettingError(_model_words(text))
    options: dict[str, Any] = {}
    for part in _parts(inside[:-1], _NEXT_OPTION):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key.isidentifier() and equals):
            raise SettingError(_model_words(text))
        if key in options:
            msg = f"`{text}` sets `{key}` twice. Leave out one, or list the model twice."
            raise SettingError(msg)
        options[key] = json_or_text(value)
    return name, options


_NEXT_OPTION = re.compile(r";|,(?=\s*[A-Za-z_]\w*\s*=)")


def _model_words(text: str) -> str:
    return (
        "A model is NAME, or NAME[KEY=VALUE] with options of its own, such as "
        f"`patchcore[coreset_ratio=0.01]`, several of them parted by `;`; got `{text}`."
    )


def _parts(text: str, at: re.Pattern[str]) -> list[str]:
    """Split where a pattern is, outside of brackets and of quotes inside of them."""
    parts, begun, depth, quoted = [], 0, 0, False
    for place, sign in enumerate(text):
        quoted ^= sign == '"'
        if quoted:
            continue
        depth += (sign == "[") - (sign == "]")
        if depth < 0:
            break
        if depth == 0 and at.match(text, place):
            parts.append(text[begun:place].strip())
            begun = place + 1
    if depth or quoted:
        raise SettingError(_model_words(text))
    return [*parts, text[begun:].strip()]


def refuse_no_models(models: Sequence[str]) -> None:
    """Refuse a list of no models.

    Raises:
        SettingError: If it is one.
    """
    if not models:
        msg = "No model is named. `ad models` lists those that are installed."
        raise SettingError(msg)


def refuse_unset(given: Iterable[str], models: Mapping[str, Iterable[str]]) -> None:
    """Refuse an option for several models that none of them has.

    Args:
        given: Names that a user set.
        models: Each model with its options.

    Raises:
        SettingError: If one is unknown to all; names the nearest.
    """
    known = sorted({name for options in models.values() for name in options})
    for name in given:
        if name not in known:
            has = f"No model here has an option `{name}`: neither {listed(models)}."
            if len(models) == 1:
                has = f"Model {listed(models)} has no option `{name}`."
            msg = f"{has}{nearest(name, known)} `ad show MODEL` lists those of a model."
            raise SettingError(msg)


def as_typed(value: object) -> str:
    """The value of an option as a user would type it."""
    if isinstance(value, list | tuple) and not any(isinstance(one, list | tuple) for one in value):
        return ",".join(map(as_typed, value))
    return value if isinstance(value, str) else json.dumps(value)


def check_option(trainer: type, name: str, value: Any, owner: str) -> Any:  # noqa: ANN401
    """Hold a value to the annotation of one option of a trainer; see `checked`."""
    hint = _hints(_constructor(trainer)).get(name, Any)
    return checked(hint, value, f"Option `{name}` of {owner}")


def allowed_of(trainer: type, name: str) -> tuple[tuple[Any, ...], str]:
    """What one option of a trainer may be, to be shown.

    Returns:
        The choices of a `Literal`, and the limits of a number, as ``(0, 10]``; empty if none.
    """
    hint = _hints(_constructor(trainer)).get(name, Any)
    plain = _bare(hint)
    choices = typing.get_args(plain) if typing.get_origin(plain) is Literal else ()
    schema = _adapter(hint).json_schema()
    for one in (schema, *schema.get("anyOf", ())):
        if one.get("type") in ("integer", "number"):
            return choices, _interval(one)
    return choices, ""


def checking_options(constructor: Callable[..., None]) -> Callable[..., None]:
    """Have a constructor hold its options to their annotations, however it is called."""

    def checking(self: object, *args: Any, **given: Any) -> None:  # noqa: ANN401
        known, hints = _keyword_only(constructor), _hints(constructor)
        owner = f"`{type(self).__name__}`"
        values = {
            name: checked(hints.get(name, Any), value, f"Option `{name}` of {owner}")
            if name in known
            else value
            for name, value in given.items()
        }
        constructor(self, *args, **values)

    functools.update_wrapper(checking, constructor)
    checking.__kwdefaults__ = constructor.__kwdefaults__  # which that leaves out
    return checking


def checked(hint: Any, value: Any, what: str) -> Any:  # noqa: ANN401 - any option
    """Hold a value to an annotation.

    Args:
        hint: The annotation.
        value: As a user may have given it: what JSON can hold, or a path. A comma list will do
            where several values are meant.
        what: What it is for, for the error.

    Returns:
        The value in the annotation's own type, such as a tuple for a list.

    Raises:
        SettingError: If it is of another type or beyond a limit; no number may be infinite or nan.
        PluginError: If nothing can be held to the annotation.
    """
    try:
        adapter = _adapter(hint)
    except PluginError as error:
        msg = f"{what}: {error}"
        raise PluginError(msg) from error
    plain = _bare(hint)
    if isinstance(value, str) and typing.get_origin(plain) in (tuple, list):
        value = [part.strip() for part in value.split(",")]
        if str not in map(_bare, typing.get_args(plain)):
            value = [json_or_text(part) for part in value]
    try:
        # Strict as JSON: "4" is no int and 1 no bool, but a list is welcome where a tuple is meant.
        return adapter.validate_json(_as_json(value, what), strict=True)
    except ValidationError as error:
        reasons = sorted({e["msg"][0].lower() + e["msg"][1:] for e in error.errors()})
        msg = f"{what}: {'; or '.join(reasons)}; got {shown(value)}."
        raise SettingError(msg) from error


def json_or_text(value: str) -> Any:  # noqa: ANN401 - any option
    """Read a text as JSON where it is JSON, and as text otherwise."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # no JSON, a number of too many digits, or nested too deep
        return value


def _as_json(value: object, what: str) -> str:
    try:
        return json.dumps(value, default=_plain)
    except SettingError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"{what}: {str(error)[:SHOWN]}; got {shown(value)}."
        raise SettingError(msg) from error


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    msg = f"An option must be numbers, texts, lists of them or None; got {shown(value)}."
    raise SettingError(msg)


def _constructor(trainer: type) -> Callable[..., None]:
    constructor: Callable[..., None] = trainer.__init__  # type: ignore[misc]  # of the class itself
    return constructor


def _keyword_only(constructor: Callable[..., None]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


@functools.lru_cache(maxsize=1024)
def _hints(constructor: Callable[..., None]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(constructor, include_extras=True)
    except NameError as error:
        msg = (
            f"The annotations of `{constructor.__qualname__}` cannot be read ({error}), so no "
            "option can be checked. Import what they name outside of `TYPE_CHECKING`."
        )
        raise PluginError(msg) from error


@functools.lru_cache(maxsize=1024)
def _adapter(hint: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any annotation
    try:
        return TypeAdapter(hint, config=_FINITE)
    except PydanticUserError as error:
        msg = (
            f"No value can be checked against the annotation `{hint}` of an option. Annotate it "
            "with `int`, `float`, `bool`, `str`, `Literal[...]` or tuples of these."
        )
        raise PluginError(msg) from error


def _bare(hint: Any) -> Any:  # noqa: ANN401 - any annotation
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


def _interval(schema: Mapping[str, Any]) -> str:
    above, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    below, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if above is least is below is most is None:
        return ""
    low = f"({above:g}" if above is not None else "(-inf" if least is None else f"[{least:g}"
    high = f"{below:g})" if below is not None else "inf)" if most is None else f"{most:g}]"
    return f"{low}, {high}"
