"""The thresholds that a detector's own scores of good pictures set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration import Calibration
from ad.runtime.calibration.apart import apart
from ad.runtime.calibration.by_rate import calibrate, check_false_alarms
from ad.runtime.calibration.conformal import exact, rank_of
from ad.runtime.calibration.good_maps import GoodMaps
from ad.runtime.framing import Framing
from ad.runtime.pictures.opening import said
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Advance, Progress


class Indexed(Protocol):
    """A batch that says which pictures are in it."""

    @property
    def indices(self) -> Sequence[int]:
        """Which ones."""


Scored = Iterable[tuple[Indexed, NDArray[np.float32], NDArray[np.float32] | None]]
"""Batches with their scores ``[B]`` and maps ``[B, H, W]``, or None for maps."""


def calibrate_on(
    scored: Callable[[Sequence[Source], int], Scored],
    pictures: Sequence[Source],
    false_alarms: float,
    framing: Framing,
    *,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Calibration:
    """Find a detector's thresholds from good pictures that it has not learnt from.

    Args:
        scored: Reads and scores pictures, so many at once:
            `ad.core.predict.LoadedDetector.scored` of a fitted one, or `ad.runtime.Runtime.scored`
            of an exported one.
        pictures: At least one.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        framing: How the detector sees them, which says what counts of its maps.
        batch_size: Pictures scored at once; does not change the result.
        progress: Where to show how far it is.

    Raises:
        PictureError: If a picture cannot be read.
        SettingError: If the share is out of range.
    """
    found = good_scores(
        scored, pictures, framing, false_alarms, batch_size=batch_size, progress=progress
    )
    return found.calibration()


@final
class GoodScores:
    """What thresholds are found from: scores of good pictures, and the hottest of their maps.

    Args:
        pictures: All of them.
        framing: How they are seen.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        groups: Numbers of pictures that have a threshold of their own, beside that of all.

    Raises:
        SettingError: If the share is out of range, before anything is scored.
    """

    def __init__(
        self,
        pictures: Sequence[Source],
        framing: Framing,
        false_alarms: float,
        groups: Sequence[Sequence[int]] = (),
    ) -> None:
        check_false_alarms(false_alarms)
        self._pictures, self._framing, self._rate = pictures, framing, false_alarms
        self._groups = [range(len(pictures)), *groups]
        self._scores = np.empty(len(pictures), np.float32)
        self._peaks: NDArray[np.float32] | None = None
        self._maps = GoodMaps(self._groups, false_alarms)

    def see(self, scored: Scored, numbers: Sequence[int], advance: Advance) -> None:
        """Take in scores of some pictures.

        Args:
            scored: Of these.
            numbers: Which of all pictures they are.
            advance: Told how many were scored.
        """
        for batch, scores, maps in scored:
            own = [numbers[index] for index in batch.indices]
            self._scores[own] = scores
            if maps is not None:
                if self._peaks is None:
                    self._peaks = np.empty(len(self._pictures), np.float32)
                peaks = self._framing.peaks(maps, [self._pictures[number] for number in own])
                self._peaks[own] = peaks
                for row, number in enumerate(own):
                    self._maps.see(number, float(peaks[row]), maps[row])
            advance(len(own))

    def calibration(self, group: int = 0, folds: int = 0) -> Calibration:
        """The thresholds that all pictures set, or those of a group.

        Args:
            group: 0 for all, then the groups in their order.
            folds: How many detectors gave the scores; see `calibrate`.
        """
        numbers = np.array(self._groups[group])
        scores = self._scores[numbers]
        if self._peaks is None:
            return calibrate(scores, None, rate=self._rate, folds=folds)
        peaks = self._peaks[numbers]
        found = calibrate(scores, peaks, rate=self._rate, folds=folds)
        counts = self._maps.count(group, peaks, self._pictures, self._framing)
        return replace(found, false_regions=counts)

    def tell_apart(self, progress: Progress) -> None:
        """Name the pictures that alone set the threshold; see `ad.runtime.calibration.apart`."""
        order = np.argsort(self._scores, kind="stable")
        rank = rank_of(len(order), exact(self._rate))
        high = apart([float(score) for score in self._scores[order]], rank)
        for number in order[len(order) - high :][::-1].tolist():
            one = self._pictures[number]
            name = f"array {number + 1}" if isinstance(one, np.ndarray) else said("picture", one)
            progress.tell(f"{name} scores {self._scores[number]:.4g}, far above other good ones")


def good_scores(
    scored: Callable[[Sequence[Source], int], Scored],
    pictures: Sequence[Source],
    framing: Framing,
    false_alarms: float,
    *,
    groups: Sequence[Sequence[int]] = (),
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> GoodScores:
    """Score good pictures; see `calibrate_on`, and `GoodScores` for the groups."""
    found = GoodScores(pictures, framing, false_alarms, groups)
    with progress.step("calibrating", total=len(pictures), unit="pictures") as advance:
        found.see(scored(pictures, batch_size), range(len(pictures)), advance)
    found.tell_apart(progress)
    return found
