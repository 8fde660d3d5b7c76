"""CPU seconds before and after what makes steps and batches cheaper on CPUs, both in one run.

    python benchmarks/steps.py [--rounds N] [--models A,B] [--output FILE]

* A step of models that learn by Adam: torch's own form of it, and the one pass of
  `ad.core.learning.fused_adam`. Features of frozen networks are kept, precision is bf16.
* A picture of EfficientAD, alone and of a batch of eight: all at once, and one by one.

Seeded noise as pictures and random weights: neither changes the time. The sides take turns, and the
median counts.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from inference import SIZE, cpu, learnt
from record import record
from torch import Tensor

from ad.core import Callback, LoopState, ModelRegistry, PictureSet, Setup, fit, load_trainer
from ad.distill import pdn
from ad.distill.efficientad import network

STEPS, WARM = 4, 2
"""Of a round: those that count, and those before."""
LEARNING: dict[str, tuple[int, int, dict[str, object]]] = {
    "autoencoder": (256, 8, {}),
    "reverse-distillation-resnet18": (256, 8, {}),
    "draem": (128, 4, {"width": 32}),
}
"""Side of the pictures, how many of them in a batch, and options."""
PREDICTING = "efficientad-small"
BATCHES = (1, 8)


class Clock(Callback):
    """Notes when each step is done, and what optimisers took of it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.optimizers: list[float] = []
        self._began = self._taken = 0.0

    def begin(self, *_: object) -> None:
        """An optimiser begins."""
        self._began = cpu()

    def end(self, *_: object) -> None:
        """An optimiser has done its step."""
        self._taken += cpu() - self._began

    def on_batch_end(self, state: LoopState) -> None:
        """Note it."""
        self.times.append(cpu())
        self.optimizers.append(self._taken)
        self._taken = 0.0


def steps(name: str, *, fused: bool) -> list[tuple[float, float]]:
    """CPU seconds of some steps, and of their optimisers."""
    size, batch_size, options = LEARNING[name]
    spec = ModelRegistry.get(name)
    setup = Setup(img_size=size, normalize=spec.train["normalize"], batch_size=batch_size,
                  num_steps=WARM + STEPS, weights="random", precision="bf16")  # fmt: skip
    trainer = load_trainer(spec)(setup, **{**spec.model, **options})
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(2 * batch_size)]
    clock = Clock()
    own = trainer.optimizers

    def watched(total_steps: int) -> object:
        made = own(total_steps)
        for each in made:
            each.optimizer.register_step_pre_hook(clock.begin)
            each.optimizer.register_step_post_hook(clock.end)
            if not fused:
                for group in each.optimizer.param_groups:
                    group["fused"] = False  # a form that was chosen is kept
        return made

    trainer.optimizers = watched  # type: ignore[method-assign]
    fit(trainer, PictureSet(noise, size, cache=True), callbacks=[clock])
    whole = np.diff(clock.times)[WARM - 1 :]
    return list(zip(whole.tolist(), clock.optimizers[WARM:], strict=True))


def learning(name: str, rounds: int) -> list[dict[str, object]]:
    """Both forms of Adam in turns."""
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for _ in range(rounds):
        for fused, measured in found.items():
            measured += steps(name, fused=fused)
    rows: list[dict[str, object]] = []
    plain = 0.0
    for fused, measured in found.items():
        whole, optimizer = (statistics.median(each) for each in zip(*measured, strict=True))
        plain = plain or whole
        rows.append({
            "model": name,
            "what": "a step",
            "case": "one pass" if fused else "torch's own Adam",
            "batch_size": LEARNING[name][1],
            "cpu_seconds": whole,
            "optimizer_cpu_seconds": optimizer,
            "ratio": plain / whole,
        })  # fmt: skip
    return rows


def predicting(rounds: int) -> list[dict[str, object]]:
    """A batch at once and one by one in turns, beside a picture alone."""
    detector = learnt(PREDICTING, "bf16", torch.device("cpu"))
    images = torch.rand(max(BATCHES), 3, SIZE, SIZE)
    one_by_one = pdn.by_pictures
    found: dict[tuple[str, int], list[float]] = {}

    def at_once(compute: Callable[..., Tensor], *batches: Tensor) -> Tensor:
        return compute(*batches)

    for _ in range(1 + rounds):  # the first warms up
        for batch_size in BATCHES:
            for case, how in (("at once", at_once), ("one by one", one_by_one)):
                with ExitStack() as patches, torch.inference_mode():
                    for module in (pdn, network):
                        patches.enter_context(mock.patch.object(module, "by_pictures", how))
                    began = cpu()
                    detector(images[:batch_size])
                    taken = (cpu() - began) / batch_size
                    found.setdefault((case, batch_size), []).append(taken)
    rows: list[dict[str, object]] = []
    for (case, batch_size), times in found.items():
        each = statistics.median(times[1:])
        before = statistics.median(found["at once", batch_size][1:])
        rows.append({"model": PREDICTING, "what": "a picture", "case": case,
                     "batch_size": batch_size, "cpu_seconds": each,
                     "ratio": before / each})  # fmt: skip
    return rows


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", type=lambda names: names.split(","), default=[*LEARNING])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for measured in [
        *(lambda name=name: learning(name, options.rounds) for name in options.models),
        lambda: predicting(options.rounds + 1),
    ]:
        for row in measured():
            rows.append(row)
            of_it = row.get("optimizer_cpu_seconds")
            share = "" if of_it is None else f", Adam {1000 * of_it:.0f} ms"
            print(f"{row['model']:30} {row['what']:9} batch {row['batch_size']}"
                  f"  {row['case']:17} {1000 * row['cpu_seconds']:6.0f} ms of CPU{share}"
                  f"  {row['ratio']:.2f}x", flush=True)  # fmt: skip
    if options.output:
        record("steps", rows, options.output)


if __name__ == "__main__":
    main()
