"""Chooses which test pictures a report shows, while they are scored.

What is wrong at any threshold are the defective pictures with the lowest scores and the good ones
with the highest. So a bounded number of each is kept, whatever the threshold and however many
pictures there are; maps are reduced at once and never held together.
"""

from __future__ import annotations

import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.core.data.batches import Batch
from ad.core.data.samples import Sample
from ad.core.framing import Framing
from ad.core.predict import LoadedDetector
from ad.runtime.calibration import Calibration
from ad.runtime.framing.size import Size
from ad.runtime.heatmaps import heat_of
from ad.runtime.pictures.opening import WidthHeight

HARDEST, EASIEST = 80, 15
"""Pictures kept of good and of defective ones each: the most and the least wrong."""
OF_EACH_KIND, KINDS = 2, 25
"""Pictures kept of each kind of defect, the most wrong ones, and of how many kinds."""

_SIDE, _MAP_SIDE = 256, 128  # in pixels; a map has nothing finer to show
_QUALITY, _MAP_QUALITY = 70, 80
_METHOD = 1  # a millisecond a picture; the slowest one takes ten for a tenth fewer bytes


@final
@dataclass(frozen=True, slots=True)
class Shown:
    """One picture of the gallery, in the shape in which the detector sees it."""

    index: int
    """Which of the test samples."""
    score: float
    """Its raw score."""
    picture: bytes
    """WebP, RGB, no side longer than 256 pixels."""
    heat: bytes | None
    """WebP, grey, no side longer than 128 pixels: the map, 127.5 at the pixel threshold, or from
    the picture's lowest to its highest value if there is none; None if there is no map."""
    outline: bytes | None = None
    """WebP, white where a test of the detector's own finds something, of the map's size; None if
    it has none."""


@final
class Gallery:
    """The pictures to show, of all that went by.

    Args:
        samples: The test samples.
        calibration: What makes maps comparable; None lets each have its own range.
        detector: Says how it sees pictures, and is asked for its own outline of what is shown;
            None sees all of a picture, stretched, and has no outline.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        calibration: Calibration | None,
        detector: LoadedDetector | None = None,
    ) -> None:
        self.samples = samples
        self.calibration = calibration
        self.detector = detector
        self.framing = None if detector is None else detector.config.framing
        self._kept: dict[int, Shown] = {}
        self._hardest = (_Shelf(HARDEST), _Shelf(HARDEST))
        self._easiest = (_Shelf(EASIEST), _Shelf(EASIEST))
        kinds = list(dict.fromkeys((s.category, s.group) for s in samples))
        self._kinds = {kind: _Shelf(OF_EACH_KIND) for kind in kinds[:KINDS]}

    def see(
        self, batch: Batch, scores: NDArray[np.float32], maps: NDArray[np.float32] | None
    ) -> None:
        """Look at a batch; keep what belongs into the gallery.

        Args:
            batch: Its indices are those of the samples.
            scores: ``[B]``.
            maps: ``[B, H, W]``, or None.
        """
        for row, index in enumerate(batch.indices):
            score = float(scores[row])
            if self._wanted(index, score):
                map_ = None if maps is None else maps[row]
                outline = None
                if self.detector is not None:
                    outline = self.detector.outline(batch.pictures[row : row + 1])
                self._keep(
                    Shown(
                        index=index,
                        score=score,
                        picture=small_webp(batch.pictures[row].numpy(), _SIDE, _QUALITY),
                        heat=None if map_ is None else self._heat(map_),
                        outline=None if outline is None else _outline(outline[0]),
                    )
                )

    def merge(self, others: Iterable[Sequence[Shown]]) -> None:
        """Add what other processes kept of their share of the pictures."""
        for shown in sorted((one for other in others for one in other), key=lambda s: s.index):
            if shown.index not in self._kept and self._wanted(shown.index, shown.score):
                self._keep(shown)

    @property
    def shown(self) -> list[Shown]:
        """What was kept, in the order of the samples."""
        return [self._kept[index] for index in sorted(self._kept)]

    @property
    def outlines(self) -> str:
        """What the detector's own outlines are of; empty if what was kept has none."""
        some = any(shown.outline is not None for shown in self._kept.values())
        return self.detector.detector.outlines if some and self.detector is not None else ""

    @property
    def localises(self) -> bool:
        """Whether what was kept has maps."""
        return any(shown.heat is not None for shown in self._kept.values())

    @property
    def region(self) -> bytes | None:
        """The region of interest as WebP, white where it is looked at; None without one."""
        region = None if self.framing is None else self.framing.region
        if region is None:
            return None
        image = Image.fromarray(region.inside.astype(np.uint8) * 255)
        if max(image.size) > _SIDE:
            image = image.resize(_within(image.size, _SIDE), Image.Resampling.NEAREST)
        return _bytes(image, lossless=True)

    def mask(self, shown: Shown) -> bytes | None:
        """A kept picture's mask as WebP, white where defective; None if it has none.

        Raises:
            PictureError: If it cannot be read.
        """
        sample = self.samples[shown.index]
        if not sample.masks:
            return None
        width, height = _within(Image.open(io.BytesIO(shown.picture)).size, _SIDE)
        framing = self.framing or Framing(size=Size(height, width))
        union = framing.at((height, width)).truth(sample)
        return _bytes(Image.fromarray(union.astype(np.uint8) * 255), lossless=True)

    def _shelves(self, index: int, score: float) -> list[tuple[_Shelf, float]]:
        """Where a picture may go, and how much it belongs there."""
        sample = self.samples[index]
        wrong = -score if sample.label else score
        places = [(self._hardest[sample.label], wrong), (self._easiest[sample.label], -wrong)]
        kind = self._kinds.get((sample.category, sample.group))
        return [*places, (kind, wrong)] if kind is not None else places

    def _wanted(self, index: int, score: float) -> bool:
        return any(shelf.wants(rank, index) for shelf, rank in self._shelves(index, score))

    def _keep(self, shown: Shown) -> None:
        self._kept[shown.index] = shown
        shelves = self._shelves(shown.index, shown.score)
        gone = {shelf.put(rank, shown.index) for shelf, rank in shelves}
        for index in gone:  # from one shelf, but it may be on another
            if index is not None and not self._on_a_shelf(index):
                del self._kept[index]

    def _on_a_shelf(self, index: int) -> bool:
        score = self._kept[index].score
        return any(index in shelf for shelf, _ in self._shelves(index, score))

    def _heat(self, map_: NDArray[np.float32]) -> bytes:
        heat = np.nan_to_num(heat_of(map_, self.calibration))  # no heat where nothing is looked at
        return small_webp(np.rint(heat * 255).astype(np.uint8), _MAP_SIDE, _MAP_QUALITY)


@final
class _Shelf:
    """The indices of the highest ranks, as many as it has places."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.heap: list[tuple[float, int]] = []  # the lowest rank first; of equal ones the latest

    def __contains__(self, index: int) -> bool:
        return any(-negative == index for _, negative in self.heap)

    def wants(self, rank: float, index: int) -> bool:
        return len(self.heap) < self.places or (rank, -index) > self.heap[0]

    def put(self, rank: float, index: int) -> int | None:
        """Put an index in its place if there is one; say which index has none now."""
        if len(self.heap) < self.places:
            heapq.heappush(self.heap, (rank, -index))
            return None
        return -heapq.heappushpop(self.heap, (rank, -index))[1]


def small_webp(pixels: NDArray[np.uint8], side: int, quality: int) -> bytes:
    """A picture ``[H, W]`` or ``[H, W, 3]`` as WebP, no side longer than that in pixels."""
    return _bytes(_reduced(pixels, side), quality=quality)


def _outline(outline: NDArray[np.float32]) -> bytes:
    inside = (outline > 0).astype(np.uint8) * 255
    return _bytes(_reduced(inside, _MAP_SIDE), lossless=True)


def _reduced(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    if max(image.size) > side:
        image = image.resize(_within(image.size, side), Image.Resampling.BILINEAR)
    return image


def _within(size: WidthHeight, side: int) -> WidthHeight:
    """Width and height in the same proportion, the longer one of a given length."""
    longer = max(size)
    return max(1, round(size[0] * side / longer)), max(1, round(size[1] * side / longer))


def _bytes(image: Image.Image, **options: Any) -> bytes:  # noqa: ANN401 - as Pillow takes them
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", method=_METHOD, **options)
    return buffer.getvalue()
