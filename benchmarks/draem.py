"""Seconds a step of DRAEM: channels-last and bf16 against plain contiguous fp32.

    python benchmarks/draem.py [--size N] [--batch-size N] [--device cuda] [--output FILE]

All that a step does is counted: breaking the pictures, both networks forwards and backwards, the
losses and Adam. Seeded noise as pictures and random weights: neither changes the time. The first
step is left out. At the catalogue's 256 pixels and batches of 8 a step is ten trillion operations:
the default is an eighth of that.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import record
from torch import Tensor

from ad.core import Callback, LoopState, PictureSet, Precision, Setup, fit
from ad.recon.draem import DraemDetector, DraemTrainer, Mended

CASES: list[tuple[Precision, str]] = [
    ("fp32", "contiguous"), ("fp32", "channels-last"), ("bf16", "channels-last"),
]  # fmt: skip


class Clock(Callback):
    """Notes when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_batch_end(self, state: LoopState) -> None:
        """Note it."""
        self.times.append(time.perf_counter())


def plain(detector: DraemDetector, images: Tensor) -> Mended:
    """`DraemDetector.mend` in fp32 on memory as it comes."""
    cells = detector.mending.encoder(images)
    code = detector.mending.last(cells)
    mended = detector.mending.decoder(code)
    return Mended(mended, detector.finding(torch.cat([mended, images], dim=1)), cells, code)


def seconds_per_step(precision: Precision, layout: str, options: argparse.Namespace) -> float:
    """Time of one step of training, the mean over all but the first."""
    setup = Setup(img_size=options.size, normalize=False, batch_size=options.batch_size,
                  num_steps=options.steps + 1, precision=precision,
                  device=torch.device(options.device))  # fmt: skip
    trainer = DraemTrainer(setup)
    if layout == "contiguous":
        detector = trainer.detector.to(memory_format=torch.contiguous_format)
        detector.mend = lambda images: plain(detector, images)  # type: ignore[method-assign]
    rng = np.random.default_rng(0)
    shape = (options.size, options.size, 3)
    noise = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2 * options.batch_size)]
    clock = Clock()
    fit(trainer, PictureSet(noise, options.size, cache=True), callbacks=[clock])
    return float(np.diff(clock.times).mean())


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    baseline = 0.0
    for precision, layout in CASES:
        seconds = seconds_per_step(precision, layout, options)
        baseline = baseline or seconds
        row = {"size": options.size, "batch_size": options.batch_size,
               "device": options.device, "precision": precision, "layout": layout,
               "seconds_per_step": seconds, "ratio": baseline / seconds}  # fmt: skip
        rows.append(row)
        print(f"{precision}  {layout:14}{seconds:8.3f} s a step  {row['ratio']:5.2f}x", flush=True)
    if options.output:
        record("draem", rows, options.output)


if __name__ == "__main__":
    main()
