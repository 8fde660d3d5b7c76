"""Figures on real pictures: every model with pretrained weights at hand, on two data sets.

Each run is one `ad train` in a process of its own, so that time and peak memory are its own.

    AD_WEIGHTS=../shared/weights python benchmarks/accuracy.py --data ../shared/data \
        --output benchmarks/results/accuracy.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from record import record

# Holdout 0: learn from all training pictures, as the papers do.
RUNS = [
    ("mtd", "all", "patchcore-resnet18", ["--set", "coreset_ratio=0.00125"]),
    ("mtd", "all", "patchcore-resnet18", ["--set", "coreset_ratio=0.01"]),
    ("mtd", "all", "padim-resnet18", []),
    ("mtd", "all", "dfkde", ["--set", "backbone=resnet18", "--set", "layers=layer3"]),
    ("mvtec", "hazelnut_toy", "patchcore-resnet18", []),
    ("mvtec", "hazelnut_toy", "padim-resnet18", []),
    (
        "mvtec", "hazelnut_toy", "dfkde", ["--set", "backbone=resnet18", "--set", "layers=layer3"],
    ),
]  # fmt: skip


def run(data: Path, dataset: str, category: str, model: str, extra: list[str]) -> dict[str, object]:
    """Train once and return what the command printed, with the command itself."""
    root = data / "mtd" if dataset == "mtd" else data
    command = ["train", dataset, category, model, "--holdout", "0", *extra]
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
    parser.add_argument("--data", type=Path, required=True, help="folder with mtd, hazelnut_toy")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for dataset, category, model, extra in RUNS:
        row = run(options.data, dataset, category, model, extra)
        rows.append(row)
        figures = {k: v if v is None else round(v, 4) for k, v in row["metrics"].items()}
        print(row["command"], figures, row["seconds"], flush=True)
    if options.output:
        record("accuracy", rows, options.output)


if __name__ == "__main__":
    main()
