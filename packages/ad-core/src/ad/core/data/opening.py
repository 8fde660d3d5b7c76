"""Opening a picture's file: what fails is told of with its path; how its pixels lie in it.

A file may hold its pixels turned and say so in its EXIF orientation. Pillow turns those of a TIFF
while it decodes them, gives such a TIFF's size upright from the start, and does neither for any
other format. `Stance` says the same of all.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ad.core.errors import PictureError

WidthHeight = tuple[int, int]
"""Width and height, in pixels, as Pillow has them."""

_ORIENTATION = 0x0112  # EXIF tag


_DRAWN = "ad, for people to look at"  # in a PNG's text `Software`


class Stance(NamedTuple):
    """How a picture's pixels lie in its file."""

    stored: WidthHeight
    """Of the pixels as they are stored."""
    upright: WidthHeight
    """Of the picture as it is meant to be seen."""
    orientation: int
    """EXIF's number, 1 to 8, for the way from the first to the second; 1 is none."""
    pending: int
    """The same for what remains to be done when Pillow has decoded the pixels."""


def stance_of(image: Image.Image, *, decode: bool = True) -> Stance:
    """How the pixels of a file lie that was just opened and not decoded.

    Args:
        image: The open file.
        decode: Whether a PNG may be decoded, which can tell its orientation behind its pixels.
    """
    orientation = 1
    if decode or image.format != "PNG" or "exif" in image.info:
        told = image.getexif().get(_ORIENTATION, 1)
        orientation = int(told) if told in range(1, 9) else 1
    size = image.size
    other = size[::-1] if orientation >= 5 else size
    if image.format == "TIFF":
        return Stance(other, size, orientation, 1)
    return Stance(size, other, orientation, orientation)


def turn(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels upright.

    Args:
        pixels: ``[H, W, ...]``.
        orientation: EXIF's number, 1 to 8.

    Returns:
        A view of them; ``[W, H, ...]`` from 5 on.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


# What Pillow and its plug-ins raise for damaged files, seen by damaging thousands.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError),
    *(LookupError, ArithmeticError, AttributeError),
)


def drawn_png(sheet: Image.Image, **options: int) -> bytes:
    """A sheet for people to look at as a PNG that says so: it is never taken for a picture.

    Args:
        sheet: What was drawn.
        options: For Pillow's writer.
    """
    said = PngInfo()
    said.add_text("Software", _DRAWN)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", pnginfo=said, **options)
    return buffer.getvalue()


@contextmanager
def opened(noun: str, path: Path) -> Iterator[Image.Image]:
    """An open file; whatever fails while it is open is told of as a `PictureError`.

    Args:
        noun: What the file is, for the error: ``picture``, ``mask``.
        path: The file.
    """
    try:
        with _quiet_open(path) as image:
            if image.info.get("Software") == _DRAWN:
                msg = (
                    f"`{path}` is a heat map or another sheet that `ad` drew, and no {noun}. Move "
                    "it out of the data."
                )
                raise PictureError(msg)
            yield image
    except PictureError:
        raise
    except _UNREADABLE as error:
        raise PictureError(_unreadable(noun, path, error)) from error


def _quiet_open(path: Path) -> Image.Image:
    # Above Pillow's limit is an error here, not a warning that nobody sees. (Filters of warnings
    # belong to the process and cannot be set for a while by threads that decode.)
    limit = Image.MAX_IMAGE_PIXELS
    try:
        image = Image.open(path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(_too_large(path)) from error
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise PictureError(_too_large(path))
    if image.format == "TIFF":
        # Without a name Pillow does not map the file into memory, where it takes pixels that are
        # stored across for upright ones and garbles them (grey, uncompressed, orientation 5 to 8).
        image.filename = ""
    return image


def _too_large(path: Path) -> str:
    return (
        f"`{path}` has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most that is decoded, "
        "since a small file can claim any size. Cut it into tiles, or scale it down."
    )


def _unreadable(noun: str, path: Path, error: Exception) -> str:
    if not path.exists():
        return f"The {noun} `{path}` does not exist."
    if path.is_file() and path.stat().st_size == 0:
        return f"The {noun} `{path}` is empty (0 bytes). Copy it again or remove it."
    return (
        f"The {noun} `{path}` cannot be read ({type(error).__name__}: {error}). "
        "It may be truncated, or no picture: copy it again or remove it."
    )
