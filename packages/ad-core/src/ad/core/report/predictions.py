"""Chooses which new pictures a page shows, while they are scored, and writes the page.

Nobody knows what is wrong with them, so the highest scores come first. A bounded number is kept,
however many there are: in full those called defective, small those that are not. Nothing here
imports torch, which an exported model does without.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy.typing import NDArray

from ad.core.report.page import data_uri, write_page
from ad.core.report.shelf import Shelf
from ad.core.report.webp import MAP_SIDE, SIDE, inside_webp, map_webps, picture_webp, within
from ad.runtime.calibration import Calibration
from ad.runtime.findings import Finding
from ad.runtime.framing.size import Size
from ad.runtime.heatmaps import colour_table
from ad.runtime.pictures.reading import glimpse

if TYPE_CHECKING:
    from ad.core.predict import ModelConfig
    from ad.runtime.config import ExportConfig

DEFECTIVE, OTHERS = 120, 80
"""Pictures kept of those called defective, or of all without a threshold, and of the others."""
_SMALL, _SMALL_MAP = 96, 64  # sides of the others, in pixels
_SCORES = 5000
"""Scores on the page; more become quantiles."""
_REGIONS = 20
"""Regions of a picture, the largest."""
_UNREAD = 100
"""Pictures that could not be read and are named."""


@final
@dataclass(frozen=True, slots=True)
class _Kept:
    """A picture on the page."""

    path: Path
    finding: dict[str, Any]
    """What the page says of it and shows."""


@final
class NewPictures:
    """The pictures to show, of all that went by.

    Args:
        calibration: What verdicts are made by and makes maps comparable; None without.
        config: Of the detector.
        outlines: What the detector's own outlines are of; empty without any.
    """

    def __init__(
        self, calibration: Calibration | None, config: ModelConfig | ExportConfig, outlines: str
    ) -> None:
        self.calibration = calibration
        self.config = config
        self.outlines = outlines
        self._kept: dict[int, _Kept] = {}
        self._shelves = {True: Shelf(DEFECTIVE), False: Shelf(OTHERS)}
        self._scores = array("f")
        self._defective = 0
        self._unread: list[tuple[Path, str]] = []
        self._num_unread = 0

    def see(self, finding: Finding, pixels: NDArray[np.uint8] | None = None) -> None:
        """Look at what was found in a picture; keep what belongs on the page.

        Args:
            finding: Of a file.
            pixels: The picture, as `glimpse` gives it; None: it is read again if it is kept.

        Raises:
            PictureError: If it cannot be read any more; then it was not looked at.
        """
        assert finding.path is not None
        if finding.score is None:
            self._num_unread += 1
            if len(self._unread) < _UNREAD:
                self._unread.append((finding.path, str(finding.error)))
            return
        full = finding.anomalous is not False
        index, shelf = len(self._scores), self._shelves[full]
        if shelf.wants(finding.score, index):
            if pixels is None:
                pixels = glimpse(finding.path, white=self.config.white_level)
            kept = _Kept(finding.path, self._shown(finding, pixels, full=full))
            if (gone := shelf.put(finding.score, index)) is not None:
                del self._kept[gone]
            self._kept[index] = kept
        self._scores.append(finding.score)
        self._defective += finding.anomalous is True

    def write(self, folder: Path, *, run: str, notes: Sequence[str]) -> Path:
        """Write the page into the folder of what was predicted.

        Args:
            folder: It.
            run: What predicted.
            notes: What a reader of the verdicts must know.

        Returns:
            The file.

        Raises:
            OutputError: If it cannot be written.
        """
        ranked = sorted(self._kept, key=lambda index: (-self._kept[index].finding["score"], index))
        kept = [self._kept[index] for index in ranked]
        scores = np.sort(np.array(self._scores, dtype=np.float32))
        if len(scores) > _SCORES:
            scores = np.quantile(scores, np.linspace(0, 1, _SCORES), method="nearest")
        paths = [*(one.path for one in kept), *(path for path, _ in self._unread)]
        root = os.path.commonpath([one.absolute().parent for one in paths]) if paths else ""
        calibration, title = self.calibration, f"New pictures by {self.config.model}"
        data = {
            "title": title,
            "notes": list(notes),
            "calibration": None
            if calibration is None
            else {
                name: getattr(calibration, name)
                for name in ("threshold", "scale", "pixel_threshold", "pixel_scale")
            },
            "outlines": self.outlines if any(one.finding["outline"] for one in kept) else "",
            "colours": colour_table().flatten().tolist(),
            "scores": scores.tolist(),
            "numScored": len(self._scores),
            "numDefective": self._defective,
            "shownDefective": len(self._shelves[True].heap) if calibration is not None else 0,
            "most": DEFECTIVE + OTHERS,
            "gallery": [{**one.finding, "name": _name(one.path, root)} for one in kept],
            "unread": [[_name(path, root), why] for path, why in self._unread],
            "numUnread": self._num_unread,
            "facts": [
                ["detector", run],
                ["model", self.config.model],
                ["pictures in", root],
                ["written to", str(folder)],
            ],
        }
        path = folder / "report.html"
        write_page(path, "predictions", title, data)
        return path

    def _shown(self, finding: Finding, picture: NDArray[np.uint8], *, full: bool) -> dict[str, Any]:
        height, width, _ = picture.shape
        side, map_side = (SIDE, MAP_SIDE) if full else (_SMALL, _SMALL_MAP)

        def back(map_: NDArray[np.float32]) -> NDArray[np.float32]:
            across, down = within((width, height), min(SIDE, max(width, height)))
            return self.config.framing.back_small(map_, Size(height, width), (down, across))

        heat, own, outline = None, None, None
        if finding.map is not None:
            heat, own = map_webps(finding.map, self.calibration, side=map_side, back=back)
        if finding.outline is not None:
            outline = inside_webp(np.nan_to_num(back(finding.outline)) > 0, map_side)
        return {
            "score": finding.score,
            "normalized": finding.normalized,
            "size": [width, height],
            "picture": data_uri(picture_webp(picture, side)),
            "heat": data_uri(heat),
            "own": data_uri(own),
            "outline": data_uri(outline),
            "regions": [list(region) for region in (finding.regions or ())[:_REGIONS]],
            "numRegions": finding.num_regions or 0,
        }


def _name(path: Path, root: str) -> str:
    return str(path.absolute().relative_to(root))
