"""Good pictures that are kept back from learning, and the thresholds that such pictures give.

Either some are kept back from the one detector, or each is from one of several (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Literal, Protocol, final

import numpy as np
from numpy.typing import NDArray

from ad.core.data.samples import Sample, split_seeded
from ad.core.errors import SettingError
from ad.core.thresholds.apart import apart
from ad.core.thresholds.calibrate import calibrate
from ad.core.thresholds.good_maps import GoodMaps
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import exact, rank_of
from ad.runtime.framing import Framing
from ad.runtime.pictures.opening import said
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Advance, Progress

CROSS: Literal["cross"] = "cross"
"""In place of a share: nothing is held out, and thresholds are cross-fitted."""

_EACH_ALONE = 20
"""Pictures up to which each is a fold of its own."""
_FOLDS = 10
"""Folds of more pictures."""


def hold_out(
    samples: Sequence[Sample], share: float | Literal["cross"], seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split the good samples into those to learn from and those to calibrate with.

    A category that brings validation samples is calibrated with these, and learns from all of its
    training samples.

    Args:
        samples: Of any split and category; test samples and defective ones are left alone.
        share: Share to keep back, of each category; at least one picture when above 0. 0 holds
            out nothing, and validation samples are not used; nor does ``cross``.
        seed: Seed of the choice.

    Raises:
        SettingError: If a category is left with nothing to learn from.
    """
    share = 0.0 if share == CROSS else share
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


def share_out(held_out: Sequence[Sample], seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split held-out pictures into those that a trainer may choose or scale by, and the others.

    Args:
        held_out: Good ones.
        seed: Seed of the choice.

    Returns:
        Half of each category, and those that set the threshold: as many or one more. A single one
        sets it.
    """
    choosing: list[Sample] = []
    others: list[Sample] = []
    for category in dict.fromkeys(sample.category for sample in held_out):
        own = [sample for sample in held_out if sample.category == category]
        some, rest = split_seeded(own, len(own) // 2, seed)
        choosing += some
        others += rest
    return choosing, others


def too_few(held_out: int, false_alarms: float) -> bool:
    """Whether so many held-out pictures promise a worse rate than was asked for."""
    asked = exact(false_alarms)
    return 1 - Fraction(rank_of(held_out, asked), held_out + 1) > asked


def folds_of(samples: Sequence[Sample], seed: int) -> list[list[int]]:
    """Split good pictures into folds, each to be scored by a detector that learns from the others.

    Up to 20 pictures, each is a fold of its own: such fits take no time, each detector learns from
    nearly all, and what is promised is all but what as many held-out pictures promise. More
    pictures make 10 folds: to learn n times from n pictures costs their square at least (at 256
    pixels, PatchCore's coreset takes a core 1.9 s for 20 pictures and 5.2 s for 60: a quarter of an
    hour for 100 pictures 100 times, and 90 s for 10 times), while a detector that learns from nine
    tenths scores nearly as one that learns from all.

    Args:
        samples: Good ones; of each category at least two, so that each detector knows them all.
        seed: Equal seeds and samples give equal folds.

    Returns:
        Numbers of the samples in each fold, ascending. Folds have equally many, or one more, and
        so has each category in each of them.

    Raises:
        SettingError: If a category has a single picture.
    """
    categories: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        categories.setdefault(sample.category, []).append(number)
    for category, own in categories.items():
        if len(own) < 2:
            msg = (
                "`holdout` cross scores each good picture by a detector that has learnt from "
                f"others of its category, and `{category}` has 1 for training. Give more pictures "
                "or `holdout` 0."
            )
            raise SettingError(msg)
    generator = np.random.default_rng(seed)
    dealt = [n for own in categories.values() for n in generator.permutation(own).tolist()]
    count = len(samples) if len(samples) <= _EACH_ALONE else _FOLDS
    return [sorted(dealt[first::count]) for first in range(count)]


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
    found.tell_apart(progress)
    return found.calibration()


@final
class GoodScores:
    """What thresholds are found from: scores of good pictures, and the hottest of their maps.

    Args:
        pictures: All of them.
        framing: How they are seen.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        groups: Numbers of pictures that have a threshold of their own, beside that of all.
    """

    def __init__(
        self,
        pictures: Sequence[Source],
        framing: Framing,
        false_alarms: float,
        groups: Sequence[Sequence[int]] = (),
    ) -> None:
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

        Raises:
            SettingError: If the share is out of range.
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
        """Name the pictures that alone set the threshold; see `ad.core.thresholds.apart`."""
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
    return found


def calibrate_across(
    scored: Iterable[Callable[[Sequence[Source], int], Scored]],
    pictures: Sequence[Source],
    folds: Sequence[Sequence[int]],
    false_alarms: float,
    framing: Framing,
    *,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Calibration:
    """Find a detector's thresholds from the good pictures that it has learnt from.

    Args:
        scored: For each fold, what reads and scores pictures by a detector that has learnt from all
            but that fold, as `calibrate_on` takes it.
        pictures: All of them.
        folds: Which of them each fold has, as `folds_of` gives it.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        framing: How the detectors see them.
        batch_size: Pictures scored at once; does not change the result.
        progress: Where to show how far it is.

    Raises:
        PictureError: If a picture cannot be read.
        SettingError: If the share is out of range.
    """
    found = GoodScores(pictures, framing, false_alarms)
    with progress.step("cross-fitting", total=len(pictures), unit="pictures") as advance:
        for one, fold in zip(scored, folds, strict=True):
            found.see(one([pictures[number] for number in fold], batch_size), fold, advance)
    found.tell_apart(progress)
    return found.calibration(folds=len(folds))
