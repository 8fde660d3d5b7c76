"""How a picture becomes what a detector sees, and how a map goes back to the picture's own pixels.

| module    | holds                                                     |
|-----------|-----------------------------------------------------------|
| `framing` | all of it in one object, which belongs to a run           |
| `size`    | height x width, as a picture's tensors have it            |
| `fit`     | how a picture of another shape gets the size              |
| `lines`   | between which pixels of a map those of a picture lie      |
| `region`  | which part of pictures is looked at                       |
| `tiles`   | large pictures cut up, and their maps joined again        |
"""

from __future__ import annotations

from ad.runtime.framing.fit import FITS, Fit
from ad.runtime.framing.framing import Framing
from ad.runtime.framing.region import Crop, Region
from ad.runtime.framing.size import Size, size_of
from ad.runtime.framing.tiles import Joined, Place, Tiling

__all__ = [
    "FITS",
    "Crop",
    "Fit",
    "Framing",
    "Joined",
    "Place",
    "Region",
    "Size",
    "Tiling",
    "size_of",
]
