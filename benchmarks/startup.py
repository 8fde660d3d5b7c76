"""CPU seconds of light commands against importing torch, each in a fresh process.

python benchmarks/startup.py [--repeats N] [--output FILE]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

from record import record

CASES = {
    "python -c pass": "pass",
    "ad --help": "import sys; sys.argv = ['ad', '--help']; from ad.core.cli import main; main()",
    "ad models": "import sys; sys.argv = ['ad', 'models']; from ad.core.cli import main; main()",
    "import ad.core, ad.memory": "import ad.core, ad.memory",
    "import torch": "import torch",
    "import timm": "import timm",
    "a frozen ResNet-18": """
from ad.core import Setup
from ad.core.networks import FeatureExtractor
setup = Setup(img_size=256, normalize=True, weights="random")
FeatureExtractor("resnet18", ("layer2", "layer3"), setup=setup)
""",
}
BASELINE = "import torch"


def cpu_seconds(code: str) -> float:
    """User and system time of one fresh interpreter."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    seconds = {
        name: min(cpu_seconds(code) for _ in range(options.repeats)) for name, code in CASES.items()
    }
    rows = [
        {"case": name, "cpu_seconds": value, "ratio": value / seconds[BASELINE]}
        for name, value in seconds.items()
    ]
    print(f"{'case':28} {'CPU s':>8} {'ratio to ' + BASELINE:>22}")
    for row in rows:
        print(f"{row['case']:28} {row['cpu_seconds']:8.3f} {row['ratio']:22.3f}")
    if options.output:
        record("startup", rows, options.output)


if __name__ == "__main__":
    main()
