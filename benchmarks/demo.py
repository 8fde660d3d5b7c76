"""What `ad demo` finds without pretrained weights: the filter bank against random networks.

python benchmarks/demo.py [--output FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from record import record

from ad.core import train
from ad.core.cli.demo import MODEL, OPTIONS

RANDOM = {"backbone": "resnet18", "embedding": "concatenated", "coreset_ratio": 0.02}
CASES = {
    "filter bank (`ad demo`)": OPTIONS,
    "resnet18, random, layers 1 and 2": {**RANDOM, "layers": ("layer1", "layer2")},
    "resnet18, random, layers 2 and 3": {**RANDOM, "layers": ("layer2", "layer3")},
}


def main() -> None:
    """Train all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for case, model in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            result = train("synthetic", "all", MODEL, weights="random", model=model,
                           output_dir=Path(folder) / "run")  # fmt: skip
        row = {"case": case, "metrics": result.metrics, "seconds": result.seconds,
               "categories": result.evaluation.categories}  # fmt: skip
        rows.append(row)
        figures = {k: round(v, 3) for k, v in result.metrics.items() if v is not None}
        print(f"{case:34} {figures}", flush=True)
    if options.output:
        record("demo", rows, options.output)


if __name__ == "__main__":
    main()
