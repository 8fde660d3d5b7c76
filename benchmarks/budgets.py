"""How far a recorded run went of what its model's catalogue entry asks for."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import dataclass
from typing import Any

from ad.core import ModelRegistry

# `accuracy.py` holds none of the good pictures out.
_LEARNT_FROM = {"mtd": 761, "hazelnut_toy": 28, "synthetic metal": 60}
_APART = "mtd, a fifth of its defects apart"
_DEFECTS_APART = 78
_EPOCH_OF_A_DEFECT = 8
"""Pictures of an epoch for each defective one: four of it, and as many good ones."""

_GIVEN = re.compile(r"--(steps|epochs|batch-size|img-size) (\d+)")


@dataclass(frozen=True, slots=True)
class Budget:
    """Steps of a run, and those of the catalogue's epochs on the same pictures."""

    steps: int
    of: int
    share: float
    """Of the pictures that these epochs see: a run's batches may be smaller."""

    def __str__(self) -> str:
        """``300 of 2,400: 12 %``; ``400 of 400``; ``1,000 of 200: 5 x``."""
        words = f"{self.steps:,} of {self.of:,}"
        if self.share == 1:
            return words
        percent = 100 * self.share
        if percent > 200:
            return f"{words}: {self.share:.0f} x"
        return f"{words}: {percent:.{0 if percent >= 1 else 1}f} %"


def budget_of(row: dict[str, Any]) -> Budget | None:
    """What a row of ``accuracy_*.json`` took; None for a model that learns without gradients."""
    spec = ModelRegistry.get(row["model"])
    if not spec.by_gradient:
        return None
    given = _given(row)
    epochs, batch = spec.train["num_epochs"], spec.train["batch_size"]
    pictures = _pictures(row)
    own_batch = given.get("batch-size", batch)
    whole, own = (math.ceil(pictures / size) for size in (batch, own_batch))  # steps of an epoch
    steps = given.get("steps", given.get("epochs", epochs) * own)
    return Budget(steps, epochs * whole, steps / own / epochs)


def is_whole(row: dict[str, Any]) -> bool:
    """Whether a run is the catalogue's in size, batch, and at least in epochs.

    Of a model that learns by gradient other options make another recipe; of one that does not,
    another model, which is named by them.
    """
    train, given, budget = ModelRegistry.get(row["model"]).train, _given(row), budget_of(row)
    if given.get("img-size", train["img_size"]) != train["img_size"]:
        return False
    if budget is None:
        return True
    own_batch = given.get("batch-size", train["batch_size"]) == train["batch_size"]
    return own_batch and budget.share >= 1 and "--set " not in row["command"]


def _given(row: dict[str, Any]) -> dict[str, int]:
    return {key: int(number) for key, number in _GIVEN.findall(row["command"])}


def _pictures(row: dict[str, Any]) -> int:
    """Pictures of an epoch."""
    data = row["dataset"]
    if data == _APART:
        learns = row["model"].endswith("-supervised") or "supervised=true" in row["command"]
        return _EPOCH_OF_A_DEFECT * _DEFECTS_APART if learns else _LEARNT_FROM["mtd"]
    if data not in _LEARNT_FROM:
        sys.exit(f"benchmarks/budgets.py: how many good pictures has `{data}` to learn from?")
    return _LEARNT_FROM[data]
