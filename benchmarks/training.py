"""Seconds a step of models that learn by gradient: precision, feature cache and compiling.

    python benchmarks/training.py [--steps N] [--output FILE]

Seeded noise as pictures and random weights: neither changes the time. The first two steps are left
out: the first one decodes, and compiled losses are translated there.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from record import record

from ad.core import (
    Callback,
    LoopState,
    ModelRegistry,
    PictureSet,
    Precision,
    Setup,
    fit,
    load_trainer,
)

SIZE = 256
CASES: list[tuple[Precision, bool, bool]] = [
    ("fp32", False, False), ("fp32", True, False), ("bf16", False, False), ("bf16", True, False),
    ("bf16", True, True),
]  # fmt: skip
MODELS = [("stfpm-resnet18", 8), ("reverse-distillation-resnet18", 8), ("efficientad-small", 1)]


class Clock(Callback):
    """Notes when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_batch_end(self, state: LoopState) -> None:
        """Note it."""
        self.times.append(time.perf_counter())


def seconds_per_step(
    name: str, batch_size: int, precision: Precision, cache: bool, compiled: bool, steps: int
) -> float:
    """Time of one step of training, the mean over ``steps``."""
    spec = ModelRegistry.get(name)
    setup = Setup(img_size=SIZE, normalize=spec.train["normalize"], batch_size=batch_size,
                  num_steps=steps + 2, weights="random", precision=precision)  # fmt: skip
    trainer = load_trainer(spec)(setup, **spec.model)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2 * batch_size)]
    clock = Clock()
    fit(
        trainer, PictureSet(noise, SIZE, cache=True), feature_cache=cache, callbacks=[clock],
        compiled=compiled,
    )  # fmt: skip
    return float(np.diff(clock.times[1:]).mean())


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for name, batch_size in MODELS:
        plain = 0.0
        for precision, cache, compiled in CASES:
            seconds = seconds_per_step(name, batch_size, precision, cache, compiled, options.steps)
            plain = plain or seconds
            row = {"model": name, "batch_size": batch_size, "precision": precision,
                   "feature_cache": cache, "compiled": compiled, "seconds_per_step": seconds,
                   "ratio": plain / seconds}  # fmt: skip
            rows.append(row)
            kept = "features kept" if cache else "features anew"
            kept += ", compiled" if compiled else ""
            print(f"{name:30} batch {batch_size}  {precision}  {kept:24}"
                  f"{seconds:7.3f} s a step  {row['ratio']:5.1f}x", flush=True)  # fmt: skip
    if options.output:
        record("training", rows, options.output)


if __name__ == "__main__":
    main()
