"""The configuration of an exported model that is one file: it lies in the file's own metadata.

It is read without an engine and without libraries of the formats, before the file is opened for
work. An ONNX file is a message of Protocol Buffers, of which the outermost fields are enough; they
are skipped where they are something else. An OpenVINO file is XML.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from ad.runtime.errors import ModelFileError
from ad.runtime.files import LARGEST_JSON, check_regular

KEY = "ad.config"
"""Of the configuration in the metadata of an ONNX file."""

PATH = ("ad", "config")
"""Of the configuration in the ``rt_info`` of an OpenVINO file."""

SUFFIXES = (".onnx", ".xml")
"""Of such files."""

LARGEST_ONNX = 2**31
"""Bytes of an ONNX file: Protocol Buffers allow no more."""

_METADATA, _MAP_KEY, _MAP_VALUE = 14, 1, 2  # fields of ModelProto, and of what the first holds
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL = "exported model"


def embedded_config(path: Path) -> bytes:
    """The configuration that lies in a model's file.

    Args:
        path: An ONNX file, or the ``.xml`` of OpenVINO.

    Raises:
        ModelFileError: If there is none, or the file is not what its name says.
    """
    check_regular(path, _MODEL)
    try:
        found = _in_onnx(path) if path.suffix == ".onnx" else _in_xml(path)
    except OSError as error:
        msg = f"`{path}` cannot be read ({error.strerror})."
        raise ModelFileError(msg) from error
    if found is None:
        msg = (
            f"`{path}` does not say how pictures become what it sees: there is no `{KEY}` in its "
            "metadata. Give the folder that `ad export` wrote, or export with `--single-file`."
        )
        raise ModelFileError(msg)
    if len(found) > LARGEST_JSON:
        msg = f"`{path}` has more than {LARGEST_JSON:,} bytes of configuration: it was changed."
        raise ModelFileError(msg)
    return found


def _in_onnx(path: Path) -> bytes | None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            if size > LARGEST_ONNX:
                raise _BrokenError
            for field, content in _fields(file, size, wanted=(_METADATA,)):
                if field == _METADATA:
                    entry = _entry(content)
                    if entry.get(_MAP_KEY) == KEY.encode():
                        return entry.get(_MAP_VALUE, b"")
        except _BrokenError as error:
            msg = f"`{path}` is no ONNX file, or it was damaged: take it from the original again."
            raise ModelFileError(msg) from error
    return None


class _BrokenError(Exception):
    """It is no message."""


def _entry(content: bytes) -> dict[int, bytes]:
    return dict(_fields(io.BytesIO(content), len(content), wanted=(_MAP_KEY, _MAP_VALUE)))


def _fields(file: BinaryIO, size: int, *, wanted: tuple[int, ...]) -> Iterator[tuple[int, bytes]]:
    """The wanted fields of bytes of a message, those of another kind skipped."""
    while file.tell() < size:
        tag = _varint(file)
        field, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _varint(file)
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind)
        if kind == _BYTES:
            length = _varint(file)
        if length is None or length > size - file.tell():
            raise _BrokenError
        if kind != _BYTES or field not in wanted:
            file.seek(length, 1)
        elif length > 2 * LARGEST_JSON:
            raise _BrokenError
        else:
            yield field, file.read(length)


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise _BrokenError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _BrokenError


def _in_xml(path: Path) -> bytes | None:
    place: list[str] = []
    wanted = ["net", "rt_info", *PATH]
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if event == "start":
                place.append(element.tag)
            else:
                place.pop()
                element.clear()
                continue
            if place == wanted:
                value = element.get("value")
                return None if value is None else value.encode()
    except (ElementTree.ParseError, ValueError) as error:
        msg = f"`{path}` is no OpenVINO file, or it was damaged: take it from the original again."
        raise ModelFileError(msg) from error
    return None
