"""From a shell to the verdict on one picture: a run by torch against what was exported of it.

Each in a fresh process, in turns; CPU seconds, and the memory of the process at its largest.

    python benchmarks/verdict.py RUN PICTURE [--repeats N] [--output FILE]

RUN has an export in it, as `ad export RUN` writes it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from processes import measured

AD = "import sys; from ad.core.cli import main; main()"
LEAN = "import sys; from ad.runtime.cli import main; main()"
BASELINE = "ad predict RUN"


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    export, picture = str(options.run / "export"), str(options.picture)
    best: dict[str, tuple[float, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            place, other = (["--output", f"{folder}/{turn}-{of}"] for of in ("run", "export"))
            cases = {
                BASELINE: ["-c", AD, "predict", str(options.run), picture, *place],
                "ad predict EXPORT": ["-c", AD, "predict", export, picture, *other],
                "ad-runtime predict EXPORT": ["-c", LEAN, "predict", export, picture],
            }
            for name, words in cases.items():
                cost = measured([sys.executable, *words])
                found = cost.cpu_seconds, cost.peak_memory_bytes
                before = best.get(name, found)
                best[name] = min(before[0], found[0]), min(before[1], found[1])
    base = best[BASELINE]
    rows = [
        {
            "case": name,
            "cpu_seconds": seconds,
            "peak_memory_bytes": memory,
            "ratio": seconds / base[0],
            "memory_ratio": memory / base[1],
        }
        for name, (seconds, memory) in best.items()
    ]
    print(f"{'case':28} {'CPU s':>8} {'MiB':>8} {'CPU':>6} {'memory':>7}")
    for row in rows:
        print(
            f"{row['case']:28} {row['cpu_seconds']:8.2f} {row['peak_memory_bytes'] / 2**20:8.0f} "
            f"{row['ratio']:6.2f} {row['memory_ratio']:7.2f}"
        )
    if options.output:
        from record import record  # with torch, whose memory processes started before would inherit

        record("verdict", rows, options.output)


if __name__ == "__main__":
    main()
