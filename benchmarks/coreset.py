"""Greedy coreset against a pass over all rows for each pick.

    python benchmarks/coreset.py [--loop-picks N] [--output FILE]
    AD_WEIGHTS=DIR python benchmarks/coreset.py --data DIR [--rows N] [--projected] [...]

Rows are noise, 40,960 of 384 features, of which 4,000 are picked; with `--data`, also patches of
good Magnetic Tile Defects seen by a pretrained resnet18, of which a tenth is picked: those of 28
pictures, from which a fold of 31 is learnt, and as many as are asked for. With `--projected` only
the latter, and beside the norm loop only what chooses from rows of 128 features. Times are seconds
of the processor. `norm loop` is the plain way: `norm(rows - rows[pick])`, its minimum with the
keys, `argmax`. `product loop` uses |a|^2 - 2 a b + |b|^2, one matrix-vector product for each pick.
`all pairs, float32` is the bare matmul of all rows and all picks. These three do the same for each
pick, so that some of them are made and their seconds are scaled. `ours, float64` brings outdated
keys up to date by matmuls in float64 alone. All start from the same keys. `same picks` is at how
many places of those compared a case picks what `ours, float64` does, or the norm loop.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from neighbors import PATCHES, patches_of
from record import record
from torch import Tensor

from ad.core import get_dataset
from ad.memory import picking
from ad.memory.coreset import k_center_greedy, project

BASELINE = "norm loop"
BEFORE = "ours, float64"
PROJECTED = ("projected, float64", "projected, ours")


def norm_loop(rows: Tensor, picks: int) -> Tensor:
    """The rule as it is written."""
    key = _first_key(rows)
    chosen = torch.empty(picks, dtype=torch.int64)
    for number in range(picks):
        pick = key.argmax()
        chosen[number] = pick
        key = torch.minimum(key, torch.linalg.norm(rows - rows[pick], dim=1))
        key[pick] = -1
    return chosen


def product_loop(rows: Tensor, picks: int) -> Tensor:
    """The rule with squared distances from norms and products, all in place."""
    key = _first_key(rows).square()
    rows = rows - rows.mean(0)
    norm = rows.square().sum(1)
    square = torch.empty_like(key)
    chosen = torch.empty(picks, dtype=torch.int64)
    for number in range(picks):
        pick = int(key.argmax())
        chosen[number] = pick
        torch.addmv(norm, rows, rows[pick], alpha=-2, out=square)
        torch.minimum(key, square.add_(norm[pick]), out=key)
        key[pick] = -1
    return chosen


def float64_alone(rows: Tensor, picks: int) -> Tensor:
    """Ours without bounds."""
    few, picking.FEW = picking.FEW, sys.maxsize
    try:
        return k_center_greedy(rows, picks)
    finally:
        picking.FEW = few


def all_pairs(rows: Tensor, picks: int) -> None:
    """What no method that measures all pairs can be below."""
    rows = rows.float()
    for some in torch.split(rows, 512):
        for others in torch.split(rows[:picks], 1024):
            torch.mm(some, others.T)


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=131_072, help="patches of pictures")
    parser.add_argument("--data", type=Path, help="folder of Magnetic Tile Defects")
    parser.add_argument("--loop-picks", type=int, help="that the loops make; all by default")
    parser.add_argument("--projected", action="store_true", help="as the catalogue chooses")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = []
    if not options.projected:
        noise = torch.randn(40_960, 384, generator=torch.Generator().manual_seed(0))
        results += _measure("noise", noise, 4000, options)
    if options.data:
        rows = _patches(options.data, options.rows)
        for count in (len(rows),) if options.projected else (28 * PATCHES, len(rows)):
            results += _measure("mtd", rows[:count], count // 10, options)
    if options.output:
        record("coreset", results, options.output)


def _measure(
    data: str, rows: Tensor, picks: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    made = min(picks, options.loop_picks or picks)
    projected = project(rows)
    cases: dict[str, tuple[Callable[[Tensor, int], Tensor | None], Tensor, int]] = {
        BASELINE: (norm_loop, rows.float(), made),
        "product loop": (product_loop, rows.float(), made),
        "all pairs, float32": (all_pairs, rows, min(picks, 1024)),
        BEFORE: (float64_alone, rows, picks),
        "ours": (k_center_greedy, rows, picks),
        PROJECTED[0]: (float64_alone, projected, picks),
        PROJECTED[1]: (k_center_greedy, projected, picks),
    }
    if options.projected:
        cases = {name: case for name, case in cases.items() if name in (BASELINE, *PROJECTED)}
    k_center_greedy(rows[:2000], 100)  # the first call sets up the threads
    results: list[dict[str, Any]] = []
    truth: dict[int, Tensor] = {}  # picks from the rows and from projected ones
    for name, (case, some, count) in cases.items():
        start = time.process_time()
        found = case(some, count)
        seconds = (time.process_time() - start) * picks / count
        same = compared = None
        if found is not None:
            known = truth.setdefault(some.shape[1], found)
            compared = min(len(known), len(found))
            same = int((known[:compared] == found[:compared]).sum())
            if name == BEFORE:
                truth[some.shape[1]] = found  # all of them
        results.append(
            {
                "case": name,
                "rows": len(rows),
                "features": rows.shape[1],
                "picks": picks,
                "picks_made": count,
                "compared": compared,
                "data": data,
                "seconds": seconds,
                "ratio": results[0]["seconds"] / seconds if results else 1.0,
                "same_picks": same,
            }
        )
        row = results[-1]
        print(
            f"{data:6} {name:20} {seconds:9.2f} s {row['ratio']:8.1f} {same} of {compared}",
            flush=True,
        )
    return results


def _patches(folder: Path, count: int) -> Tensor:
    """Of good pictures evenly among those to train on."""
    samples = get_dataset("mtd").samples(folder, "all", 0)
    paths = [sample.path for sample in samples if sample.split == "train"]
    pictures = -(-count // PATCHES)
    with torch.inference_mode():
        return patches_of(paths[:: len(paths) // pictures][:pictures])[:count]


def _first_key(rows: Tensor) -> Tensor:
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:10]
    return torch.stack([torch.linalg.norm(rows - rows[i], dim=1) for i in start]).mean(dim=0)


if __name__ == "__main__":
    main()
