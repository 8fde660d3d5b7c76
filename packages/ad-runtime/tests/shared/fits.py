"""Framings of every fit, and by the definition of the fits what a pixel of a map stands for."""

import numpy as np

from ad.runtime.framing import Framing, Size
from ad.runtime.framing.region import Crop

FRAMINGS = {
    "stretch": Framing(size=Size(24, 40)),
    "pad": Framing(size=Size(24, 40), fit="pad"),
    "crop": Framing(size=Size(24, 40), fit="crop", resize=Size(32, 46)),
    "cut": Framing(size=Size(24, 40), crop=Crop(20, 12, 70, 50)),
    "cut and pad": Framing(size=Size(24, 40), fit="pad", crop=Crop(30, 12, 40, 50)),
    "cut and crop": Framing(
        size=Size(24, 40), fit="crop", resize=Size(32, 46), crop=Crop(6, 12, 90, 50)
    ),
}
WIDE, TALL = (96, 160), (160, 96)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def place_in_picture(framing, shape, row, column):
    """The middle of what a pixel of the map stands for, and the sides of that; in real numbers.

    Written from the definition of the fits, not from the code.
    """
    x, y, width, height = framing.crop or (0, 0, shape[1], shape[0])
    places, cells = [], []
    for at, start, part, seen, side in (
        (row, y, height, framing.size[0], 0),
        (column, x, width, framing.size[1], 1),
    ):
        scaled = seen if framing.resize is None else framing.resize[side]
        if framing.fit == "pad":
            scaled = round(part * min(framing.size[0] / height, framing.size[1] / width))
        # The middle of the part is the middle of what is seen; what is odd is at the end.
        spare = seen - scaled
        lost = spare % 2 * (1 if spare > 0 else -1) / 2
        cells.append(part / scaled)
        places.append(start + part / 2 + (at + 0.5 - seen / 2 + lost) * part / scaled)
    return tuple(places), tuple(cells)
