"""How large a picture is to a detector: height and width, in this order everywhere."""

from __future__ import annotations

from typing import Any, NamedTuple

from ad.runtime.errors import SettingError, shown
from ad.runtime.pictures.reading import Sides as Sides

LEAST, MOST = 1, 4096
"""Sides that a saved model may have, in pixels."""

LEAST_OF_RUN = 16
"""The smallest side that a run may ask for, in pixels."""


class Size(NamedTuple):
    """Height and width of what a detector sees, in pixels.

    Of a trainer's ``setup.img_size``: ``(3, *setup.img_size)`` is the shape of a picture.
    """

    height: int
    width: int

    def __str__(self) -> str:
        """For a person, who is told which is which where it matters."""
        words = f"{self.height} x {self.width}"
        return words if self.height == self.width else f"{words} (height x width)"

    @property
    def plain(self) -> Sides:
        """One number for a square, else both: equal sizes look alike in every file."""
        return self.height if self.height == self.width else (self.height, self.width)

    @property
    def typed(self) -> str:
        """As it is typed after ``--img-size``."""
        return "x".join(map(str, self if isinstance(self.plain, tuple) else [self.plain]))

    def divides(self, step: int, least: int) -> bool:
        """Whether both sides are multiples of ``step`` from ``least``, one of these, on."""
        return all(side % step == 0 and side >= least for side in self)

    def near(self, step: int, least: int) -> str:
        """Which sizes near this one have sides that are multiples, for an error; see `divides`."""
        most = MOST // step * step
        below = Size(*(min(max(side // step * step, least), most) for side in self))
        above = Size(*(min(max(-(-side // step) * step, least), most) for side in self))
        sizes = [size.typed for size in dict.fromkeys((below, above))]
        return " or ".join(f"`--img-size {size}`" for size in sizes)


def size_of(sides: Sides | list[int]) -> Size:
    """One number for a square, or height and width, as a size; JSON has a list of them.

    Raises:
        SettingError: If it is neither, or a side is not from 1 to 4096.
    """
    if reason := wrong_size(sides):
        msg = f"`img_size`: {reason}; got {shown(sides)}."
        raise SettingError(msg)
    return Size(sides, sides) if isinstance(sides, int) else Size(*sides)


def wrong_size(sides: object, least: int = LEAST) -> str | None:
    """Why something cannot be a size; None if it can.

    Args:
        sides: Whatever was given: by a user, or in a file.
        least: The smallest side allowed, in pixels.
    """
    pair = isinstance(sides, tuple | list)
    numbers: list[Any] = list(sides) if isinstance(sides, tuple | list) else [sides]
    if len(numbers) != (2 if pair else 1) or any(type(side) is not int for side in numbers):
        return "input should be a whole number of pixels, or two of them: height and width"
    for name, side in zip(("height", "width") if pair else ("input",), numbers, strict=True):
        if side < least:
            return f"{name} should be greater than or equal to {least}"
        if side > MOST:
            return f"{name} should be less than or equal to {MOST}"
    return None
