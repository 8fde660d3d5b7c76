"""Which part of pictures is looked at: a rectangle that is cut out, a mask of what counts."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import PictureError, SettingError
from ad.runtime.framing.size import Size
from ad.runtime.pictures.drawn import read_values, same_shape


class Crop(NamedTuple):
    """A rectangle of a picture, in its own pixels."""

    x: int
    """Column of its first pixel, from 0."""
    y: int
    """Row of its first pixel, from 0."""
    width: int
    height: int

    @property
    def typed(self) -> str:
        """As it is typed after ``--crop``."""
        return ",".join(map(str, self))

    def check_within(self, size: Size, name: str) -> None:
        """Check that it lies within a picture of a size.

        Raises:
            PictureError: If it does not.
        """
        if self.x + self.width > size.width or self.y + self.height > size.height:
            msg = (
                f"{name} is {size.width} x {size.height} pixels (width x height): the crop "
                f"{self.typed} (x, y, width, height) ends at {self.x + self.width} x "
                f"{self.y + self.height} and does not lie within it. A crop is for pictures of one "
                "size: leave the picture out, or give a crop that lies within all of them."
            )
            raise PictureError(msg)


def wrong_crop(values: object) -> str | None:
    """Why something cannot be a crop; None if it can."""
    numbers = list(values) if isinstance(values, tuple | list) else []
    if len(numbers) != 4 or any(type(number) is not int for number in numbers):
        return "input should be four whole numbers of pixels: x, y, width and height"
    if min(numbers[:2]) < 0:
        return "x and y should be 0 or more: they are counted from the upper left corner"
    if min(numbers[2:]) < 1:
        return "width and height should be 1 or more"
    if max(numbers) > 10**6:
        return "no number should be above 1,000,000"
    return None


@final
@dataclass(frozen=True, slots=True)
class Region:
    """A region of interest: what is looked at of every picture, at the pictures' proportions."""

    inside: NDArray[np.bool_] = field(compare=False, repr=False)
    """``[H, W]``: where it is looked at."""
    sha256: str = field(init=False)
    """Of its size and pixels, whatever file they come from."""

    def __post_init__(self) -> None:
        # Not of a file: each version of a library may pack the same pixels in another way.
        said = f"{self.inside.shape}".encode() + np.packbits(self.inside).tobytes()
        object.__setattr__(self, "sha256", hashlib.sha256(said).hexdigest())

    @classmethod
    def read(cls, path: Path) -> Region:
        """Read a mask: white is looked at, black is not.

        Raises:
            SettingError: If it is no picture of black and white, or has no white in it.
        """
        try:
            values = read_values("region of interest", path)
        except PictureError as error:
            msg = f"`roi`: {error}"
            raise SettingError(msg) from error
        found = np.unique(values)
        if len(found) == 1 and not found[0]:
            msg = (
                f"`roi`: `{path}` is black all over, so nothing would be looked at. Paint white "
                "what counts."
            )
            raise SettingError(msg)
        if len(found) > 2 or (len(found) == 2 and found[0]):
            some = ", ".join(str(value) for value in found[:4].tolist())
            several = f"{len(found)} values ({some}{', ...' if len(found) > 4 else ''})"
            msg = (
                f"`roi`: `{path}` must be black and white, and has {several}: it is not known "
                "which of them are looked at. Paint what counts white (255) and all else black "
                "(0), without grey between, and save it as PNG: JPEG adds grey."
            )
            raise SettingError(msg)
        return cls(np.ascontiguousarray(values > 0))

    @property
    def png(self) -> bytes:
        """As a file: grey, 255 where it is looked at, 0 elsewhere."""
        buffer = io.BytesIO()
        Image.fromarray(self.inside.astype(np.uint8) * 255).save(buffer, format="PNG")
        return buffer.getvalue()

    @property
    def size(self) -> Size:
        """Of the mask."""
        return Size(*self.inside.shape)

    def check_fits(self, size: Size, name: str, *, exactly: bool) -> None:
        """Check that it has the proportions of a picture.

        Args:
            size: Of the picture.
            name: Of the picture, for the error.
            exactly: Whether it must be of the picture's very size.

        Raises:
            PictureError: If it does not.
        """
        own = self.size
        if own == size or (not exactly and same_shape(own[::-1], size[::-1])):
            return
        shape = "size, as there is a crop too" if exactly else "proportions"
        msg = (
            f"{name} is {size.width} x {size.height} pixels and the region of interest (`roi`) "
            f"{own.width} x {own.height}: it must have the pictures' {shape}. It is one for all "
            "pictures, drawn on a whole one."
        )
        raise PictureError(msg)
