"""Seconds a picture of detectors at 256 x 256: fp32 and bf16, one picture and eight at once.

    python benchmarks/inference.py [--device cuda] [--rounds N] [--output FILE]

From pictures in memory to scores and maps. Seeded noise as pictures, random weights and one step of
learning: none of them changes the time. The two precisions take turns, and the median of the rounds
counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from record import record
from torch import Tensor

from ad.core import Detector, ModelRegistry, PictureSet, Precision, Setup, fit, load_trainer

SIZE = 256
MODELS = ("fre-resnet18", "stfpm-resnet18", "reverse-distillation-resnet18", "efficientad-small")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")
BATCHES = (1, 8)


def learnt(name: str, precision: Precision, device: torch.device) -> Detector:
    """A detector after its least learning."""
    spec = ModelRegistry.get(name)
    setup = Setup(img_size=SIZE, normalize=spec.train["normalize"], batch_size=1, num_steps=1,
                  weights="random", precision=precision, device=device)  # fmt: skip
    trainer = load_trainer(spec)(setup, **spec.model)
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(4)]
    fit(trainer, PictureSet(noise, SIZE))
    return trainer.detector


def seconds(detector: Detector, images: Tensor) -> float:
    """Time of one batch."""
    start = time.perf_counter()
    with torch.inference_mode():
        detector(images).score.cpu()  # waits for a GPU
    return time.perf_counter() - start


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    for name in MODELS:
        detectors = {precision: learnt(name, precision, device) for precision in PRECISIONS}
        for batch_size in BATCHES:
            images = torch.rand(batch_size, 3, SIZE, SIZE, device=device)
            times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
            for _ in range(2 + options.rounds):
                for precision, detector in detectors.items():
                    times[precision].append(seconds(detector, images) / batch_size)
            plain = statistics.median(times["fp32"][2:])  # the first two warm up
            for precision in PRECISIONS:
                each = statistics.median(times[precision][2:])
                row = {"model": name, "batch_size": batch_size, "precision": precision,
                       "device": options.device, "seconds_per_image": each,
                       "ratio": plain / each}  # fmt: skip
                rows.append(row)
                print(f"{name:30} batch {batch_size}  {precision}  {each * 1000:7.2f} ms a picture"
                      f"  {row['ratio']:4.1f}x", flush=True)  # fmt: skip
    if options.output:
        record("inference", rows, options.output)


if __name__ == "__main__":
    main()
