"""Exact pixel metrics against scikit-learn and against a plain argsort-and-cumsum AUPRO.

Run: python benchmarks/metrics.py [--pixels N] [--repeats N] [--output FILE]

Each row times both sides on the same maps in the same process, best of the repeats, and says
how far their results lie apart. Peak memory is what a call allocates beyond its input, from one
more call that is not timed.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import record
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from ad.core import metrics

SIDE = 256


def main() -> None:
    """Time every pair and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, default=35_000_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()

    maps, masks = pictures(max(2, round(args.pixels / SIDE**2)))
    size = f"{maps.size / 1e6:.1f} M pixels, {masks.mean():.1%} defective"
    print(f"{size}; input {maps.nbytes / 2**20:.0f} MiB of maps\n")
    flat, truth = maps.ravel(), masks.ravel()

    def all_plainly() -> float:
        roc_auc_score(truth, flat)
        average_precision_score(truth, flat)
        return plain_aupro(maps, masks, 0.3)

    pairs: list[tuple[str, Callable[[], Any], str, Callable[[], Any]]] = [
        (
            "pixel AUROC",
            lambda: metrics.auroc(maps, masks),
            "scikit-learn",
            lambda: roc_auc_score(truth, flat),
        ),
        (
            "pixel AP",
            lambda: metrics.average_precision(maps, masks),
            "scikit-learn",
            lambda: average_precision_score(truth, flat),
        ),
        (
            "AUPRO at 0.3",
            lambda: metrics.aupro(maps, masks, 0.3),
            "argsort and cumsum",
            lambda: plain_aupro(maps, masks, 0.3),
        ),
        (
            "all five pixel metrics",
            lambda: metrics.pixel_metrics(maps, masks)["aupro"],
            "three above",
            all_plainly,
        ),
    ]
    print(
        f"{'':24}{'ours':>9}{'peak':>11}   {'baseline':20}{'time':>9}{'peak':>11}"
        f"{'ratio':>8}{'difference':>12}"
    )
    rows = []
    for name, ours, baseline_name, baseline in pairs:
        seconds, peak, value = measure(ours, args.repeats)
        baseline_seconds, baseline_peak, baseline_value = measure(baseline, args.repeats)
        row = {
            "metric": name,
            "pixels": maps.size,
            "seconds": seconds,
            "peak_mib": peak,
            "baseline": baseline_name,
            "baseline_seconds": baseline_seconds,
            "baseline_peak_mib": baseline_peak,
            "ratio": baseline_seconds / seconds,
            "difference": abs(value - baseline_value),
        }
        rows.append(row)
        print(
            f"{name:24}{seconds:7.2f} s{peak:7.0f} MiB   {baseline_name:20}"
            f"{baseline_seconds:7.2f} s{baseline_peak:7.0f} MiB{row['ratio']:7.1f}x"
            f"{row['difference']:12.1e}"
        )
    if args.output:
        record("metrics", rows, args.output)


def pictures(number: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Noisy maps, two thirds of them with one to three defects that mostly score higher.

    Returns:
        Maps and masks, both ``[number, 256, 256]``.
    """
    rng = np.random.default_rng(0)
    maps = np.empty((number, SIDE, SIDE), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=np.bool_)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    for index in range(number):
        rng.standard_gamma(2, dtype=np.float32, out=maps[index])
        for _ in range(rng.integers(1, 4) if index % 3 else 0):
            row, column = rng.integers(0, SIDE, 2)
            masks[index] |= (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(4, 30) ** 2
        maps[index][masks[index]] += np.float32(rng.uniform(0.5, 4))
    return maps, masks


def plain_aupro(maps: NDArray[np.float32], masks: NDArray[np.bool_], limit: float) -> float:
    """AUPRO the usual way: sort all pixels, cumulate, keep the last of equal scores, integrate."""
    weights = np.zeros(maps.shape)
    num_regions = 0
    for weight, mask in zip(weights, masks, strict=True):
        regions, found = ndimage.label(mask, structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel())
        weight[mask] = 1 / sizes[regions[mask]]
        num_regions += found
    order = np.argsort(-maps.ravel())
    ranked = maps.ravel()[order]
    overlap = np.cumsum(weights.ravel()[order]) / num_regions
    normal = ~masks.ravel()[order]
    false_positive_rate = np.cumsum(normal) / np.count_nonzero(normal)
    last = np.append(ranked[1:] != ranked[:-1], True)
    x = np.append(0, false_positive_rate[last])
    y = np.append(0, overlap[last])
    end = int(np.searchsorted(x, limit, "right"))
    x_curve = np.append(x[:end], limit)
    y_curve = np.append(y[:end], np.interp(limit, x, y))
    return float(np.trapezoid(y_curve, x_curve) / limit)


def measure(call: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Best time in seconds, peak of allocated memory in MiB, and the result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = call()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return min(seconds), peak, float(value)


if __name__ == "__main__":
    main()
