"""Large pictures read tile by tile; see `ad.runtime.framing.tiles`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ad.core.data.batches import PictureSet, View
from ad.runtime.framing.tiles import Place, Tiling
from ad.runtime.pictures.reading import Source

_KEPT = 3  # decoded pictures: those whose tiles are being read


class TileSet(PictureSet):
    """The tiles of pictures, each as if it were a picture, in the order of the pictures.

    Args:
        sources: Files, images or arrays.
        tiling: How they are cut.
        places: Of the tiles of each that are wanted.
        scaled: From a decoded picture ``[H, W, 3]`` and its name to the one that is cut.
        cache: Keep all tiles for further passes: each picture is decoded once.
        white: As `PictureSet` takes it.
    """

    unit = "tiles"

    def __init__(
        self,
        sources: Sequence[Source],
        tiling: Tiling,
        places: Sequence[Sequence[Place]],
        scaled: View,
        *,
        cache: bool = False,
        white: int | None = None,
    ) -> None:
        self._tiling = tiling
        self._tiles = [(number, one) for number, own in enumerate(places) for one in own]
        self._first = np.cumsum([0, *(len(own) for own in places)])
        self._recent: OrderedDict[int, Future[NDArray[np.uint8]]] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(
            [sources[number] for number, _ in self._tiles],
            tiling.tile,
            cache=cache,
            white=white,
            view=scaled,
        )

    def _decode(self, index: int) -> Tensor:
        number, place = self._tiles[index]
        picture = self._picture(number)
        if self._cached is not None and self._cache is not None:
            for row in range(self._first[number], self._first[number + 1]):
                if row != index and not self._cached[row]:
                    self._cache[row] = self._tiling.cut(picture, self._tiles[row][1])
                    self._cached[row] = True
        return torch.from_numpy(self._tiling.cut(picture, place))

    def _picture(self, number: int) -> NDArray[np.uint8]:
        """A picture as it is cut: decoded once for tiles that are read soon after each other."""
        with self._lock:
            found = self._recent.get(number)
            mine = found is None
            if found is None:
                found = self._recent[number] = Future()
            self._recent.move_to_end(number)
            while len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        if mine:  # the others wait for this thread, which is at work
            try:
                found.set_result(super()._decode(int(self._first[number])).numpy())
            except BaseException as error:
                found.set_exception(error)
        return found.result()
