"""One file, image or array to one RGB picture.

Every kind of picture that cameras and editors write becomes ``[H, W, 3]`` uint8: grey, with
alpha, with a palette, CMYK, 16 bits, turned by EXIF, of odd size. Pillow decodes: other decoders
were seen to crash on damaged files. A picture that cannot be read is a `PictureError` with its
path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.levels import check_upper, deep_values, depth_of, to_eight_bits
from ad.runtime.pictures.memory import grey_pixels, in_one_piece, pixels_of, three_channels
from ad.runtime.pictures.opening import Encoded, Stance, WidthHeight, opened, said, stance_of, turn

Sides = int | tuple[int, int]
"""Height and width in pixels, or one number for both."""

Source = Encoded | NDArray[Any]
"""Where a picture comes from: a file's path or bytes, a PIL image, or an array."""


def read_picture(file: Encoded, *, white: int | None = None) -> NDArray[np.uint8]:
    """Decode a picture, whole: a JPEG decoded at a fraction of its size gets another score.

    Args:
        file: Its path, the bytes of its file, or a PIL image, which is turned as its EXIF
            orientation says.
        white: The value that is white in pictures of more than 8 bits that do not say it, one of
            `WHITE_LEVELS` in `levels`: the model's. Without it, only those that need all 16 bits
            are read.

    Returns:
        ``[H, W, 3]``, RGB, upright.

    Raises:
        PictureError: If the file is missing, empty, truncated or no picture that can be read, or
            holds several, or its values are beyond white, or none knows what is white in it.
    """
    return np.require(three_channels(glimpse(file, white=white)), requirements=["C", "W"])


def glimpse(file: Encoded, *, white: int | None = None) -> NDArray[np.uint8]:
    """Decode a picture for one who only looks at it: `read_picture`, with fewer copies.

    Args:
        file: As `read_picture` takes it.
        white: Likewise.

    Returns:
        ``[H, W, 3]``, or ``[H, W, 4]``, of which the fourth channel means nothing. It may be the
        decoder's own memory, which is not to be written.

    Raises:
        PictureError: As `read_picture` does.
    """
    with opened("picture", file) as image:
        depth = depth_of(image, file)  # which is forgotten once it is decoded
        if image is not file:
            in_one_piece(image)
        stance = stance_of(image)
        values, whole = (None, False) if depth is None else deep_values(image, file, depth)
        if values is not None and not whole:
            check_upper(int(values.max()), file, white)
        if values is None or depth is None or not whole:
            pixels = _rgb(image, file)
        else:
            stated = depth.white is not None
            level = depth.white if stated else white
            pixels = _colours(to_eight_bits(values, said("picture", file), level, stated=stated))
        return np.ascontiguousarray(turn(pixels, stance.pending))


def upright_size(file: Encoded) -> WidthHeight:
    """Width and height of a picture as `read_picture` gives it, from its header.

    Raises:
        PictureError: If it is missing, empty or no picture.
    """
    return stance_in("picture", file).upright


def stored_size(path: Path) -> WidthHeight:
    """Width and height of a picture as it is stored, from its header alone.

    Raises:
        PictureError: If it is missing, empty or no picture.
    """
    return stance_in("picture", path, decode=False).stored


def rgb_array(array: NDArray[Any], *, white: int | None = None) -> NDArray[np.uint8]:
    """Turn an array that a caller holds into a picture.

    Args:
        array: ``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` (alpha is dropped); uint8,
            uint16 or floating point in [0, 1].
        white: The value that is white in uint16, one of `WHITE_LEVELS` in `levels`: the model's.
            Without it, only arrays that need all 16 bits are taken.

    Returns:
        ``[H, W, 3]``, RGB.

    Raises:
        PictureError: If shape, type or range is another, or none knows what is white in uint16.
    """
    array = np.asarray(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        msg = f"An array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]; got {array.shape}."
        raise PictureError(msg)
    if array.dtype == np.uint16:
        pixels = to_eight_bits(array[..., :3], "The array", white)
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
    # torch wants to be able to write
    return np.require(_colours(pixels), requirements=["C", "W"])


def height_and_width(size: Sides) -> tuple[int, int]:
    """Both sides of a size that may be one number for both."""
    return size if isinstance(size, tuple) else (size, size)


def _colours(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


def _rgb(image: Image.Image, file: Encoded) -> NDArray[np.uint8]:
    if image.mode == "F":
        try:
            return rgb_array(np.asarray(image))
        except PictureError as error:
            msg = f"{said('picture', file)} cannot be used: {error}"
            raise PictureError(msg) from error
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode == "L":
        return grey_pixels(np.asarray(image))
    if image is file and image.mode == "RGB":
        return np.array(image)
    return pixels_of(image if image.mode == "RGB" else image.convert("RGB"))


def stance_in(noun: str, file: Encoded, *, decode: bool = True) -> Stance:
    """How a file's pixels lie, from its header; see `ad.runtime.pictures.opening.stance_of`.

    Args:
        noun: What it is, for an error.
        file: The picture or mask.
        decode: Whether to decode it where only that tells.

    Raises:
        PictureError: If it is missing, empty or no picture.
    """
    with opened(noun, file) as image:
        return stance_of(image, decode=decode)
