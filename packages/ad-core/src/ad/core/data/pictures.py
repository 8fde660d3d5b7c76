"""One file or array to one RGB picture; one file to one mask.

Every kind of picture that cameras and editors write becomes ``[H, W, 3]`` uint8: grey, with
alpha, with a palette, CMYK, 16 bits, turned by EXIF, of odd size. Pillow decodes: other decoders
were seen to crash on damaged files. A picture that cannot be read is a `PictureError` with its
path.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ad.core.errors import PictureError

_ORIENTATION = 0x0112  # EXIF tag
_MAX_RATIO_ERROR = 0.02
_JPEG_NOISE, _MOST_NOISY = 64, 0.05  # grey levels off the two of a drawn mask; share of the pixels


class MaskFacts(NamedTuple):
    """What a mask's pixels say of it, whatever picture it belongs to."""

    share: float
    """Share of them that are defective as `read_mask` takes it, in [0, 1]."""
    two_valued: bool
    """Whether there are at most two values among them, as in what was drawn as a mask; values
    near either count as that in a JPEG, where a few in between are the compression's."""


def read_picture(path: Path, *, size: int | None = None) -> NDArray[np.uint8]:
    """Decode a picture.

    Args:
        path: The file.
        size: Side in pixels that the picture will be resized to, if known: a JPEG is then decoded
            at a fraction of its size, never below twice this side, which is several times faster.

    Returns:
        ``[H, W, 3]``, RGB, upright.

    Raises:
        PictureError: If the file is missing, empty, truncated or no picture that can be read.
    """
    with _opened("picture", path) as image:
        if size is not None:
            # `draft` changes nothing but JPEG, and never goes below what is asked for.
            image.draft(None, (2 * size, 2 * size))
        return _rgb(ImageOps.exif_transpose(image), path)


def read_mask(path: Path, picture: Path, size: int) -> NDArray[np.bool_]:
    """Read the mask of a picture at the evaluation resolution.

    Non-zero is defective (above half in a JPEG, whose zeros are not exact), and so is what is not
    black in a palette that has black; then nearest neighbour down to ``size``. Scores are compared
    at this resolution. A defect so thin that all of it falls between the cells keeps the cells
    that it touches.

    Args:
        path: The mask.
        picture: The picture it belongs to; a mask of another shape is an error.
        size: Side of the result, in pixels.

    Returns:
        ``[size, size]``, True where defective.

    Raises:
        PictureError: If the mask cannot be read or does not fit the picture.
    """
    with _opened("picture", picture) as image:
        stored, turned = image.size, image.getexif().get(_ORIENTATION, 1)
    with _opened("mask", path) as mask:
        upright = _check_mask_shape(path, mask.size, picture, stored, turned)
        defective = Image.fromarray(_defective(mask).astype(np.uint8))
        turn = mask.getexif().get(_ORIENTATION, 1)
        if turn == 1 and mask.size == stored and mask.size != upright:
            turn = turned  # drawn on the stored pixels: turn it as its picture is turned
        if turn > 1:
            exif = Image.Exif()
            exif[_ORIENTATION] = turn
            defective.info["exif"] = exif.tobytes()
            defective = ImageOps.exif_transpose(defective)
        small = np.asarray(defective.resize((size, size), Image.Resampling.NEAREST)) > 0
        if not small.any():
            y, x = np.nonzero(np.asarray(defective))
            small[y * size // defective.height, x * size // defective.width] = True
        return small


def read_mask_values(path: Path, picture: Path) -> NDArray[Any]:
    """Read the values of a mask's pixels, at the picture's own size.

    Args:
        path: The mask.
        picture: The picture it belongs to.

    Returns:
        ``[H, W]``, whole numbers, 0 where there is no defect.

    Raises:
        PictureError: If the mask cannot be read or is of another size than the picture.
    """
    size = upright_size(picture)
    with _opened("mask", path) as mask:
        values = _first_channel(mask)
    if values.shape != size[::-1]:
        msg = (
            f"The mask `{path}` is {values.shape[1]} x {values.shape[0]} pixels and its picture "
            f"`{picture}` {size[0]} x {size[1]}: they must be of one size where the data say how "
            "many pixels of a defect have to be found."
        )
        raise PictureError(msg)
    return values


def shows_defect(mask: Path) -> bool:
    """Whether any pixel of a mask is defective, as `read_mask` takes it.

    Raises:
        PictureError: If the mask cannot be read.
    """
    with _opened("mask", mask) as image:
        return bool(_defective(image).any())


def mask_facts(path: Path) -> MaskFacts:
    """How much of a mask is defective, and whether it looks like a drawn mask or like a photograph.

    Raises:
        PictureError: If the mask cannot be read.
    """
    with _opened("mask", path) as mask:
        values = _first_channel(mask)
        share = float(_defective(mask).mean())
        if mask.format != "JPEG":
            return MaskFacts(share, len(np.unique(values)) <= 2)
        grey = values.astype(np.int64)
        off = np.minimum(grey - grey.min(), grey.max() - grey) > _JPEG_NOISE
        return MaskFacts(share, float(off.mean()) <= _MOST_NOISY)


def check_headers(path: Path, masks: Sequence[Path]) -> None:
    """Check that a picture and its masks can be opened and fit, without decoding them.

    A mask may have the picture's shape or that shape turned: to know which is right, some formats
    have to be decoded.

    Raises:
        PictureError: If one is missing, empty or no picture, or a mask has another shape.
    """
    size = _size("picture", path)
    for mask in masks:
        of_mask = _size("mask", mask)
        if not _same_shape(of_mask, size[::-1]):
            _check_mask_shape(mask, of_mask, path, size, 1)


def upright_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture as `read_picture` gives it, from its header.

    Raises:
        PictureError: If it is missing, empty or no picture.
    """
    with _opened("picture", path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) >= 5
        return image.size[::-1] if turned else image.size


def rgb_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Turn an array that a caller holds into a picture.

    Args:
        array: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` (alpha is dropped); uint8,
            uint16 (full range) or floating point in [0, 1].

    Returns:
        ``[H, W, 3]``, RGB.

    Raises:
        PictureError: If shape, type or range is another.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        msg = f"An array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; got {array.shape}."
        raise PictureError(msg)
    if array.dtype == np.uint16:
        pixels = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            msg = (
                "An array of floating point must lie in [0, 1]; got "
                f"{array.min()} to {array.max()}. Divide by 255, or pass uint8."
            )
            raise PictureError(msg)
        pixels = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == np.uint8:
        pixels = array.astype(np.uint8, copy=False)
    else:
        msg = f"An array must be uint8, uint16 or floating point in [0, 1]; got {array.dtype}."
        raise PictureError(msg)
    colours = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return np.require(colours, requirements=["C", "W"])  # torch wants to be able to write


def resize(picture: NDArray[np.uint8], size: int) -> Tensor:
    """Resize a picture to a square, bilinear with antialiasing, within a grey level of Pillow.

    Args:
        picture: ``[H, W, 3]``.
        size: Side of the result, in pixels; the whole picture is kept, not its aspect ratio.

    Returns:
        ``[size, size, 3]``, uint8.
    """
    # The channels-last view of uint8 takes torch's fast path: no copy, no detour over float.
    channels_first = torch.from_numpy(picture).permute(2, 0, 1)[None]
    small = F.interpolate(
        channels_first, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    return small[0].permute(1, 2, 0)


# What Pillow and its plug-ins raise for damaged files, seen by damaging thousands.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError),
    *(LookupError, ArithmeticError, AttributeError),
)


@contextmanager
def _opened(noun: str, path: Path) -> Iterator[Image.Image]:
    """An open file; whatever fails while it is open is told of as a `PictureError`."""
    try:
        with _quiet_open(path) as image:
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
    return image


def _too_large(path: Path) -> str:
    return (
        f"`{path}` has more than {Image.MAX_IMAGE_PIXELS:,} pixels, the most that is decoded, "
        "since a small file can claim any size. Cut it into tiles, or scale it down."
    )


def _rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips at 255 instead of scaling.
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            msg = (
                f"The picture `{path}` cannot be used: its 32-bit values go beyond 16 bits; save "
                "it with 8 or 16 bits a channel."
            )
            raise PictureError(msg)
        if 255 < pixels.max() < 4096:
            warnings.warn(
                f"No pixel of `{path}` is above 4095: it seems to hold 10 or 12 bits in a file of "
                "16, and is nearly black when taken as 16. Scale such pictures to 16 or 8 bits.",
                stacklevel=2,
            )
        return rgb_array(pixels.astype(np.uint16))
    if image.mode == "F":
        try:
            return rgb_array(np.asarray(image))
        except PictureError as error:
            msg = f"The picture `{path}` cannot be used: {error}"
            raise PictureError(msg) from error
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _defective(mask: Image.Image) -> NDArray[np.bool_]:
    threshold = 127 if mask.format == "JPEG" else 0
    return np.asarray(_first_channel(mask) > threshold)


def _first_channel(mask: Image.Image) -> NDArray[Any]:
    # A palette's numbers are the classes, unless one of its colours in use is black; an alpha
    # channel is no part of the mask.
    pixels = np.asarray(mask)
    if mask.mode == "P":
        brightest = np.asarray(mask.convert("RGB")).max(axis=2)
        return brightest if (brightest == 0).any() else pixels
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., : 1 if mask.mode == "LA" else 3]
    return np.asarray(colours.max(axis=2))


def _size(noun: str, path: Path) -> tuple[int, int]:
    """Width and height of the pixels in a file, from its header."""
    with _opened(noun, path) as image:
        return image.size


def _check_mask_shape(
    path: Path, mask: tuple[int, int], picture: Path, size: tuple[int, int], turned: int
) -> tuple[int, int]:
    """The picture's size when upright; the mask must have that shape, or the file's."""
    upright = size if turned < 5 else size[::-1]
    if not _same_shape(mask, upright) and not _same_shape(mask, size):
        msg = (
            f"The mask `{path}` is {mask[0]} x {mask[1]} pixels and its picture `{picture}` "
            f"{upright[0]} x {upright[1]}: they must have the same shape."
        )
        raise PictureError(msg)
    return upright


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs(a[0] * b[1] - a[1] * b[0]) <= _MAX_RATIO_ERROR * a[0] * b[1]


def _unreadable(noun: str, path: Path, error: Exception) -> str:
    if not path.exists():
        return f"The {noun} `{path}` does not exist."
    if path.is_file() and path.stat().st_size == 0:
        return f"The {noun} `{path}` is empty (0 bytes). Copy it again or remove it."
    return (
        f"The {noun} `{path}` cannot be read ({type(error).__name__}: {error}). "
        "It may be truncated, or no picture: copy it again or remove it."
    )
