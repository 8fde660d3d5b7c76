"""Seconds a step of models that learn by gradient: precision and feature cache against neither.

    python benchmarks/training.py [--steps N] [--output FILE]

Seeded noise as pictures and random weights: neither changes the time. The first step, which also
decodes and, with the cache, computes all features, is left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import record

from ad.core.data.batches import PictureSet
from ad.core.loop import fit
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.settings import resolve_options
from ad.core.trainer import Precision, Setup

SIZE = 256
CASES: list[tuple[Precision, bool]] = [
    ("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True),
]  # fmt: skip
MODELS = [("stfpm-resnet18", 8), ("reverse-distillation-resnet18", 8), ("efficientad-small", 1)]


def seconds_per_step(
    name: str, batch_size: int, precision: Precision, cache: bool, steps: int
) -> float:
    """Time of one step of training, the mean over ``steps``."""
    spec = ModelRegistry.get(name)
    trainer_class = load_trainer(spec)
    started: list[float] = []
    setup = Setup(img_size=SIZE, normalize=spec.train["normalize"], batch_size=batch_size,
                  num_steps=steps + 1, weights="random", precision=precision)  # fmt: skip
    trainer = trainer_class(setup, **resolve_options(spec, trainer_class, {}))
    losses = trainer.losses  # type: ignore[attr-defined]  # of a `GradientTrainer`

    def timed(batch: object) -> dict[str, torch.Tensor]:
        started.append(time.perf_counter())
        result: dict[str, torch.Tensor] = losses(batch)
        return result

    trainer.losses = timed  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2 * batch_size)]
    fit(trainer, PictureSet(noise, SIZE, cache=True), feature_cache=cache)
    gaps = np.diff(started)  # from one step's losses to the next one's: all of a step
    return float(gaps.mean())


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name, batch_size in MODELS:
        plain = 0.0
        for precision, cache in CASES:
            seconds = seconds_per_step(name, batch_size, precision, cache, options.steps)
            plain = plain or seconds
            row = {"model": name, "batch_size": batch_size, "precision": precision,
                   "feature_cache": cache, "seconds_per_step": seconds,
                   "ratio": plain / seconds}  # fmt: skip
            rows.append(row)
            kept = "features kept" if cache else "features anew"
            print(f"{name:30} batch {batch_size}  {precision}  {kept:14}"
                  f"{seconds:7.3f} s a step  {row['ratio']:5.1f}x", flush=True)  # fmt: skip
    if options.output:
        record("training", rows, options.output)


if __name__ == "__main__":
    main()
