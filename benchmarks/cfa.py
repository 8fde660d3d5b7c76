"""CFA's step and inference against the plain form, which holds the distances to all centroids.

    python benchmarks/cfa.py [--backbone NAME] [--batch-size N] [--size N] [--output FILE]

What the frozen network says is given, seeded noise in the shape of its maps, so that all that is
measured is CFA's own: descriptions, distances, losses and gradients. Each case runs in a process of
its own; seconds are the processor's; memory is the largest that it took beyond what was there
before, from Linux's account. The losses, gradients and scores of both must agree.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import record
from torch import Tensor

from ad.adapt.cfa import CfaTrainer, in_blocks
from ad.core import LearningBatch, Setup

NEAREST, ALPHA, NU = 3, 0.1, 1e-3
STATUS = Path("/proc/self/status")


def description(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """All layers on the first one's grid, then one convolution: ``[B, h * w, D]``."""
    size = maps[0].shape[2:]
    averages = [F.avg_pool2d(one, 3, stride=1, padding=1) for one in maps]
    layers = [F.interpolate(one, size, mode="bilinear", align_corners=False) for one in averages]
    rows, columns = (torch.linspace(-1, 1, side) for side in size)
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    place = place.expand(len(maps[0]), *place.shape)
    described: Tensor = trainer.detector.descriptor.mix(torch.cat([*layers, place], dim=1))
    return described.flatten(2).mT


def all_squares(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """Squared distances to all centroids: ``[B, h * w, M]``."""
    described = description(trainer, maps)
    centroids = trainer.detector.centroids
    norms = described.square().sum(2, keepdim=True) + centroids.square().sum(1)
    return norms - 2 * described @ centroids.T


def plain_losses(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """Both terms, from all distances."""
    square = all_squares(trainer, maps).topk(2 * NEAREST, dim=2, largest=False).values
    within = trainer.detector.radius.square()
    attraction = (square[..., :NEAREST] - within).relu().mean()
    repulsion = (within - square[..., NEAREST:] - ALPHA).relu().mean()
    return (attraction + repulsion) / NU


def plain_scores(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """Patch scores, from all distances: ``[B * h * w]``."""
    square = all_squares(trainer, maps).topk(NEAREST, dim=2, largest=False).values
    distance = square.clamp_min(0).sqrt()
    return (F.softmin(distance, dim=2)[..., 0] * distance[..., 0]).flatten()


def our_losses(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """As `ad.adapt.cfa` has it."""
    batch = LearningBatch(
        images=maps[0], frozen=tuple(maps), indices=tuple(range(len(maps[0]))), epoch=0, seed=0
    )
    return torch.stack(list(trainer.losses(batch).values())).sum()


def our_scores(trainer: CfaTrainer, maps: list[Tensor]) -> Tensor:
    """As `ad.adapt.cfa` has it."""
    detector = trainer.detector
    parts = in_blocks(maps, detector.centroids.shape[1])
    return torch.cat(
        [detector.patch_score(detector.descriptor(one).flatten(0, 1)) for one in parts]
    )


CASES = {"all distances": (plain_losses, plain_scores), "ours": (our_losses, our_scores)}
BASELINE = "all distances"


def measured(case: str, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one step, or of scoring one batch."""
    trainer, maps = prepared(options)
    losses, scores = CASES[case]
    before = resident_bytes(peak=False)
    start = time.process_time()
    if what == "a step":
        loss = losses(trainer, maps)
        torch.autograd.backward(loss)
        gradient = trainer.detector.descriptor.mix.weight.grad
        assert gradient is not None
        found = [loss.item(), gradient.double().norm().item()]
    else:
        with torch.inference_mode():
            found = scores(trainer, maps)[::97].tolist()
    seconds = time.process_time() - start
    return {"seconds": seconds, "bytes": resident_bytes(peak=True) - before, "found": found}


def prepared(options: argparse.Namespace) -> tuple[CfaTrainer, list[Tensor]]:
    """CFA with centroids, and maps as its network would say them."""
    setup = Setup(img_size=options.size, normalize=True, weights="random")
    trainer = CfaTrainer(setup, backbone=options.backbone)
    generator = torch.Generator().manual_seed(0)
    extractor = trainer.detector.extractor

    def noise(batch_size: int) -> list[Tensor]:
        sides = [options.size // stride for stride in extractor.strides]
        shapes = [(batch_size, *one) for one in zip(extractor.channels, sides, sides, strict=True)]
        drawn = (torch.rand(*shape, generator=generator) for shape in shapes)
        return [one.to(memory_format=torch.channels_last) for one in drawn]

    with torch.no_grad():
        trainer.detector.centroids = trainer.detector.descriptor(noise(1))[0].contiguous()
        return trainer, noise(options.batch_size)


def resident_bytes(*, peak: bool) -> int:
    """Memory of this process now, from where its peak then counts, or that peak."""
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmHWM:" if peak else "VmRSS:"
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="wide_resnet50_2")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs=2, metavar=("CASE", "WHAT"), help="measure one, print JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only[0], options.only[1], options)))
        return
    rows: list[dict[str, Any]] = []
    for what in ("a step", "inference"):
        found: dict[str, dict[str, Any]] = {}
        for case in CASES:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", case, what]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[case] = json.loads(done.stdout)
        numbers = [torch.tensor(one.pop("found"), dtype=torch.float64) for one in found.values()]
        gap = float(((numbers[1] - numbers[0]) / numbers[0]).abs().max())
        for case, one in found.items():
            rows.append({
                "what": what, "case": case, "backbone": options.backbone, "size": options.size,
                "batch_size": options.batch_size, **one,
                "ratio": found[BASELINE]["seconds"] / one["seconds"],
                "memory_ratio": found[BASELINE]["bytes"] / one["bytes"],
                "largest_difference": gap,
            })  # fmt: skip
            print(
                f"{what:10} {case:14} {one['seconds']:7.2f} s {one['bytes'] / 2**30:6.2f} GiB  "
                f"{rows[-1]['ratio']:.1f}x, memory {rows[-1]['memory_ratio']:.1f}x, gap {gap:.0e}",
                flush=True,
            )
    if options.output:
        record("cfa", rows, options.output)


if __name__ == "__main__":
    main()
