"""PaDiM's fit and test against a version that stacks all features and inverts in a loop.

    python benchmarks/padim.py [--train N] [--test N] [--data DIR] [--output FILE]

`before` is the memory that imports, network and pictures took before the fit began.
Each runs in a process of its own, so that the peak memory is its own too. Both get the same
decoded pictures, the same network and the same channels; the scores must agree.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from record import record
from torch import Tensor

from ad.core import PictureSet, Setup, get_dataset, resolve_precision, to_device
from ad.memory.padim import PadimTrainer

CPU = torch.device("cpu")
SIZE, BATCH = 256, 8


def ours(train: Tensor, test: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """`ad.memory.padim` as it is."""
    trainer = _trainer(options)

    def fit() -> None:
        trainer.begin(len(train))
        for part in _batches(train):
            trainer.observe(trainer.extract(part))
        trainer.conclude()

    return _measured(fit, lambda images: trainer.detector(images).score, test)


def stacked(train: Tensor, test: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """All features of all pictures in memory, then a covariance and an inverse per position."""
    trainer = _trainer(options)
    trainer.begin(len(train))  # draws the same channels
    detector = trainer.detector
    subset = detector.embedding
    starts = np.cumsum([0, *subset.channels[:-1]]).tolist()
    chosen = torch.cat([subset.get_buffer(f"channels_{i}") + at for i, at in enumerate(starts)])
    learnt: dict[str, Tensor] = {}

    def embed(images: Tensor) -> Tensor:
        maps = [m.float() for m in detector.extractor(images)]
        grid = maps[0].shape[-2:]
        patches = torch.cat([F.interpolate(m, size=grid, mode="nearest") for m in maps], dim=1)
        return patches.index_select(1, chosen).flatten(2)  # [B, D, h * w]

    def fit() -> None:
        stack = torch.cat([embed(part) for part in _batches(train)])
        identity = np.eye(len(chosen))
        covariances = torch.empty(stack.shape[2], len(chosen), len(chosen))
        for position in range(stack.shape[2]):
            seen = stack[:, :, position].numpy()
            covariance = np.cov(seen, rowvar=False) + detector.gaussians.eps * identity
            covariances[position] = torch.from_numpy(covariance)
        learnt["mean"] = stack.mean(dim=0).T  # [h * w, D]
        learnt["inverse"] = torch.linalg.inv(covariances)

    def score(images: Tensor) -> Tensor:
        gap = embed(images).permute(2, 0, 1) - learnt["mean"][:, None]
        distances = (torch.bmm(gap, learnt["inverse"]) * gap).sum(dim=-1).clamp_min(0).sqrt()
        side = SIZE // 4
        grid = distances.T.reshape(-1, 1, side, side)
        large = F.interpolate(grid, size=SIZE, mode="bilinear", align_corners=False)[:, 0]
        smooth: Tensor = detector.blur(large)
        return smooth.amax(dim=(1, 2))

    return _measured(fit, score, test)


CASES = {"stacked": stacked, "ours": ours}
BASELINE = "stacked"


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=400, help="pictures to learn from")
    parser.add_argument("--test", type=int, default=64, help="pictures to score")
    parser.add_argument("--n-features", type=int, default=100)
    parser.add_argument("--data", type=Path, help="Magnetic Tile Defects; seeded noise by default")
    parser.add_argument("--weights", default="random", help="auto, random or a file")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", choices=CASES, help="measure one, print JSON")
    options = parser.parse_args()
    if options.only:
        with torch.inference_mode():
            print(json.dumps(CASES[options.only](*_pictures(options), options)))
        return
    rows = {name: {"case": name, **_in_own_process(name)} for name in CASES}
    scores = {name: np.array(row.pop("scores")) for name, row in rows.items()}
    difference = float(np.abs(scores["ours"] / scores[BASELINE] - 1).max())
    print(f"{'case':10} {'fit s':>8} {'test s/image':>14} {'peak GiB':>10} {'before':>8}")
    for row in rows.values():
        print(
            f"{row['case']:10} {row['fit_seconds']:8.2f} {row['test_seconds_per_image']:14.4f} "
            f"{row['peak_gib']:10.2f} {row['peak_gib_before']:8.2f}"
        )
    ratios = {
        key: rows[BASELINE][key] / rows["ours"][key]
        for key in ("fit_seconds", "test_seconds_per_image", "peak_gib")
    }
    print("ratio      " + "  ".join(f"{key} {value:.1f}" for key, value in ratios.items()))
    print(f"largest relative difference of the scores: {difference:.1e}")
    if options.output:
        summary = {"case": "ratio", **ratios, "largest_score_difference": difference}
        record("padim", [*rows.values(), summary], options.output)


def _in_own_process(name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _measured(
    fit: Callable[[], None], score: Callable[[Tensor], Tensor], test: Tensor
) -> dict[str, Any]:
    before = _peak_gib()
    start = time.perf_counter()
    fit()
    fitted = time.perf_counter()
    scores = torch.cat([score(part) for part in _batches(test)])
    done = time.perf_counter()
    return {
        "fit_seconds": fitted - start,
        "test_seconds_per_image": (done - fitted) / len(test),
        "peak_gib": _peak_gib(),
        "peak_gib_before": before,
        "scores": scores.tolist(),
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _trainer(options: argparse.Namespace) -> PadimTrainer:
    setup = Setup(
        img_size=SIZE,
        normalize=True,
        batch_size=BATCH,
        weights=options.weights,
        precision=resolve_precision("auto", CPU),
    )
    return PadimTrainer(setup, backbone="resnet18", n_features=options.n_features)


def _batches(pictures: Tensor) -> Iterator[Tensor]:
    return (to_device(part, CPU) for part in torch.split(pictures, BATCH))


def _pictures(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    if options.data is None:
        generator = torch.Generator().manual_seed(0)
        shape = (options.train + options.test, SIZE, SIZE, 3)
        pictures = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        return pictures[: options.train], pictures[options.train :]
    samples = get_dataset("mtd").samples(options.data, "all", 0)
    train = [s.path for s in samples if s.split == "train"][: options.train]
    test = [s.path for s in samples if s.split == "test"][: options.test]
    return _decoded(train), _decoded(test)


def _decoded(paths: list[Path]) -> Tensor:
    return torch.cat([batch.pictures for batch in PictureSet(paths, SIZE).batches(32)])


if __name__ == "__main__":
    main()
