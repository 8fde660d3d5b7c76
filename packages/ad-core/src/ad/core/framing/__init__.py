"""How a picture becomes what a detector sees: one object, the same wherever pictures are looked at.

It belongs to a run and is saved with the model. Training, calibration, figures, reports and
prediction read pictures and masks through it, so that they cannot differ, and maps go back to the
picture's own pixels through it. Detectors see what comes out and know nothing of it.

What it does to a picture and a map stands in `ad.runtime.framing`, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import PictureSet
from ad.core.data.resizing import resize
from ad.core.data.samples import Sample
from ad.core.framing.tiles import TileSet
from ad.runtime.framing import Framing as Geometry
from ad.runtime.framing import Size
from ad.runtime.framing.framing import both, size_of_picture
from ad.runtime.pictures.drawn import mask_on_picture, read_mask
from ad.runtime.pictures.reading import Source

__all__ = ["Framing"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Framing(Geometry):
    """How a picture becomes what a detector sees."""

    def pictures(
        self, sources: Sequence[Source], *, white: int | None = None, cache: bool = False
    ) -> PictureSet:
        """Pictures as a detector sees them; tile by tile, if they are cut.

        Args:
            sources: Files or arrays.
            white: The value that is white in pictures of more than 8 bits.
            cache: Keep them for further passes; see `PictureSet`.
        """
        if self.tiling is not None:
            tiling, places = self.tiling, [self.places(source) for source in sources]
            return TileSet(sources, tiling, places, self.view, cache=cache, white=white)
        view = None if self._plain else self.view
        return PictureSet(sources, self.size, white=white, cache=cache, view=view)

    def uncut(self, sources: Sequence[Source], *, white: int | None = None) -> PictureSet:
        """Pictures as they are cut, each of its own size: to be read in batches of one.

        Args:
            sources: Files or arrays.
            white: The value that is white in pictures of more than 8 bits.
        """
        return PictureSet(sources, self.size, white=white, view=self.view)

    def truth(self, sample: Sample) -> NDArray[np.bool_]:
        """Which pixels of what a detector sees are defective, ``[h, w]``: where any mask says so.

        A defect so thin that all of it falls between these pixels has those that it touches.

        Raises:
            PictureError: If a mask cannot be read or does not fit its picture.
        """
        if self.tiling is not None:
            return self.of(size_of_picture(sample.path)).truth(sample)
        truth = np.zeros(self.size, dtype=bool)
        for mask in sample.masks:
            truth |= self._truth(mask, sample.path)
        return truth

    def _truth(self, mask: Path, picture: Path) -> NDArray[np.bool_]:
        if self._plain:
            return read_mask(mask, picture, self.size)
        defective, upright = mask_on_picture(mask, picture)
        down, across = self.axes(Size(*upright[::-1]), f"The picture `{picture}`")
        counts = both(down.shows(), across.shows())
        if (looked_at := self.looked_at) is not None:
            counts &= looked_at
        height, width = defective.shape
        rows, columns = down.nearest(height), across.nearest(width)
        truth = defective[rows][:, columns] & counts
        if not truth.any():
            y, x = np.nonzero(defective)
            y, x = down.cells(height)[y], across.cells(width)[x]
            seen = (y >= 0) & (x >= 0)
            truth[y[seen], x[seen]] = True
            truth &= counts
        return truth

    def resized(self, part: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """A part of a picture at another size, by torch."""
        return resize(part, size).numpy()
