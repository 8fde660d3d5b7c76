"""Opening a picture, whatever it comes as: what fails is told of by name; how its pixels lie in it.

A file may hold its pixels turned and say so in its EXIF orientation. Pillow turns those of a TIFF
while it decodes them, gives such a TIFF's size upright from the start, and does neither for any
other format. `Stance` says the same of all.
"""

from __future__ import annotations

import io
import itertools
import shlex
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from ad.runtime.errors import PictureError
from ad.runtime.pictures.frames import AS_PICTURES, is_frame, is_video

WidthHeight = tuple[int, int]
"""Width and height, in pixels, as Pillow has them."""

Encoded = Path | bytes | Image.Image
"""A picture's file, a `Frame` of a video, the bytes of a file, or an image of Pillow's."""

_ORIENTATION, _SUBFILE = 0x0112, 254  # tags of EXIF and of TIFF
_SMALLER, _TRANSPARENCY = 1, 4  # bits of the latter: the page is a preview or a mask of another


_DRAWN = "ad, for people to look at"  # in a PNG's text `Software`, and a JPEG's comment


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


def drawn_jpeg(sheet: Image.Image) -> bytes:
    """A sheet for people to look at as a JPEG that says so, as `drawn_png` does.

    Of a photograph it has a quarter of the bytes of a PNG and takes a twentieth of the time. Thin
    lines keep their colours, as each pixel has its own.
    """
    buffer = io.BytesIO()
    sheet.save(buffer, format="JPEG", quality=90, subsampling="4:4:4", comment=_DRAWN)
    return buffer.getvalue()


def said(noun: str, file: Encoded) -> str:
    """What an error calls a picture, at the start of a sentence.

    Args:
        noun: What it is: ``picture``, ``mask``.
        file: Where it comes from.
    """
    if isinstance(file, Path):
        return f"The {noun} `{file}`"
    if isinstance(file, bytes):
        return f"The {noun} in {len(file):,} bytes"
    return f"The PIL image ({file.mode}, {file.width} x {file.height} pixels)"


def still_encoded(image: Image.Image) -> bytes | None:
    """The bytes of the file behind an image that Pillow opened and has not decoded yet.

    Pillow drops some of what a file holds when it decodes it, and two threads that decode one image
    disturb each other.

    Returns:
        None if there are none: it is decoded, or made by code, or its file is closed.
    """
    file = getattr(image, "fp", None)
    if not isinstance(image, ImageFile.ImageFile) or not image.tile or file is None:
        return None
    try:
        at = file.tell()
        file.seek(0)
        content = bytes(file.read())
        file.seek(at)
    except (OSError, ValueError):
        return None
    return content


@contextmanager
def opened(noun: str, file: Encoded) -> Iterator[Image.Image]:
    """An open picture; whatever fails while it is open is told of as a `PictureError`.

    Args:
        noun: What it is, for the error: ``picture``, ``mask``.
        file: Where it comes from; an image that the caller holds stays open.
    """
    try:
        with _quiet_open(noun, file) as image:
            if _DRAWN in (image.info.get("Software"), _comment(image)):
                msg = (
                    f"{said(noun, file)} is a heat map or another sheet that `ad` drew, and no "
                    f"{noun}. Move it out of the data."
                )
                raise PictureError(msg)
            if _holds_several(image, held=image is file):
                msg = (
                    f"{said(noun, file)} holds several pictures, of which only the first would be "
                    "looked at. Save each in a file of its own; of a PIL image, pass copies of its "
                    "frames: `image.copy()`."
                )
                raise PictureError(msg)
            yield image
    except PictureError:
        raise
    except _UNREADABLE as error:
        raise PictureError(_unreadable(noun, file, error)) from error


def _comment(image: Image.Image) -> str | None:
    comment = image.info.get("comment")
    return comment.decode("latin-1") if isinstance(comment, bytes) else None


def _quiet_open(noun: str, file: Encoded) -> AbstractContextManager[Image.Image]:
    # Above Pillow's limit is an error here, not a warning that nobody sees. (Filters of warnings
    # belong to the process and cannot be set for a while by threads that decode.)
    limit = Image.MAX_IMAGE_PIXELS
    if is_frame(file):
        return nullcontext(file.image())
    if isinstance(file, Image.Image):
        if 0 in file.size:
            msg = f"{said(noun, file)} has no pixels."
            raise PictureError(msg)
        if limit is not None and file.width * file.height > limit:
            raise PictureError(_too_large(noun, file))
        if isinstance(file, ImageFile.ImageFile) and file.tile and file.fp is None:
            msg = f"{said(noun, file)} cannot be read: its file is closed. Pass it open or loaded."
            raise PictureError(msg)
        return nullcontext(file)
    try:
        image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(_too_large(noun, file)) from error
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise PictureError(_too_large(noun, file))
    if image.format == "TIFF":
        # Without a name Pillow does not map the file into memory, where it takes pixels that are
        # stored across for upright ones and garbles them (grey, uncompressed, orientation 5 to 8).
        image.filename = ""
    return image


def _holds_several(image: Image.Image, *, held: bool) -> bool:
    """Whether there are pictures behind the first one that are not said to be of that one.

    Args:
        image: The open picture.
        held: Whether it is the caller's, which is not led to another of its frames.
    """
    # What follows in an MPO is a preview or another exposure: by its standard the first is meant.
    if image.format == "MPO":
        return False
    try:
        several = getattr(image, "is_animated", False)
    except (ValueError, AttributeError):  # it is decoded and its file closed: it has no others
        several = False
    if not several:
        return False
    if held or not isinstance(image, TiffImageFile) or _is_of_another(image):
        return True
    try:
        for page in itertools.count(1):
            image.seek(page)
            if not _is_of_another(image):
                return True
    except EOFError:
        image.seek(0)
    return False


def _is_of_another(page: TiffImageFile) -> bool:
    return bool(page.tag_v2.get(_SUBFILE, 0) & (_SMALLER | _TRANSPARENCY))


def _too_large(noun: str, file: Encoded) -> str:
    return (
        f"{said(noun, file)} has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most that is "
        "decoded, since a small file can claim any size. Cut it into tiles, or scale it down."
    )


def _unreadable(noun: str, file: Encoded, error: Exception) -> str:
    what = said(noun, file)
    why = f"cannot be read ({type(error).__name__}: {error})"
    if isinstance(file, Path) and not is_frame(file):
        if not file.exists():
            return f"{what} does not exist."
        if file.is_file() and file.stat().st_size == 0:
            return f"{what} is empty (0 bytes). Copy it again or remove it."
        if is_video(file):
            save = AS_PICTURES.format(video=shlex.quote(str(file)))
            return (
                f"{what} is a video, of which only prediction takes frames. Save those that are "
                f"meant as pictures: {save}"
            )
        return f"{what} {why}. It may be truncated, or no picture: copy it again or remove it."
    if isinstance(file, Image.Image):
        return f"{what} {why}."
    if not file:
        return f"The {noun} is empty (0 bytes). Pass the whole content of a picture's file."
    if isinstance(error, UnidentifiedImageError):  # which names an address in memory
        why = "cannot be read (it begins as no known format does)"
    return f"{what} {why}. It may be truncated: pass the whole content of a picture's file."
