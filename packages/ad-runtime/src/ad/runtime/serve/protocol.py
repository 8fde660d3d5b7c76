"""Requests of the Open Inference Protocol v2, with its extension for binary tensors.

A message is JSON, and behind it, if the header ``Inference-Header-Content-Length`` tells where the
JSON ends, tensors in the order in which the JSON has them: little-endian, row by row; an element of
``BYTES`` is its length in four bytes and its content. Everything must add up: what is too short,
too long, of another type or not known is refused.

Source: https://github.com/kserve/open-inference-protocol, and Triton's extension_binary_data.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import listed, nearest
from ad.runtime.runtime import Runtime
from ad.runtime.serve.answers import LARGE, outputs_of, takes_pictures
from ad.runtime.serve.limits import Limits, Refused

HEADER_LENGTH: Final = "Inference-Header-Content-Length"
"""The header that tells where the JSON of a message ends."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request wants to know."""

    id: str | None
    """Comes back in the answer."""
    pictures: Sequence[bytes | NDArray[np.uint8]]
    """Files, or pictures ``[h, w, 3]`` that have the model's size already."""
    category: str | None
    """Whose threshold to take."""
    threshold: float | None
    """In place of the saved one."""
    outputs: Mapping[str, bool]
    """Names of the outputs, and whether each is binary."""


def parse_request(body: bytes, header: str | None, runtime: Runtime, limits: Limits) -> Asked:
    """Read a request for inference.

    Args:
        body: Of the request.
        header: `HEADER_LENGTH` of the request.
        runtime: The model that is asked.
        limits: Of the server.

    Raises:
        Refused: With 400 if anything of it is wrong, with 413 if there are too many pictures.
    """
    end = len(body)
    if header is not None:
        number = header.isascii() and header.isdigit() and len(header) < 20
        if not number or int(header) > len(body):
            _refuse(
                f"the header `{HEADER_LENGTH}` must be the number of bytes of the JSON, at most "
                f"the {len(body)} of the body; it is {header[:40]!r}"
            )
        end = int(header)
    request = parse_object(body[:end])
    _check_keys(request, "the request", ("id", "parameters", "inputs", "outputs"))
    identifier = request.get("id")
    if identifier is not None and not isinstance(identifier, str):
        _refuse("`id` must be a text")
    parameters = _parameters(
        request, "the request", ("category", "threshold", "binary_data_output")
    )
    pictures = _pictures(request, body[end:], header is not None, runtime, limits)
    binary = parameters.get("binary_data_output", False)
    if not isinstance(binary, bool):
        _refuse("the parameter `binary_data_output` must be true or false")
    return Asked(
        id=identifier,
        pictures=pictures,
        category=category_of(parameters.get("category")),
        threshold=_threshold(parameters.get("threshold")),
        outputs=_outputs(request.get("outputs"), runtime, binary=binary),
    )


def parse_object(text: bytes) -> dict[str, Any]:
    """Read a JSON object whose keys are there once.

    Raises:
        Refused: If it is none.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        _refuse("the body is JSON that is nested too deep")
    except ValueError as error:
        _refuse(f"the body is no JSON ({str(error)[:200]})")
    if not isinstance(value, dict):
        _refuse("the body must be a JSON object")
    return value


def category_of(value: object) -> str | None:
    """A category as a client gives it.

    Raises:
        Refused: If it is no text.
    """
    if value is not None and not isinstance(value, str):
        _refuse("the parameter `category` must be a text")
    return value


def threshold_of(text: str | None) -> float | None:
    """A threshold as it stands in an address.

    Raises:
        Refused: If it is no finite number.
    """
    try:
        return None if text is None else _threshold(float(text))
    except ValueError:
        return _threshold(text)


def area_of(text: str | None) -> int | None:
    """The area of the smallest region as it stands in an address.

    Raises:
        Refused: If it is no whole number from 1.
    """
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        _refuse("the parameter `min_area` must be a whole number of pixels from 1")
    return int(text)


def _threshold(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(number := float(value)):
                return number
        except OverflowError:
            pass
    return _refuse("the parameter `threshold` must be a finite number")


def _pictures(
    request: Mapping[str, Any], tail: bytes, binary: bool, runtime: Runtime, limits: Limits
) -> Sequence[bytes | NDArray[np.uint8]]:
    inputs = request.get("inputs")
    known = ["pictures", "file"] if takes_pictures(runtime) else ["file"]
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        _refuse(f"`inputs` must be a list of one object, which is {' or '.join(known)}")
    given = inputs[0]
    name = given.get("name")
    if name not in known:
        why = ""
        if name == "pictures":
            why = " The model sees tiles of a picture, whose whole it must have: send its file."
        _refuse(f"the input must be named {' or '.join(known)}; got {_short(name)}.{why}")
    where = f"the input `{name}`"
    _check_keys(given, where, ("name", "datatype", "shape", "parameters", "data"))
    parameters = _parameters(given, where, ("binary_data_size", "content_type"))
    datatype = "UINT8" if name == "pictures" else "BYTES"
    if given.get("datatype") != datatype:
        _refuse(f"{where} is of datatype {datatype}; got {_short(given.get('datatype'))}")
    height, width = runtime.config.framing.size
    sides = (height, width, 3) if name == "pictures" else ()
    number = _number_of(given.get("shape"), sides, where, limits)
    size = parameters.get("binary_data_size")
    if size is None:
        if tail or "data" not in given:
            _refuse(f"{where} must have either `data` or the parameter `binary_data_size`")
        if name == "pictures":
            return list(_levels(given["data"], (number, *sides), where))
        return _texts(given["data"], number, parameters.get("content_type"), where)
    if not binary:
        _refuse(f"{where} is binary, and the header `{HEADER_LENGTH}` is missing")
    if "data" in given or type(size) is not int or size != len(tail):
        _refuse(
            f"the parameter `binary_data_size` of {where} must be the {len(tail)} bytes behind the "
            f"JSON, and `data` must not be there; got {_short(size)}"
        )
    if name == "file":
        return _elements(tail, number, where)
    if len(tail) != number * math.prod(sides):
        _refuse(f"{where} has {len(tail)} bytes; its shape {number, *sides} has another size")
    return list(np.frombuffer(tail, np.uint8).reshape(number, *sides))


def _number_of(shape: object, sides: tuple[int, ...], where: str, limits: Limits) -> int:
    right = isinstance(shape, list) and len(shape) == 1 + len(sides)
    if (
        not isinstance(shape, list)
        or not right
        or any(type(side) is not int for side in shape)
        or tuple(shape[1:]) != sides
        or shape[0] < 1
    ):
        words = ", ".join(map(str, ("N", *sides)))
        _refuse(f"{where} must have the shape [{words}], N from 1; got {_short(shape)}")
    number = int(shape[0])
    if number > limits.pictures:
        msg = (
            f"The request has {_short(number)} pictures, and at most {limits.pictures} are taken. "
            "Send several requests."
        )
        raise Refused(413, msg)
    return number


def _levels(data: object, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    number = math.prod(shape)
    # Looked at one by one: NumPy would make room for the longest of texts as often as for one.
    leaves: list[Any] = [data]
    flat = isinstance(data, list) and len(data) == number
    for side in (number,) if flat else shape:
        if any(type(one) is not list or len(one) != side for one in leaves):
            _refuse(f"`data` of {where} must be {number} numbers, flat or nested as its shape")
        leaves = [*chain.from_iterable(leaves)]
    if {*map(type, leaves)} != {int} or min(leaves) < 0 or max(leaves) > 255:
        _refuse(f"`data` of {where} must be whole numbers from 0 to 255")
    return np.array(leaves, np.uint8).reshape(shape)


def _texts(data: object, number: int, kind: object, where: str) -> list[bytes]:
    if kind != "base64":
        _refuse(
            f"{where} as JSON must be in base64, and say so by its parameter `content_type`: "
            '"base64"; or send it binary'
        )
    if not isinstance(data, list) or len(data) != number:
        _refuse(f"`data` of {where} must be a list of {number} texts, as its shape says")
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError, TypeError):
        _refuse(f"`data` of {where} must be texts in base64")


def _elements(tail: bytes, number: int, where: str) -> list[bytes]:
    elements = []
    at = 0
    for _ in range(number):
        if len(tail) - at < 4:
            break
        (length,) = struct.unpack_from("<I", tail, at)
        at += 4
        if length > len(tail) - at:
            break
        elements.append(tail[at : at + length])
        at += length
    if len(elements) != number or at != len(tail):
        _refuse(
            f"the bytes of {where} must be {number} elements, as its shape says, each a length in "
            "4 bytes, the lowest first, and so many bytes; they do not add up"
        )
    return elements


def _outputs(wanted: object, runtime: Runtime, *, binary: bool) -> dict[str, bool]:
    known = outputs_of(runtime)
    if wanted is None or wanted == []:
        return {name: binary for name in known if name not in LARGE}
    if not isinstance(wanted, list) or not all(isinstance(one, dict) for one in wanted):
        _refuse("`outputs` must be a list of objects")
    outputs: dict[str, bool] = {}
    for one in wanted:
        _check_keys(one, "an output", ("name", "parameters", "datatype", "shape"))
        name = one.get("name")
        if not isinstance(name, str) or name not in known:
            close = nearest(name, known) if isinstance(name, str) else ""
            _refuse(f"the outputs of this model are {listed(known)}; got {_short(name)}.{close}")
        if name in outputs:
            _refuse(f"the output `{name}` is asked for twice")
        own = _parameters(one, f"the output `{name}`", ("binary_data",)).get("binary_data", binary)
        if not isinstance(own, bool):
            _refuse("the parameter `binary_data` must be true or false")
        outputs[name] = own
    return outputs


def _parameters(holder: Mapping[str, Any], where: str, known: tuple[str, ...]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        _refuse(f"`parameters` of {where} must be an object")
    _check_keys(parameters, f"the parameters of {where}", known)
    return parameters


def _check_keys(values: Mapping[str, Any], where: str, known: tuple[str, ...]) -> None:
    """Refuse what is not known: a verdict by a `treshold` that nobody read would be another's."""
    for key in values:
        if key not in known:
            _refuse(
                f"{where} cannot have {_short(key)}; known are {listed(known)}."
                f"{nearest(key, known)}"
            )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        msg = "a key is there twice"
        raise ValueError(msg)
    return values


def _no_number(text: str) -> float:
    msg = f"{text} is no number"
    raise ValueError(msg)


def _short(value: object) -> str:
    """What was given, for an error, however large it is."""
    try:
        text = ascii(value)
    except RecursionError:
        text = "what is nested too deep"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse(reason: str) -> NoReturn:
    msg = f"The request cannot be read: {reason}"
    raise Refused(400, msg if msg.endswith((".", "?")) else f"{msg}.")
