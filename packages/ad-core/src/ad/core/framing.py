"""How a picture becomes what a detector sees: one object, the same wherever pictures are looked at.

It belongs to a run and is saved with the model. Training, calibration, figures, reports and
prediction read pictures and masks through it, so that they cannot differ. Detectors see what comes
out and know nothing of it.

A size is height x width, as a picture's tensors have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import PictureSet, Source
from ad.core.data.pictures import Sides as Sides
from ad.core.data.pictures import read_mask
from ad.core.data.samples import Sample
from ad.core.errors import SettingError
from ad.core.options import shown

LEAST, MOST = 1, 4096
"""Sides that a saved model may have, in pixels."""

LEAST_OF_RUN = 16
"""The smallest side that a run may ask for, in pixels."""

Fit = Literal["stretch"]
"""How a picture of another shape gets that size: ``stretch`` keeps all of it, but not its shape."""


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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a picture becomes what a detector sees."""

    size: Size
    """Of what it sees."""
    fit: Fit = "stretch"
    """How a picture gets that size."""

    def pictures(
        self, sources: Sequence[Source], *, white: int | None = None, cache: bool = False
    ) -> PictureSet:
        """Pictures as a detector sees them.

        Args:
            sources: Files or arrays.
            white: The value that is white in pictures of more than 8 bits.
            cache: Keep them for further passes; see `PictureSet`.
        """
        return PictureSet(sources, self.size, white=white, cache=cache)

    def truth(self, sample: Sample) -> NDArray[np.bool_]:
        """Which pixels of what a detector sees are defective, ``[H, W]``: where any mask says so.

        Raises:
            PictureError: If a mask cannot be read or does not fit its picture.
        """
        truth = np.zeros(self.size, dtype=bool)
        for mask in sample.masks:
            truth |= read_mask(mask, sample.path, self.size)
        return truth

    def to_json(self) -> dict[str, Any]:
        """As it is saved with a model, beside what else is said of it."""
        return {"img_size": self.size.plain, "fit": self.fit}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Framing:
        """Read what `to_json` wrote, if nothing is `wrong_in` it."""
        return cls(size=size_of(values["img_size"]), fit=values["fit"])

    @staticmethod
    def wrong_in(values: Mapping[str, Any]) -> set[str]:
        """Names of those entries of `to_json` that are not what they can be."""
        wrong = {"img_size"} if wrong_size(values["img_size"]) else set()
        return wrong if values["fit"] == "stretch" else {*wrong, "fit"}
