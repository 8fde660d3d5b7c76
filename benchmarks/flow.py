"""Flows against their plain construction: CPU time of a step and of inference, and memory.

    python benchmarks/flow.py [--steps N] [--only NAME] [--output FILE]

Plain is how they were published: FrEIA's own coupling blocks, whose permutation is a convolution,
features anew at each step, float32, and CFlow's 256 fibres at a time. Beside both stands a bound:
the convolutions and products of the flow alone, without its backbone, as oneDNN does them. Seeded
noise as pictures and random weights: neither changes the time.

Each case has a process of its own, so that the peak of memory is its own. The processes take turns,
a step or a pass each, and what counts is the least CPU time of several: what else runs on the
machine then weighs little, and alike on all. The first two steps, in which pictures are decoded,
are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
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
CASES = [
    ("plain", "fp32"),
    ("ours", "fp32"),
    ("ours", "bf16"),
    ("layers alone", "fp32"),
    ("layers alone", "bf16"),
]


class Turns(Callback):
    """Tells the CPU time of each step or pass, and then waits to be asked for the next."""

    def __init__(self) -> None:
        sys.stdin.readline()
        self.start = time.process_time()

    def on_batch_end(self, state: LoopState) -> None:
        """Tell that of a step."""
        self.tell("seconds_per_step")

    def tell(self, what: str, count: int = 1, *, seconds: float | None = None) -> None:
        """Tell it, or what was measured otherwise, of one of some like things, and wait."""
        taken = time.process_time() - self.start if seconds is None else seconds
        print(json.dumps({what: taken / count}), flush=True)
        sys.stdin.readline()
        self.start = time.process_time()


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


class Layers(Callback):
    """The convolutions and products that a flow learns, as one step calls them."""

    def __init__(self, detector: torch.nn.Module, precision: str) -> None:
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.calls: list[tuple[torch.nn.Module, torch.Size]] = []
        self.hooks = [
            layer.register_forward_pre_hook(
                lambda layer, inputs: self.calls.append((layer, inputs[0].shape))
            )
            for layer in detector.modules()
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.weight.requires_grad
        ]  # fmt: skip

    def on_batch_end(self, state: LoopState) -> None:
        """Note no more calls: what comes after the step is no part of it."""
        for hook in self.hooks:
            hook.remove()
        self.calls = [
            (copy.deepcopy(layer).to(self.dtype).requires_grad_(), shape)
            for layer, shape in self.calls
        ]
        self.forget()

    def forget(self) -> None:
        """Forget how long each took."""
        self.least = [float("inf")] * len(self.calls)

    def run(self) -> float:
        """CPU seconds of all, and backward where gradients are: the least of each so far."""
        learns = torch.is_grad_enabled()
        for number, (layer, shape) in enumerate(self.calls):
            layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
            x = torch.randn(shape, dtype=self.dtype).to(memory_format=layout).requires_grad_(learns)
            gradient = torch.ones_like(layer(x))
            start = time.process_time()
            said = layer(x)
            if learns:
                torch.autograd.backward(said, gradient)
            self.least[number] = min(self.least[number], time.process_time() - start)
            layer.zero_grad()
        return sum(self.least)


def work(name: str, construction: str, precision: str, steps: int) -> None:
    """One case: tells of some steps, and of passes of the whole and of its backbone alone."""
    spec = ModelRegistry.get(name)
    own, plain = MODELS[name]
    kind = load_trainer(spec)
    if construction == "plain":
        use_published_blocks()
    bound = construction == "layers alone"
    setup = Setup(
        img_size=SIZE, normalize=spec.train["normalize"], batch_size=BATCH,
        num_steps=1 if bound else steps + 2, weights="random", precision=precision,
    )  # fmt: skip
    trainer = kind(setup, **{**spec.model, **own, **(plain if construction == "plain" else {})})
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2 * BATCH)]
    turns = Turns()
    pictures = PictureSet(noise, SIZE, cache=True)
    detector = trainer.detector
    if bound:
        layers = Layers(detector, precision)
        fit(trainer, pictures, callbacks=[layers])
        for _ in range(steps + 2):
            turns.tell("seconds_per_step", seconds=layers.run())
        layers.forget()
        with torch.no_grad():  # what a batch has in a step, it has at work
            for _ in range(steps + 1):
                what = f"inference_seconds_per_image_of_{BATCH}"
                turns.tell(what, BATCH, seconds=layers.run())
        return
    fit(trainer, pictures, feature_cache=construction == "ours", callbacks=[turns])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    detector.eval()
    with torch.inference_mode():
        for count in (1, BATCH):
            images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
            both = {"inference": detector, "backbone": detector.extractor}
            for _ in range(steps + 1):
                for what, network in both.items():
                    turns.start = time.process_time()
                    network(images)
                    turns.tell(f"{what}_seconds_per_image_of_{count}", count)
    print(json.dumps({"peak_memory_bytes": peak}), flush=True)


def measured(name: str, steps: int) -> list[dict[str, Any]]:
    """All cases of a model, which take turns: the least of what each tells."""
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--steps", str(steps), "--case", name, *case],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for case in CASES
    ]  # fmt: skip
    told: list[dict[str, list[float]]] = [{} for _ in workers]
    busy = dict(enumerate(workers))
    while busy:
        for number, worker in list(busy.items()):
            assert worker.stdin is not None
            assert worker.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it told all, and has ended
                worker.stdin.write("\n")
                worker.stdin.flush()
            line = worker.stdout.readline()
            if not line:
                del busy[number]
                if worker.wait():
                    sys.exit(f"{CASES[number]} of {name} failed")
                continue
            for what, value in json.loads(line).items():
                told[number].setdefault(what, []).append(value)
    # Two steps in which pictures are decoded or caches filled; a pass before the others.
    skipped = {"seconds_per_step": 2, "peak_memory_bytes": 0}
    return [
        {what: min(values[skipped.get(what, 1) :]) for what, values in case.items()}
        for case in told
    ]


def report(row: dict[str, Any]) -> str:
    """A case in a line."""
    parts = [f"step {row['seconds_per_step']:6.2f} s {row['seconds_per_step_ratio']:5.1f}x"]
    for count in (1, BATCH):
        if f"inference_seconds_per_image_of_{count}" in row:
            parts.append(
                f"at {count}: {row[f'inference_seconds_per_image_of_{count}'] * 1e3:4.0f} ms"
            )
        if f"backbone_seconds_per_image_of_{count}" in row:
            backbone = row[f"backbone_seconds_per_image_of_{count}"]
            parts.append(f"backbone {backbone * 1e3:3.0f} ms")
    if "peak_memory_bytes" in row:
        parts.append(f"{row['peak_memory_bytes'] / 2**30:.2f} GiB")
    return "  ".join(["", *parts])


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--only", default="", help="models whose name has this text")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    if options.case:
        work(*options.case, options.steps)
        return
    rows = []
    for name in MODELS:
        if options.only not in name:
            continue
        found = measured(name, options.steps)
        for (construction, precision), row in zip(CASES, found, strict=True):
            ratios = {f"{key}_ratio": found[0][key] / value for key, value in row.items()}
            case = {"model": name, "construction": construction, "precision": precision}
            rows.append({**case, "batch_size": BATCH, **row, **ratios})
            print(f"{name:20} {construction:12} {precision}{report(rows[-1])}", flush=True)
    if options.output:
        record("flows against their plain construction", rows, options.output)


if __name__ == "__main__":
    main()
