"""Good pictures that are kept back from learning, and the thresholds that such pictures give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ad.core.data.samples import Sample, split_seeded
from ad.core.errors import SettingError
from ad.core.thresholds.calibrate import calibrate
from ad.runtime.calibration import Calibration
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Progress


def hold_out(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split the good samples into those to learn from and those to calibrate with.

    A category that brings validation samples is calibrated with these, and learns from all of its
    training samples.

    Args:
        samples: Of any split and category; test samples and defective ones are left alone.
        share: Share to keep back, of each category; at least one picture when above 0. 0 holds
            out nothing, and validation samples are not used.
        seed: Seed of the choice.

    Raises:
        SettingError: If a category is left with nothing to learn from.
    """
    learning: list[Sample] = []
    held_out: list[Sample] = []
    training = [s for s in samples if s.split == "train" and s.label == 0]
    for category in dict.fromkeys(sample.category for sample in training):
        own = [sample for sample in training if sample.category == category]
        apart = [s for s in samples if s.split == "validation" and s.category == category]
        if apart:
            learning += own
            held_out += apart if share else []
            continue
        kept_back = max(1, round(len(own) * share)) if share else 0
        if kept_back >= len(own):
            msg = (
                f"`holdout` {share} keeps back {kept_back} of the {len(own)} good pictures of "
                f"`{category}` that are for training: nothing is left to learn from. Give more "
                "pictures or `holdout` 0."
            )
            raise SettingError(msg)
        back, rest = split_seeded(own, kept_back, seed)
        learning += rest
        held_out += back
    return learning, held_out


class Indexed(Protocol):
    """A batch that says which pictures are in it."""

    @property
    def indices(self) -> Sequence[int]:
        """Which ones."""


class Peaks(Protocol):
    """A framing, as far as it says what counts of a map."""

    def peaks(self, maps: NDArray[np.float32], pictures: Sequence[Source]) -> NDArray[np.float32]:
        """See `Framing.peaks`."""


Scored = Iterable[tuple[Indexed, NDArray[np.float32], NDArray[np.float32] | None]]
"""Batches with their scores ``[B]`` and maps ``[B, H, W]``, or None for maps."""


def calibrate_on(
    scored: Callable[[Sequence[Source], int], Scored],
    pictures: Sequence[Source],
    false_alarms: float,
    framing: Peaks,
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
    scores, maxima = good_scores(
        scored, pictures, framing, batch_size=batch_size, progress=progress
    )
    return calibrate(scores, maxima, rate=false_alarms)


def good_scores(
    scored: Callable[[Sequence[Source], int], Scored],
    pictures: Sequence[Source],
    framing: Peaks,
    *,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """What `calibrate` takes of good pictures; see `calibrate_on`.

    Returns:
        Scores ``[n]``, and the largest of each map ``[n]`` where it shows what counts; None for
        these without maps.
    """
    scores, maxima = [], []
    with progress.step("calibrating", total=len(pictures), unit="pictures") as advance:
        for batch, batch_scores, maps in scored(pictures, batch_size):
            scores.append(batch_scores)
            if maps is not None:
                seen = [pictures[index] for index in batch.indices]
                maxima.append(framing.peaks(maps, seen))
            advance(len(batch.indices))
    return np.concatenate(scores), np.concatenate(maxima) if maxima else None
