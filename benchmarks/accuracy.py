"""Figures on real pictures: the models of a family with pretrained weights at hand, two data sets.

Each run is one `ad train` in a process of its own, so that time and peak memory are its own.

    AD_WEIGHTS=../shared/weights python benchmarks/accuracy.py memory --data ../shared/data \
        --output benchmarks/results/accuracy_memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record

# Holdout 0: learn from all training pictures, as the papers do. What is drawn at random moves
# AUROC by some hundredths, so that small coresets and PaDiM's channels are drawn three times.
SMALL = ["--set", "coreset_ratio=0.00125"]
LAYER3 = ["--set", "backbone=resnet18", "--set", "layers=layer3"]
SEEDS = [["--seed", "0"], ["--seed", "1"], ["--seed", "2"]]
RUNS = {
    "memory": [
        *(("mtd", "all", "patchcore-resnet18", [*SMALL, *seed]) for seed in SEEDS),
        ("mtd", "all", "patchcore-resnet18", ["--set", "coreset_ratio=0.01"]),
        ("mtd", "all", "patchcore-resnet18", []),
        *(("mtd", "all", "padim-resnet18", seed) for seed in SEEDS),
        ("mtd", "all", "dfkde", LAYER3),
        ("mvtec", "hazelnut_toy", "patchcore-resnet18", ["--set", "coreset_ratio=0.01"]),
        ("mvtec", "hazelnut_toy", "patchcore-resnet18", []),
        ("mvtec", "hazelnut_toy", "padim-resnet18", []),
        ("mvtec", "hazelnut_toy", "dfkde", LAYER3),
    ],
    # Far fewer steps on MTD than the catalogue's 50 epochs, which are 2,400 and 4,800.
    "distill": [
        ("mtd", "all", "fre-resnet18", []),
        ("mtd", "all", "stfpm-resnet18", ["--steps", "300"]),
        ("mtd", "all", "reverse-distillation-resnet18", ["--steps", "300"]),
        ("mvtec", "hazelnut_toy", "fre-resnet18", []),
        ("mvtec", "hazelnut_toy", "stfpm-resnet18", []),
        ("mvtec", "hazelnut_toy", "reverse-distillation-resnet18", []),
    ],
}


def run(data: Path, dataset: str, category: str, model: str, extra: list[str]) -> dict[str, object]:
    """Train once and return what the command printed, with the command itself."""
    root = data / "mtd" if dataset == "mtd" else data
    command = ["train", dataset, category, model, "--holdout", "0", "--no-report", *extra]
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys; from ad.core.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *command, "--data-root", str(root),
             "--output", f"{folder}/run", "--json"],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
    result = json.loads(done.stdout)
    return {
        "dataset": category if dataset == "mvtec" else dataset,
        "model": model,
        "command": f"ad {' '.join(command)} --data-root {root.name}",
        "metrics": result["metrics"],
        "resolution": result["resolution"],
        "seconds": result["seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def main() -> None:
    """Train all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=RUNS)
    parser.add_argument("--data", type=Path, required=True, help="folder with mtd, hazelnut_toy")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for dataset, category, model, extra in RUNS[options.family]:
        row = run(options.data, dataset, category, model, extra)
        rows.append(row)
        figures = {k: v if v is None else round(v, 4) for k, v in row["metrics"].items()}
        print(row["command"], figures, row["seconds"], flush=True)
    if options.output:
        record(f"accuracy of ad-{options.family}", rows, options.output)


if __name__ == "__main__":
    main()
