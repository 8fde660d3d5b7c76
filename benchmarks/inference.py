"""Seconds a picture of detectors at 256 x 256: fp32, bf16, compiled; one picture and eight at once.

    python benchmarks/inference.py [--device cuda] [--rounds N] [--models A,B] [--output FILE]

From pictures in memory to scores and maps. Seeded noise as pictures, random weights and one step of
learning: none of them changes the time. The forms take turns, and the median of the rounds counts;
beside the time are CPU seconds, those of all threads together, for machines that others use. What
compiling takes is told, and from how many pictures on it has paid.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from record import record
from torch import Tensor

from ad.core import (
    Detector,
    ModelRegistry,
    PictureSet,
    Precision,
    Prediction,
    Setup,
    fit,
    load_trainer,
)

SIZE = 256
MODELS = ("fre-resnet18", "stfpm-resnet18", "reverse-distillation-resnet18", "efficientad-small")
FORMS: tuple[tuple[Precision, bool], ...] = (("fp32", False), ("bf16", False), ("bf16", True))
"""Precisions, and whether compiled as `ad.core.load(..., compile=True)` does it."""
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
    return trainer.detector.eval().requires_grad_(False)


def cpu() -> float:
    """CPU seconds of this process and of those that it waited for, such as compilers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def seconds(detector: Callable[[Tensor], Prediction], images: Tensor) -> tuple[float, float]:
    """Time and CPU seconds of one batch."""
    start, used = time.perf_counter(), cpu()
    with torch.inference_mode():
        detector(images).score.cpu()  # waits for a GPU
    return time.perf_counter() - start, cpu() - used


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--models", type=lambda names: names.split(","), default=MODELS)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = []
    for name in options.models:
        detectors = {precision: learnt(name, precision, device) for precision in ("fp32", "bf16")}
        for batch_size in BATCHES:
            images = torch.rand(batch_size, 3, SIZE, SIZE, device=device)
            forms: dict[tuple[Precision, bool], Callable[[Tensor], Prediction]] = {}
            for form in FORMS:
                forms[form] = detectors[form[0]]
                if form[1]:
                    forms[form] = torch.compile(detectors[form[0]], options={"freezing": True})
            first = {form: seconds(detector, images) for form, detector in forms.items()}
            times: dict[tuple[Precision, bool], list[tuple[float, float]]] = {f: [] for f in FORMS}
            for _ in range(1 + options.rounds):
                for form, detector in forms.items():
                    times[form].append(seconds(detector, images))
            middle = {
                form: [
                    statistics.median(each) / batch_size for each in zip(*found[1:], strict=True)
                ]
                for form, found in times.items()  # the first ones warm up
            }
            plain = middle["fp32", False]
            for precision, is_compiled in FORMS:
                each, used = middle[precision, is_compiled]
                row = {"model": name, "batch_size": batch_size, "precision": precision,
                       "compiled": is_compiled, "device": options.device,
                       "seconds_per_image": each, "cpu_seconds_per_image": used,
                       "ratio": plain[0] / each, "cpu_ratio": plain[1] / used}  # fmt: skip
                pays = ""
                if is_compiled:
                    start = first[precision, True][0]
                    saved = middle[precision, False][0] - each
                    row |= {
                        "compile_seconds": start,
                        "pays_from": start / saved if saved > 0 else None,
                    }
                    pays = f"  compiled in {start:.0f} s, pays from "
                    pays += (
                        f"{start / saved:.0f} pictures" if saved > 0 else "no number of pictures"
                    )
                rows.append(row)
                how = precision + ", compiled" * is_compiled
                print(f"{name:30} batch {batch_size}  {how:14}  {each * 1000:7.2f} ms a picture"
                      f"  {row['ratio']:4.2f}x  {used * 1000:7.2f} ms of CPU"
                      f"  {row['cpu_ratio']:4.2f}x{pays}", flush=True)  # fmt: skip
    if options.output:
        record("inference", rows, options.output)


if __name__ == "__main__":
    main()
