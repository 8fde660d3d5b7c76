"""Good pictures that are kept back from learning, and the thresholds that such pictures give.

Either some are kept back from the one detector, or each is from one of several (cross-fitting).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from ad.core.data.samples import Sample, split_seeded
from ad.core.errors import SettingError
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import exact, rank_of
from ad.runtime.calibration.good_scores import GoodScores, Scored
from ad.runtime.framing import Framing
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Progress

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
