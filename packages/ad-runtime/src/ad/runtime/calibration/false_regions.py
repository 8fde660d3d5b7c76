"""How many regions good pictures have: what is to be expected where nothing is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FalseRegions:
    """What was counted on good pictures that a detector has not learnt from.

    Each was judged by the pixel threshold that all others give: the one that they set together is,
    mostly, that of the hottest of them, and nothing in them would be above it.
    """

    pictures: int
    """Good pictures that were judged, at least 2."""
    regions: int
    """Regions in all of them."""
    largest: tuple[int, ...]
    """Area of the largest region of each picture that has any, in its own pixels, descending."""

    def having(self, min_area: int) -> int:
        """How many pictures have a region of so many pixels."""
        return sum(area >= min_area for area in self.largest)

    def told(self, min_area: int = 1) -> str:
        """Say it to a person.

        Args:
            min_area: Of the smallest region that is told of, in pixels of a picture.
        """
        having = self.having(min_area)
        text = f"{having or 'none'} of {self.pictures} had any"
        if min_area > 1:
            text += f" of {min_area} pixels or more"
        if having:
            in_all = "" if min_area > 1 else f"{self.regions} in all, "
            text += f" ({in_all}the largest of {_pixels(self.largest[0])})"
        return f"{text}, each by the pixel threshold that the others set"

    def to_json(self) -> dict[str, Any]:
        """The fields, for a JSON file."""
        return {
            "pictures": self.pictures,
            "regions": self.regions,
            "largest": list(self.largest),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: If it cannot be right.
        """
        found = cls(**{**values, "largest": tuple(values["largest"])})
        numbers = (found.pictures, found.regions, *found.largest)
        if any(type(number) is not int for number in numbers):
            raise TypeError(values)
        if not (
            found.pictures >= 2
            and len(found.largest) <= min(found.pictures, found.regions)
            and list(found.largest) == sorted(found.largest, reverse=True)
            and min(found.largest, default=1) >= 1
            and (found.regions == 0) == (not found.largest)
        ):
            raise ValueError(values)
        return found


def _pixels(area: int) -> str:
    return f"{area} pixel{'' if area == 1 else 's'}"


def told(counts: FalseRegions | None, min_area: int = 1) -> str:
    """Say it to a person, also where it is not known.

    Args:
        counts: Of a calibration with a pixel threshold.
        min_area: Of the smallest region that is told of, in pixels of a picture.
    """
    if counts is None:
        return "regions in good pictures: not known, as none were counted for this pixel threshold"
    return f"regions in good pictures: {counts.told(min_area)}"
