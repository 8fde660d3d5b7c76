"""Nearest neighbours against faiss's indices and a matrix of all distances.

    python benchmarks/neighbors.py [--bank M] [--queries Q] [--features D] [--output FILE]
    AD_WEIGHTS=DIR python benchmarks/neighbors.py --data DIR [--embedding NAME] [--output FILE]
        [--keep FILE]

With `--data`, rows are patches of Magnetic Tile Defects seen by a pretrained resnet18, the bank
is a greedy coreset of a tenth of those of good tiles, and queries are whole test pictures.
Without, rows are noise whose variances fall off. Times are seconds of the processor for 1024
queries, one picture's patches; half of the pictures have defects, whose patches are far from all.
`ours, float32` searches without products of whole numbers, as where the processor is no faster at
those. faiss's `ivf` and `hnsw` have PatchCore's defaults and look at some rows only; `build` is
what it takes to make each ready. `--keep` writes bank and queries, and reads them where they are:
a large coreset takes minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from record import record
from torch import Tensor

from ad.core import PictureSet, Setup, get_dataset, resolve_precision, to_device
from ad.core.errors import MissingExtraError
from ad.memory.coreset import k_center_greedy, project
from ad.memory.faiss_index import FaissIndex, FaissSettings, Kind
from ad.memory.neighbors import Index
from ad.memory.patchcore import PatchcoreTrainer

PATCHES = 1024  # of a picture
BASELINE = "all distances"
Search = Callable[[Tensor], tuple[Tensor, Tensor]]


def all_distances(bank: Tensor) -> Search:
    """The whole matrix by `torch.cdist`, then its minimum."""

    def search(queries: Tensor) -> tuple[Tensor, Tensor]:
        distance, index = torch.cdist(queries, bank).min(1, keepdim=True)
        return distance, index

    return search


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bank", type=int, default=40_960)
    parser.add_argument("--queries", type=int, default=16 * PATCHES)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--data", type=Path, help="folder of Magnetic Tile Defects")
    parser.add_argument("--embedding", default="concatenated")
    parser.add_argument("--keep", type=Path, help="of rows, for another time")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with torch.inference_mode():
        bank, queries = _patches(options) if options.data else _noise(options)
        results = _measure(bank, queries, "noise" if options.data is None else "mtd")
    if options.output:
        record("neighbors", results, options.output)


def _measure(bank: Tensor, queries: Tensor, data: str) -> list[dict[str, Any]]:
    pictures = torch.split(queries, PATCHES)
    half = bank.half()
    bank = half.float()
    cases: dict[str, Search] = {BASELINE: all_distances(bank)}
    build = dict.fromkeys(cases, 0.0)

    def add(name: str, make: Callable[[], FaissIndex | Index]) -> None:
        start = time.process_time()
        index = make()
        build[name] = time.process_time() - start
        cases[name] = lambda q: index.search(q, 1)

    def plain() -> Index:
        index = Index(half)
        index.screen = None
        assert index.bounds  # which are made when they are needed
        return index

    try:
        for kind in get_args(Kind):
            add(f"faiss {kind}", lambda kind=kind: FaissIndex(half, FaissSettings(kind)))
    except MissingExtraError:
        print("faiss is not installed; left out")
    add("ours, float32", plain)
    add("ours", lambda: Index(half))
    checked = pictures[:: max(1, len(pictures) // 4)]
    truth = [_brute_force(q, bank) for q in checked]
    seconds = {name: float("inf") for name in cases}
    for search in cases.values():
        search(pictures[0])
    for _ in range(3):  # in turns, so that other work on the machine meets all cases
        for name, search in cases.items():
            start = time.process_time()
            for picture in pictures:
                search(picture)
            passed = (time.process_time() - start) / len(pictures)
            seconds[name] = min(seconds[name], passed)
    print(
        f"{'case':14} {'build s':>8} {'ms / 1024':>10} {'ratio':>6} {'same row':>9} "
        f"{'largest relative error':>23}"
    )
    results = []
    for name, search in cases.items():
        found = [search(q) for q in checked]
        same = [(f[1] == t[1]).float().mean() for f, t in zip(found, truth, strict=True)]
        wrong = [((f[0] - t[0]) / t[0]).abs().max() for f, t in zip(found, truth, strict=True)]
        result = {
            "case": name,
            "data": data,
            "bank": len(bank),
            "features": bank.shape[1],
            "build_seconds": build[name],
            "seconds_per_1024": seconds[name],
            "ratio": seconds[BASELINE] / seconds[name],
            "same_row": float(torch.stack(same).mean()),
            "largest_relative_error": float(torch.stack(wrong).max()),
        }
        results.append(result)
        print(
            f"{name:14} {build[name]:8.1f} {1000 * seconds[name]:10.1f} {result['ratio']:6.2f} "
            f"{result['same_row']:9.5f} {result['largest_relative_error']:23.1e}"
        )
    return results


def _brute_force(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    distance, index = torch.cdist(queries.double(), bank.double()).min(1, keepdim=True)
    return distance, index


def _noise(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    deviation = torch.arange(1, options.features + 1).float().rsqrt()
    rows = torch.randn(options.bank + options.queries, options.features, generator=generator)
    bank, queries = torch.split(rows * deviation, [options.bank, options.queries])
    return bank, queries


def patches_of(paths: list[Path], embedding: str = "concatenated") -> Tensor:
    """What a pretrained resnet18 says of pictures, as PatchCore takes it, ``[N, D]``, float16."""
    cpu = torch.device("cpu")
    setup = Setup(img_size=256, normalize=True, precision=resolve_precision("auto", cpu))
    detector = PatchcoreTrainer(setup, backbone="resnet18", embedding=embedding).detector
    batches = PictureSet(paths, 256).batches(8)
    return torch.cat(
        [detector.embed(to_device(b.pictures, cpu)).flatten(0, 2).half() for b in batches]
    )


def _patches(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    if options.keep and options.keep.exists():
        kept = torch.load(options.keep, weights_only=True)
        pictures = kept["queries"].split(PATCHES)
        count = min(len(pictures), -(-options.queries // PATCHES))
        return kept["bank"], torch.cat(pictures[:: len(pictures) // count][:count])
    samples = get_dataset("mtd").samples(options.data, "all", 0)
    num_train = -(-10 * options.bank // PATCHES)
    train = [s.path for s in samples if s.split == "train"][:num_train]
    test = [s.path for s in samples if s.split == "test"]
    test = test[:: max(1, len(test) * PATCHES // options.queries)]
    rows = patches_of(train, options.embedding)
    bank = rows[k_center_greedy(project(rows), options.bank)]
    queries = patches_of(test, options.embedding)[: options.queries].float()
    if options.keep:
        torch.save({"bank": bank, "queries": queries}, options.keep)
    return bank, queries


if __name__ == "__main__":
    main()
