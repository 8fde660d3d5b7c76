"""Flows against their plain construction: CPU time of a step and of inference, and memory.

    python benchmarks/flow.py [--steps N] [--only NAME] [--output FILE]

Plain is how they were published: FrEIA's own coupling blocks, whose permutation is a convolution,
features anew at each step, float32, and CFlow's 256 fibres at a time. Seeded noise as pictures and
random weights: neither changes the time. Each case has a process of its own, so that the peak of
memory is its own. The first two steps, in which pictures are decoded, are left out. Seconds are of
CPU time, of the quickest of several, so that what else runs on the machine counts little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

from ad.core import (
    Callback,
    LoopState,
    ModelRegistry,
    PictureSet,
    Setup,
    fit,
    load_trainer,
)

SIZE, BATCH = 256, 8

# A model's row: options for a small backbone where its name has none, and what the plain
# construction has beside FrEIA's blocks.
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "fastflow-resnet18": ({}, {}),
    "cflow-resnet18": ({}, {"fiber_batch": 256}),
    "uflow-resnet18": ({}, {}),
    "csflow": ({"backbone": "mobilenetv2_100", "hidden": 256}, {}),
    "msflow-resnet18": ({}, {}),
}
CASES = [("plain", "fp32"), ("ours", "fp32"), ("ours", "bf16")]


class Clock(Callback):
    """Notes when each step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_batch_end(self, state: LoopState) -> None:
        """Note it."""
        self.times.append(time.process_time())


def use_published_blocks() -> None:
    """Have all flows built of FrEIA's own coupling blocks."""
    from ad.flow.freia import modules

    class Published(modules.AllInOneBlock):  # type: ignore[misc]  # FrEIA has no types
        """FrEIA's block, which draws its permutation from NumPy's global generator."""

        def __init__(self, *args: Any, seed: int, **options: Any) -> None:  # noqa: ANN401
            super().__init__(*args, **options)
            for fixed in ("w_perm", "w_perm_inv"):  # no parameters to an optimiser
                matrix = getattr(self, fixed).data
                delattr(self, fixed)
                self.register_buffer(fixed, matrix)

    for name, module in list(sys.modules.items()):
        if name.startswith("ad.flow.") and hasattr(module, "CouplingBlock"):
            module.CouplingBlock = Published


def quickest(network: torch.nn.Module, images: torch.Tensor, repeats: int) -> float:
    """Seconds of the quickest of some passes, after one that does not count."""
    network(images)
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        network(images)
        taken.append(time.process_time() - start)
    return min(taken)


def measure(name: str, construction: str, precision: str, steps: int) -> dict[str, Any]:
    """One case: seconds of a step, of inference and of its backbone alone, and peak memory."""
    spec = ModelRegistry.get(name)
    own, plain = MODELS[name]
    kind = load_trainer(spec)
    if construction == "plain":
        use_published_blocks()
    setup = Setup(
        img_size=SIZE, normalize=spec.train["normalize"], batch_size=BATCH, num_steps=steps + 2,
        weights="random", precision=precision,
    )  # fmt: skip
    trainer = kind(setup, **{**spec.model, **own, **(plain if construction == "plain" else {})})
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2 * BATCH)]
    clock = Clock()
    fit(
        trainer, PictureSet(noise, SIZE, cache=True), feature_cache=construction == "ours",
        callbacks=[clock],
    )  # fmt: skip
    row: dict[str, Any] = {"seconds_per_step": float(np.diff(clock.times[1:]).min())}
    row["peak_memory_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    detector = trainer.detector.eval()
    with torch.inference_mode():
        for count in (1, BATCH):
            images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
            both = {"inference": detector, "backbone": detector.extractor}
            for what, network in both.items():
                seconds = quickest(network, images, steps) / count
                row[f"{what}_seconds_per_image_of_{count}"] = seconds
    return row


def told(row: dict[str, Any]) -> str:
    """A case in a line."""
    parts = [f"step {row['seconds_per_step']:6.2f} s {row['seconds_per_step_ratio']:5.1f}x"]
    for count in (1, BATCH):
        whole, backbone = (
            row[f"{what}_seconds_per_image_of_{count}"] * 1000 for what in ("inference", "backbone")
        )
        parts.append(f"at {count}: {whole:4.0f} ms, backbone {backbone:3.0f} ms")
    return "  ".join(["", *parts, f"{row['peak_memory_bytes'] / 2**30:.2f} GiB"])


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name has this text")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(*options.case, options.steps)))
        return
    rows = []
    for name in MODELS:
        if options.only not in name:
            continue
        baseline: dict[str, Any] = {}
        for construction, precision in CASES:
            done = subprocess.run(
                [sys.executable, __file__, "--steps", str(options.steps),
                 "--case", name, construction, precision],
                stdout=subprocess.PIPE, check=True, text=True,
            )  # fmt: skip
            row = json.loads(done.stdout.splitlines()[-1])
            baseline = baseline or row
            ratios = {f"{key}_ratio": baseline[key] / value for key, value in row.items()}
            case = {"model": name, "construction": construction, "precision": precision}
            rows.append({**case, "batch_size": BATCH, **row, **ratios})
            print(f"{name:20} {construction:6} {precision}{told(rows[-1])}", flush=True)
    if options.output:
        record("flows against their plain construction", rows, options.output)


if __name__ == "__main__":
    main()
