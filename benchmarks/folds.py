"""Greedy coresets of folds, chosen together, against a fit of each apart.

    AD_WEIGHTS=DIR python benchmarks/folds.py --data DIR [--rounds N] [--output FILE]

Rows are patches of good Magnetic Tile Defects seen by a pretrained resnet18, as they are and
projected to 128 dimensions; a tenth of each fold's is picked. 20 pictures are 20 folds, 31 are
10, as with `--holdout cross`. `apart` projects and picks for each fold by itself, `together` as
PatchCore's folds do. Times are seconds of the processor, the least of the rounds, in which both
take turns. `same picks` is of how many places. `distinct` is how many rows all folds pick between
them, `in common` the mean share of a fold's picks that another has, too: what is kept for others
serves so often.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from neighbors import PATCHES, patches_of
from record import record
from torch import Tensor

from ad.core import get_dataset
from ad.memory.coreset import k_center_greedy, k_center_greedy_of_folds, project

BASELINE = "apart"


def apart(rows: Tensor, folds: Sequence[Tensor], dims: int) -> list[Tensor]:
    """A fit of each fold by itself."""
    found = []
    for own in folds:
        some = project(rows[own], num_dims=dims)
        found.append(k_center_greedy(some if dims < rows.shape[1] else rows[own], len(own) // 10))
    return found


def together(rows: Tensor, folds: Sequence[Tensor], dims: int) -> list[Tensor]:
    """All folds from the same rows."""
    some = project(rows, num_dims=dims) if dims < rows.shape[1] else rows
    return list(k_center_greedy_of_folds(some, folds, [len(own) // 10 for own in folds]))


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Magnetic Tile Defects")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    samples = get_dataset("mtd").samples(options.data, "all", 0)
    paths = [sample.path for sample in samples if sample.split == "train"]
    results = []
    for pictures, num_folds in ((20, 20), (31, 10)):
        with torch.inference_mode():
            rows = patches_of(paths[:: len(paths) // pictures][:pictures])
            for dims in (rows.shape[1], 128):
                results += _measure(rows, num_folds, dims, options.rounds)
    if options.output:
        record("folds", results, options.output)


def _measure(rows: Tensor, num_folds: int, dims: int, rounds: int) -> list[dict[str, Any]]:
    picture = torch.arange(len(rows)) // PATCHES
    folds = [(picture % num_folds != own).nonzero()[:, 0] for own in range(num_folds)]
    cases: dict[str, Callable[[Tensor, Sequence[Tensor], int], list[Tensor]]] = {
        BASELINE: apart,
        "together": together,
    }
    seconds = dict.fromkeys(cases, float("inf"))
    found: dict[str, list[Tensor]] = {}
    for _ in range(rounds):
        for name, case in cases.items():
            start = time.process_time()
            found[name] = case(rows, folds, dims)
            seconds[name] = min(seconds[name], time.process_time() - start)
    picked = [own[picks] for own, picks in zip(folds, found[BASELINE], strict=True)]
    common = [
        torch.isin(one, other).double().mean()
        for one in picked
        for other in picked
        if other is not one
    ]
    results = []
    for name, picks in found.items():
        pairs = zip(picks, found[BASELINE], strict=True)
        results.append(
            {
                "case": name,
                "pictures": len(rows) // PATCHES,
                "folds": num_folds,
                "features": dims,
                "picks": sum(map(len, picks)),
                "distinct": len(torch.cat(picked).unique()),
                "in_common": float(torch.stack(common).mean()),
                "same_picks": sum(int((one == other).sum()) for one, other in pairs),
                "seconds": seconds[name],
                "ratio": seconds[BASELINE] / seconds[name],
            }
        )
        row = results[-1]
        print(
            f"{num_folds} folds of {row['pictures']} pictures, {dims:4} features: {name:9}"
            f"{row['seconds']:7.2f} s {row['ratio']:5.2f}; {row['same_picks']} of {row['picks']} "
            f"the same, {row['distinct']} distinct, {100 * row['in_common']:.0f} % in common",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
