"""From runs side by side to a recommendation, and to points of accuracy against time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

from ad.core.metrics.differences import CONFIDENCE
from ad.core.report.contrasts import contrast
from ad.core.report.recommending import Candidate, Chance, Limits, Recommendation, recommend
from ad.core.report.standings import Row

_NO_LIMITS = Limits()


def choose(
    rows: Sequence[Row],
    columns: Sequence[str],
    limits: Limits = _NO_LIMITS,
    failed: Sequence[str] = (),
) -> Recommendation:
    """Recommend one of some models.

    Two may be equal if the difference of their image AUROC is within what drawing the test pictures
    again makes of it, or within what learning with other seeds does (a paired t interval).

    Args:
        rows: The models.
        columns: The categories.
        limits: What it may cost.
        failed: Labels of models of which no run is finished.
    """
    of = {row.label: row for row in rows}
    candidates = [candidate(row, columns) for row in rows]
    candidates += [Candidate(label=label) for label in failed]
    found = recommend(
        candidates,
        limits,
        may_be_equal=lambda one, other: _may_be_equal(of[one.label], of[other.label], columns),
    )
    if found.label is None or len(rows) < 2 or any(len(_seeds(row)) > 1 for row in rows):
        return found
    unknown = "One seed: what learning again would change is not known; `--seeds 3` tries three."
    return dataclasses.replace(found, lines=(*found.lines, unknown))


def candidate(row: Row, columns: Sequence[str]) -> Candidate:
    """What was measured of a model."""
    aurocs = [row.numbers("image_auroc", column) for column in columns]
    means = [float(np.mean([*own.values()])) for own in aurocs if own]

    def slowest(key: str) -> float | None:
        known = [[*row.numbers(key, column).values()] for column in columns]
        return max((float(np.mean(own)) for own in known if own), default=None)

    memory = [run.costs.peak_memory_bytes for run in row.runs]
    return Candidate(
        label=row.label,
        auroc=float(np.mean(means)) if len(means) == len(columns) else None,
        seconds=slowest("seconds_per_picture"),
        memory=max((one for one in memory if one is not None), default=None),
        fit=slowest("fit_seconds"),
    )


def shown(
    rows: Sequence[Row], columns: Sequence[str], found: Recommendation | None
) -> dict[str, Any]:
    """What a page shows of each model: figure, costs, whether it is recommended.

    Args:
        rows: The models.
        columns: The categories.
        found: What was recommended, if that was asked.
    """
    candidates = [candidate(row, columns) for row in rows]
    front = recommend(candidates, _NO_LIMITS, may_be_equal=lambda *_: None).front
    models = [
        {
            "label": one.label,
            "auroc": one.auroc,
            "milliseconds": None if one.seconds is None else 1000 * one.seconds,
            "gigabytes": None if one.memory is None else one.memory / 1e9,
            "learning": one.fit,
            "front": one.label in front,
            "chosen": found is not None and one.label == found.label,
        }
        for one in candidates
    ]
    return {"models": models, "words": [] if found is None else list(found.lines)}


def _may_be_equal(one: Row, other: Row, columns: Sequence[str]) -> Chance:
    """Whether the first may be ahead by chance of the pictures or of the seeds.

    None if they were never tested on the same pictures.
    """
    pairs = contrast([one, other], columns).pairs
    if not pairs:
        return None
    if not pairs[0].overall.differs:
        return True
    return "seeds" if _by_seed(pairs[0].seeds) else False


def _seeds(row: Row) -> set[int]:
    return {run.seed for run in row.runs}


def _by_seed(gaps: Sequence[float]) -> bool:
    """Whether other seeds may turn the sign of a difference that those at hand have."""
    if len(gaps) < 2:
        return False
    error = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps))
    reach = float(stdtrit(len(gaps) - 1, (1 + CONFIDENCE) / 2))
    return abs(float(np.mean(gaps))) <= reach * error
