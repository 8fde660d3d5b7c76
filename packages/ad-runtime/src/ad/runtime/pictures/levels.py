"""White in deep pictures: files and arrays of more than 8 bits a channel.

A camera of 12 bits writes files of 16 whose largest value is 4095, and mostly nothing in the file
says so: taken as 16 bits, its pictures are nearly black. So one white level holds for a run: the
smallest of `WHITE_LEVELS` that is not below any value of its pictures. It is found before learning
and kept with the model.

Where a file itself says what is white, that counts: a TIFF by BitsPerSample below 16, or by
MaxSampleValue if it is one of `WHITE_LEVELS` (any other is a statistic of the one picture, as TIFF
6.0 has it); PGM and PPM by their maximum, with which Pillow scales. A PNG's sBIT does not count: by
the PNG specification, values are scaled to all 16 bits whatever it says.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from ad.runtime.errors import PictureError
from ad.runtime.pictures.opening import Encoded, opened, said
from ad.runtime.progress import SILENT, Progress

WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)
"""The largest values of 8, 10, 12, 14 and 16 bits."""

_FULL = WHITE_LEVELS[-1]
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUES = 258, (281, 341)  # TIFF tags


class Depth(NamedTuple):
    """What the header of a deep picture says."""

    white: int | None
    """The value that is white, if the file says it."""
    raw: str | None
    """Pillow's name of how colours of 16 bits a channel are stored; None for grey."""


class WhiteLevel(NamedTuple):
    """What `find_white_level` found."""

    value: int | None
    """One of `WHITE_LEVELS`; None if no picture is deep, or all say their own and differ."""
    notes: tuple[str, ...]
    """What a user should know of it."""


def depth_of(image: Image.Image, file: Encoded) -> Depth | None:
    """What the header of a picture says that was just opened and not decoded.

    Args:
        image: The open picture.
        file: Where it comes from. If that is the image itself, decoded by the caller, its header is
            read from its file once more, if that is still there.

    Returns:
        None if it has no more than 8 bits a channel, or floating point.

    Raises:
        PictureError: If Pillow would decode it wrongly, or has kept only 8 of 16 bits.
    """
    if isinstance(file, Image.Image):
        return _depth_of_decoded(file)
    args = _args(image)
    white = None
    if isinstance(image, TiffImageFile):
        bits, white = _told_by_tags(image)
        several = len(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 1
        if several and bits > 8 and any(len(str(one[0])) == 1 for one in args):
            msg = (
                f"{said('picture', file)} cannot be used: it keeps {bits} bits a channel in "
                "planes, uncompressed, which Pillow decodes wrongly. Save it with its channels "
                "interleaved, or with 8 bits a channel."
            )
            raise PictureError(msg)
    if image.format == "PPM" and image.mode in ("I", "RGB") and args and len(args[0]) == 2:
        most = args[0][1]
        # Pillow scales by the maximum: to 16 bits what is grey, to 8 what is in colour.
        if image.mode == "RGB":
            return Depth(None, "PPM") if most == _FULL else None
        return Depth(None if most == _FULL else _FULL, None)
    if image.mode.startswith("I"):
        return Depth(white, None)
    raw = next((str(one[0]) for one in args if ";16" in str(one[0])), None)
    return None if raw is None else Depth(white, raw)


def _depth_of_decoded(image: Image.Image) -> Depth | None:
    """What `depth_of` says of an image that Pillow has decoded, whose header may be gone."""
    depth = None
    name = os.fsdecode(getattr(image, "filename", ""))
    if name and Path(name).is_file():
        with contextlib.suppress(PictureError), opened("picture", Path(name)) as again:
            depth = depth_of(again, Path(name))
    elif isinstance(image, TiffImageFile):
        bits, white = _told_by_tags(image)
        depth = Depth(white, None if image.mode[0] in "IF" or bits <= 8 else image.mode)
    if image.mode.startswith("I"):
        return Depth(None, None) if depth is None or depth.raw is not None else depth
    if depth is not None and depth.raw is not None:
        msg = (
            f"{said('picture', image)} cannot be used: its file has 16 bits a channel, of which "
            "Pillow keeps 8 once it has decoded them. Pass the file's path or its bytes, or the "
            "image as `Image.open` gives it."
        )
        raise PictureError(msg)
    return None


def _told_by_tags(image: TiffImageFile) -> tuple[int, int | None]:
    """The largest number of bits that a TIFF has in a channel, and what is white if it says so."""
    bits = max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,)))
    white = None
    for tag in _MAX_SAMPLE_VALUES:
        told = np.unique(image.tag_v2.get(tag, ()))
        if told.size == 1 and told[0] in WHITE_LEVELS[:-1]:
            white = int(told[0])
    return bits, 2**bits - 1 if 8 < bits < 16 else white


def deep_values(image: Image.Image, file: Encoded, depth: Depth) -> tuple[NDArray[Any], bool]:
    """Decode a deep picture.

    Pillow gives the upper 8 of 16 bits of a colour. The lower ones come by decoding once more as
    if the bytes were in the other order.

    Args:
        image: The open picture.
        file: Where it comes from.
        depth: What `depth_of` said of it.

    Returns:
        ``[H, W]`` or ``[H, W, C]`` without alpha, and whether these are the values, uint16; else
        they are the upper 8 bits, uint8, in colours that Pillow has yet to convert.

    Raises:
        PictureError: If values are no whole numbers of 16 bits.
    """
    if depth.raw is None:
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > _FULL:
            msg = (
                f"{said('picture', file)} cannot be used: its 32-bit values go beyond 16 bits; "
                "save it with 8 or 16 bits a channel."
            )
            raise PictureError(msg)
        return pixels.astype(np.uint16), True
    other = _other_order(depth.raw)
    upper = np.asarray(image)
    colours = upper.shape[-1] if image.mode == "CMYK" else 3
    if other is None:
        return upper[..., :colours], False
    with opened("picture", file) as again:
        assert isinstance(again, ImageFile.ImageFile)
        again.tile = [
            part._replace(args=(other, *args[1:]) if args[1:] else other)
            for part, args in zip(again.tile, _args(again), strict=True)
        ]
        lower = np.asarray(again)
    if other == "RGBA":  # all four bytes of grey and alpha, one beside the other
        upper, lower = lower[..., :1], lower[..., 1:2]
    return (upper.astype(np.uint16) << 8 | lower)[..., :colours], True


def _args(image: Image.Image) -> list[tuple[Any, ...]]:
    """What Pillow will hand to the decoder of each part; how pixels are stored comes first."""
    parts = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return [part[3] if isinstance(part[3], tuple) else (part[3],) for part in parts]


def _other_order(raw: str) -> str | None:
    if raw == "LA;16B":
        return "RGBA"
    order = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}.get(raw[-1])
    return None if order is None or raw[:-1] not in _BOTH_ORDERS else raw[:-1] + order


_BOTH_ORDERS = ("RGB;16", "RGBA;16", "RGBX;16")


def to_eight_bits(
    values: NDArray[np.uint16], what: str, white: int | None, *, stated: bool = False
) -> NDArray[np.uint8]:
    """Scale values of more than 8 bits so that white becomes 255.

    Args:
        values: Of any shape, not empty.
        what: What they are, for the error: ``The picture `a.png```.
        white: One of `WHITE_LEVELS`. None if it is not known: then only values that need all 16
            bits tell it.
        stated: Whether the file itself says so.

    Returns:
        Of the same shape: the upper 8 bits below the white level.

    Raises:
        PictureError: If the white level is not known, or a value is above it.
    """
    largest = int(values.max())
    if white is None:
        if largest <= WHITE_LEVELS[-2]:
            msg = (
                f"{what} holds 16-bit values up to {largest}, and it is not known which value is "
                "white: taken as 16 bits it would be dark or black. A model learns that from the "
                "pictures of more than 8 bits it is trained with, and here are none. Scale the "
                "values to 8 bits or to the full 16, or train with such pictures."
            )
            raise PictureError(msg)
        white = _FULL
    if largest > white:
        whose = "as the file itself says" if stated else "in the pictures that were learnt from"
        msg = (
            f"{what} has values up to {largest}, but white is {white} ({white.bit_length()} bits) "
            f"{whose}. Scale the values to that, or train again with such pictures."
        )
        raise PictureError(msg)
    if not stated and 16 * (largest + 1) <= white + 1:
        warnings.warn(
            f"No value of {what[0].lower()}{what[1:]} is above {largest}, and white is {white}: it "
            "is nearly black. If it has fewer bits than the pictures that were learnt from, scale "
            "it.",
            stacklevel=2,
        )
    return (values >> (white.bit_length() - 8)).astype(np.uint8)


def check_upper(most: int, file: Encoded, white: int | None) -> None:
    """Check that the upper 8 of 16 bits are all that is needed of a picture.

    Args:
        most: The largest value of the upper bits, 0 to 255.
        file: The picture.
        white: One of `WHITE_LEVELS`; None if it is not known.

    Raises:
        PictureError: If they are not, or that is not known.
    """
    if white == _FULL or (white is None and most > WHITE_LEVELS[-2] >> 8):
        return
    msg = (
        f"{said('picture', file)} cannot be used: of its 16 bits a channel only the upper 8 can be "
        f"read, which are at most {most} of 255, and it is not known that white needs all 16: it "
        "would be dark or black. Save it with 8 bits a channel, or scaled to the full 16."
    )
    raise PictureError(msg)


def find_white_level(paths: Sequence[Path], *, progress: Progress = SILENT) -> WhiteLevel:
    """Find the white level of a run; deep pictures are decoded for it, of others only the header.

    Args:
        paths: All pictures of the run, whatever they are for.
        progress: Where to show how far it is.

    Raises:
        PictureError: If a picture cannot be read, or not all that is needed of it.
    """
    stated: set[int] = set()
    unsure: list[Path] = []
    for path in paths:
        with opened("picture", path) as image:
            depth = depth_of(image, path)
        if depth is not None and depth.white is not None:
            stated.add(depth.white)
        elif depth is not None:
            unsure.append(path)
    if not unsure:
        return WhiteLevel(stated.pop() if len(stated) == 1 else None, ())
    largest = 0
    workers = min(8, os.cpu_count() or 1)
    with (
        progress.step("white level", total=len(unsure), unit="pictures") as advance,
        ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool,
    ):
        uppers: dict[Path, int] = {}
        for path, (found, whole) in zip(unsure, pool.map(_largest, unsure), strict=True):
            largest = max(largest, found)
            if not whole:
                uppers[path] = found >> 8
            advance(1)
    white = next(level for level in WHITE_LEVELS if level >= largest)
    for path, most in uppers.items():
        check_upper(most, path, white)
    notes = [
        f"{len(unsure)} of {len(paths)} pictures have 16 bits a channel, and the largest value in "
        f"them is {largest}: {white} ({white.bit_length()} bits) is taken as white, here and "
        "wherever the model is used."
    ]
    if len(unsure) < len(paths):
        notes.append(
            f"The other {len(paths) - len(unsure)} pictures have a white of their own, such as 255 "
            "in files of 8 bits: see that the same thing is equally bright in both kinds."
        )
    return WhiteLevel(white, tuple(notes))


def _largest(path: Path) -> tuple[int, bool]:
    """The largest value of a deep picture, and whether it is exact or the upper 8 bits are."""
    with opened("picture", path) as image:
        depth = depth_of(image, path)
        assert depth is not None
        values, whole = deep_values(image, path, depth)
        return (int(values.max()), True) if whole else (int(values.max()) << 8 | 255, False)
