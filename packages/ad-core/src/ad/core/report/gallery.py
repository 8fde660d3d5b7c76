"""Chooses which test pictures a report shows, while they are scored.

What is wrong at any threshold are the defective pictures with the lowest scores and the good ones
with the highest. So a bounded number of each is kept, whatever the threshold and however many
pictures there are; maps are reduced at once and never held together.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.core.data.batches import Batch
from ad.core.data.samples import Sample
from ad.core.framing import Framing
from ad.core.predict import LoadedDetector
from ad.core.report.shelf import Shelf
from ad.core.report.webp import (
    MAP_SIDE,
    SIDE,
    encoded,
    inside_webp,
    map_webps,
    picture_webp,
    reduced_map,
    within,
)
from ad.runtime.calibration import Calibration
from ad.runtime.framing.size import Size

HARDEST, EASIEST = 80, 15
"""Pictures kept of good and of defective ones each: the most and the least wrong."""
OF_EACH_KIND, KINDS = 2, 25
"""Pictures kept of each kind of defect, the most wrong ones, and of how many kinds."""


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
    own: bytes | None = None
    """As ``heat``, from the picture's lowest to its highest value; None if ``heat`` is that."""
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
        framing: How pictures are seen, where there is no one detector.
        later: Whether `calibrate` says what makes maps comparable once all have gone by.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        calibration: Calibration | None,
        detector: LoadedDetector | None = None,
        *,
        framing: Framing | None = None,
        later: bool = False,
    ) -> None:
        self.samples = samples
        self.calibration = calibration
        self.detector = detector
        self.framing = framing if detector is None else detector.config.framing
        self._kept: dict[int, Shown] = {}
        self._maps: dict[int, NDArray[np.float32]] | None = {} if later else None
        self._hardest = (Shelf(HARDEST), Shelf(HARDEST))
        self._easiest = (Shelf(EASIEST), Shelf(EASIEST))
        kinds = list(dict.fromkeys((s.category, s.group) for s in samples))
        self._kinds = {kind: Shelf(OF_EACH_KIND) for kind in kinds[:KINDS]}

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
                if self._maps is not None and map_ is not None:
                    map_ = self._maps[index] = reduced_map(map_)
                outline = None
                if self.detector is not None:
                    outline = self.detector.outline(batch.pictures[row : row + 1])
                heat, own = (None, None) if map_ is None else map_webps(map_, self.calibration)
                self._keep(
                    Shown(
                        index=index,
                        score=score,
                        picture=picture_webp(batch.pictures[row].numpy()),
                        heat=heat,
                        own=own,
                        outline=None if outline is None else inside_webp(outline[0] > 0, MAP_SIDE),
                    )
                )

    def calibrate(self, calibration: Calibration) -> None:
        """Say what makes the maps of a gallery comparable that was to be told later."""
        self.calibration = calibration
        for index, map_ in (self._maps or {}).items():
            if index in self._kept:
                heat, own = map_webps(map_, calibration)
                self._kept[index] = replace(self._kept[index], heat=heat, own=own)
        self._maps = None

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
        if max(image.size) > SIDE:
            image = image.resize(within(image.size, SIDE), Image.Resampling.NEAREST)
        return encoded(image, lossless=True)

    def mask(self, shown: Shown) -> bytes | None:
        """A kept picture's mask as WebP, white where defective; None if it has none.

        Raises:
            PictureError: If it cannot be read.
        """
        sample = self.samples[shown.index]
        if not sample.masks:
            return None
        width, height = within(Image.open(io.BytesIO(shown.picture)).size, SIDE)
        framing = self.framing or Framing(size=Size(height, width))
        union = framing.at((height, width)).truth(sample)
        return inside_webp(union)

    def _shelves(self, index: int, score: float) -> list[tuple[Shelf, float]]:
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
                if self._maps is not None:
                    self._maps.pop(index, None)

    def _on_a_shelf(self, index: int) -> bool:
        score = self._kept[index].score
        return any(index in shelf for shelf, _ in self._shelves(index, score))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GoodPictures:
    """Good pictures with scores that a threshold can be set on, where there are no test ones."""

    gallery: Gallery
    """Has seen them."""
    scores: tuple[float, ...]
    """Of its samples."""
    lead: str
    """What they are, in a sentence or two."""
    renewed: bool
    """Whether the threshold was set on others since."""
    without: str = ""
    """What of them is not shown, and why."""
