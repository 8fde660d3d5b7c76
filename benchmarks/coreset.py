"""Greedy coreset against a pass over all rows for each pick.

    python benchmarks/coreset.py [--rows N] [--features D] [--picks N] [--data FILE] [--output FILE]

`norm loop` is the plain way: `norm(rows - rows[pick])`, its minimum with the keys, `argmax`.
`product loop` uses |a|^2 - 2 a b + |b|^2, one matrix-vector product for each pick. All start from
the same keys. `same picks` counts the places where a case picks what the norm loop does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import record
from torch import Tensor

from ad.memory.coreset import k_center_greedy, project

BASELINE = "norm loop"


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


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_960)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--picks", type=int, default=4_000)
    parser.add_argument("--data", type=Path, help="rows saved by torch; seeded noise by default")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = _rows(options)
    cases: dict[str, Callable[[Tensor, int], Tensor]] = {
        "ours, projected": lambda rows, picks: k_center_greedy(project(rows), picks),
        "ours": k_center_greedy,
        "product loop": product_loop,
        BASELINE: norm_loop,
    }
    k_center_greedy(rows[:2000], 100)  # the first call sets up the threads
    seconds, picks = {}, {}
    for name, case in cases.items():
        start = time.perf_counter()
        picks[name] = case(rows, options.picks)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
    results: list[dict[str, Any]] = []
    print(
        f"\n{'case':16} {'seconds':>8} {'ratio':>7} {'same picks':>11} {'same set':>9} {'cover':>7}"
    )
    for name in reversed(cases):
        result = {
            "case": name,
            "rows": len(rows),
            "features": rows.shape[1],
            "picks": options.picks,
            "data": "noise" if options.data is None else options.data.name,
            "seconds": seconds[name],
            "ratio": seconds[BASELINE] / seconds[name],
            "same_picks": int((picks[name] == picks[BASELINE]).sum()),
            "same_set": len(set(picks[name].tolist()) & set(picks[BASELINE].tolist())),
            "cover": _cover(rows, picks[name]),
        }
        results.append(result)
        print(
            f"{name:16} {result['seconds']:8.2f} {result['ratio']:7.1f} {result['same_picks']:11} "
            f"{result['same_set']:9} {result['cover']:7.3f}"
        )
    if options.output:
        record("coreset", results, options.output)


def _first_key(rows: Tensor) -> Tensor:
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:10]
    return torch.stack([torch.linalg.norm(rows - rows[i], dim=1) for i in start]).mean(dim=0)


def _cover(rows: Tensor, picks: Tensor) -> float:
    """The largest distance of a row to the picks: what the greedy choice keeps small."""
    chosen = rows[picks]
    return max(float(torch.cdist(part, chosen).amin(1).max()) for part in torch.split(rows, 1024))


def _rows(options: argparse.Namespace) -> Tensor:
    if options.data is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(options.rows, options.features, generator=generator)
    loaded: Tensor = torch.load(options.data, weights_only=True)
    return loaded[: options.rows].float()


if __name__ == "__main__":
    main()
