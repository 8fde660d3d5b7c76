"""How a picture of any shape gets a detector's size: which pixel lies where, each axis by itself.

`stretch` keeps all of a picture, but not its shape. `pad` keeps both: the picture is scaled until
it just fits, lies in the middle, and its edge goes on to the border. `crop` is the protocol of many
papers: the picture is stretched to one size and the middle of that is cut out.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.runtime.framing.size import Size

Fit = Literal["stretch", "pad", "crop"]
"""How a picture of another shape gets the size."""

FITS: tuple[Fit, ...] = ("stretch", "pad", "crop")

Indices = NDArray[np.intp]


def wrong_fit(fit: object, size: Size, resize: Size | None) -> str | None:
    """Why these cannot go together; None if they can."""
    if fit not in FITS:
        return f"`fit` must be `stretch`, `pad` or `crop`; got {fit!r}."
    if fit != "crop" and resize is not None:
        return (
            f"`resize` {resize.typed} is what a picture is resized to before its middle is cut "
            f"out, with `fit` crop; got `fit` {fit}. Leave `resize` out, or set `fit` to crop."
        )
    if fit == "crop" and resize is None:
        return (
            "`fit` crop needs `resize`: what a picture is resized to before its middle is cut out, "
            f"such as `--fit crop --resize {_usual(size).typed} --img-size {size.typed}`."
        )
    if resize is not None and (resize.height < size.height or resize.width < size.width):
        return (
            f"`resize` must be at least `img_size`, which is cut out of it: got `resize` "
            f"{resize.typed} and `img_size` {size.typed}."
        )
    return None


def _usual(size: Size) -> Size:
    """As 256 is to 224."""
    return Size(*(side * 8 // 7 for side in size))


class Axis(NamedTuple):
    """One axis of a picture and of what is seen of it.

    The part of a picture from ``start`` on is resized to ``scaled`` pixels, of which the first lies
    at ``first`` of what is seen: before its beginning (below 0) where the ends are cut off.
    """

    whole: int
    """Pixels of the picture."""
    start: int
    """The part's first one."""
    part: int
    """Pixels of the part."""
    scaled: int
    """Pixels that it is resized to."""
    first: int
    """Where the first of these is seen."""
    seen: int
    """Pixels of what is seen."""

    @property
    def all_seen(self) -> bool:
        """Whether the resized part, all of it, is what is seen."""
        return self.first == 0 and self.scaled == self.seen

    def shows(self) -> NDArray[np.bool_]:
        """Which pixels of what is seen show the part, ``[seen]``; the others repeat its edge."""
        at = np.arange(self.seen) - self.first
        return np.asarray((at >= 0) & (at < self.scaled))

    def from_scaled(self) -> Indices:
        """Which pixel of the resized part each pixel of what is seen has, ``[seen]``."""
        return np.clip(np.arange(self.seen) - self.first, 0, self.scaled - 1)

    def from_seen(self) -> Indices:
        """Which pixel of what is seen is at each of the resized part, or nearest, ``[scaled]``."""
        return np.clip(np.arange(self.scaled) + self.first, 0, self.seen - 1)

    def nearest(self, length: int) -> Indices:
        """Which of so many pixels, over the whole picture, is at each of what is seen, ``[seen]``.

        A picture's mask may be finer or coarser than the picture.
        """
        at = self.start + (self.from_scaled() + 0.5) * self.part / self.scaled
        return np.clip((at * length / self.whole).astype(np.intp), 0, length - 1)

    def cells(self, length: int) -> Indices:
        """Where each of so many pixels, over the whole picture, is seen, ``[length]``; -1: nowhere.

        Pixels count by their middle.
        """
        inside = (np.arange(length) + 0.5) * self.whole / length - self.start
        at = np.floor(inside * self.scaled / self.part).astype(np.intp) + self.first
        return np.where((inside >= 0) & (inside < self.part) & (at >= 0) & (at < self.seen), at, -1)


def axes(
    fit: Fit, whole: Size, start: tuple[int, int], part: Size, size: Size, resize: Size | None
) -> tuple[Axis, Axis]:
    """How the axes of a picture lie in what is seen: down and across.

    Args:
        fit: How the part gets the size.
        whole: Of the picture.
        start: Row and column of the part's first pixel.
        part: Its size.
        size: Of what is seen.
        resize: Of what the middle is cut out of, for ``crop``.
    """
    scaled = _scaled(fit, part, size, resize)
    down, across = (
        # Of an odd number of pixels that are over or missing, the extra one is at the end.
        Axis(w, s, p, to, (n - to) // 2 if to <= n else -((to - n) // 2), n)
        for w, s, p, to, n in zip(whole, start, part, scaled, size, strict=True)
    )
    return down, across


def _scaled(fit: Fit, part: Size, size: Size, resize: Size | None) -> Size:
    if fit == "crop" and resize is not None:
        return resize
    if fit == "stretch":
        return size
    if size.height * part.width <= size.width * part.height:
        return Size(size.height, max(1, round(part.width * size.height / part.height)))
    return Size(max(1, round(part.height * size.width / part.width)), size.width)
