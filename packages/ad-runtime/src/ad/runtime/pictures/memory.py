"""The pixels of a decoded image where Pillow keeps them, without a copy.

Pillow keeps a colour picture with four bytes a pixel and hands NumPy a copy of three of them, which
for a large JPEG takes as long as to decode it: the memory is new each time. By the Arrow PyCapsule
interface (https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html) it shows its
own memory, if that is in one piece. Where it cannot, there is a copy of the same values: so with a
Pillow below 12, of which some never free what they have shown
(https://github.com/python-pillow/Pillow/pull/8953).
"""

from __future__ import annotations

import ctypes

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageFile, _imaging

_FILLS_GIVEN_MEMORY = ("JPEG", "MPO", "PNG")  # formats whose readers take what memory there is

_LARGEST_PIECE = 2**31  # bytes
_SHOWS_MEMORY = int(PIL.__version__.partition(".")[0]) >= 12


class _ArrowArray(ctypes.Structure):
    """``struct ArrowArray`` of Arrow's C data interface."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset")),
    *((name, ctypes.c_int64) for name in ("n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    *((name, ctypes.c_void_p) for name in ("dictionary", "release", "private_data")),
]

_pointer_in = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def in_one_piece(image: Image.Image) -> None:
    """Have the pixels of an open file decoded into memory that is in one piece, unless they are.

    By itself Pillow takes pieces of 16 MiB: 2,048 x 2,048 pixels in colour.
    """
    if (
        isinstance(image, ImageFile.ImageFile)
        and image.tile  # it is not decoded yet
        and image.format in _FILLS_GIVEN_MEMORY
        and _shows_memory(image)
        and 4 * image.width * image.height < _LARGEST_PIECE
    ):
        image.im = _imaging.new_block(image.mode, image.size)


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """The colours of an image, decoded if need be.

    Args:
        image: Of mode RGB, opened or made here: one that a caller made of memory of other kinds
            would end the process (https://github.com/python-pillow/Pillow/issues/9896).

    Returns:
        ``[H, W, 4]``, Pillow's own memory, not to be written, which lives as long as the array;
        what is in the fourth channel means nothing. Or ``[H, W, 3]``, a copy.
    """
    image.load()
    if not _shows_memory(image):
        return np.array(image)
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:  # its memory is in several pieces
        return np.array(image)
    pixels = _ArrowArray.from_address(_pointer_in(capsule, b"arrow_array"))
    values = pixels.children[0].contents
    assert values.length == 4 * image.width * image.height
    memory = (ctypes.c_uint8 * values.length).from_address(values.buffers[1])
    memory.owner = capsule  # so it stays while an array looks at it
    return np.frombuffer(memory, np.uint8).reshape(image.height, image.width, 4)


def grey_pixels(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels ``[H, W]`` as colours ``[H, W, 4]``, whose fourth channel means nothing."""
    # All four bytes of a number at once: half the time of Pillow's `convert`, and one copy less.
    return np.multiply(grey, 0x01010101, dtype=np.uint32).view(np.uint8).reshape(*grey.shape, 4)


def three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Red, green and blue of pixels that may have a fourth channel.

    Returns:
        ``[H, W, 3]``, itself if it is so, else a copy.
    """
    if pixels.shape[2] == 3:
        return pixels
    colours = np.empty((*pixels.shape[:2], 3), np.uint8)
    for channel in range(3):  # four times as fast as all at once, three bytes after three
        colours[..., channel] = pixels[..., channel]
    return colours


def image_of(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image of pixels, which must not change while it is used.

    Args:
        pixels: ``[H, W, 3]``, or ``[H, W, 4]``, whose fourth channel means nothing: such an image
            looks at them where they are.

    Returns:
        Of mode RGB, or RGBX.
    """
    if pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    height, width, _ = pixels.shape
    return Image.frombuffer("RGBX", (width, height), pixels, "raw", "RGBX", 0, 1)


def _shows_memory(image: Image.Image) -> bool:
    # Of other modes Pillow may have mapped a file into memory, which it cannot show and would try
    # to. Rows that are aligned (PILLOW_ALIGNMENT) have gaps between them that it does not tell of.
    colours = image.mode == "RGB" and 0 not in image.size
    return colours and _SHOWS_MEMORY and _imaging.get_alignment() == 1
