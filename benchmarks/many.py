"""Many pictures by several processes: workers on this machine and Ray's, against one worker.

    python benchmarks/many.py EXPORT FOLDER [--pictures N] [--rounds N] [--output FILE]

Each case is a process of its own, by a clock: run it where nothing else runs. It takes its turn
with N pictures and with three times as many, and its rate is that of the pictures between: whatever
it takes to start is in both. One thread for each worker.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import record

from ad.runtime.sources import find_sources

CASES = [("local", 1), ("local", 2), ("ray", 2)]
CODE = "import sys; from ad.runtime.cli import main; sys.exit(main())"


def seconds(export: Path, pictures: list[Path], executor: str, workers: int) -> float:
    """How long it takes to score pictures."""
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder) / "names.txt"
        names.write_text("".join(f"{picture}\n" for picture in pictures))
        words = ["predict", str(export), "--list", str(names), "--executor", executor]
        words += ["--workers", str(workers), "--threads", "1", "--output", f"{folder}/found.jsonl"]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", CODE, *words], check=True, capture_output=True)
        taken = time.perf_counter() - start
        assert len((Path(folder) / "found.jsonl").read_text().splitlines()) > len(pictures) // 64
        return taken


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("export", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pictures = [Path(str(one)) for one in find_sources([options.folder])][: 3 * options.pictures]
    few = pictures[: options.pictures]
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            short, long = (seconds(options.export, some, *case) for some in (few, pictures))
            taken[case].append((short, long))
    rows: list[dict[str, Any]] = []
    for (executor, workers), times in taken.items():
        short, long = (min(one) for one in zip(*times, strict=True))
        rate = (len(pictures) - len(few)) / (long - short)
        row = {
            "case": f"{executor}, {workers} at work",
            "pictures": len(pictures),
            "seconds": round(long, 1),
            "start_seconds": round(max(0.0, short - len(few) / rate), 1),
            "pictures_per_second": round(rate, 1),
        }
        rows.append(
            row | {"ratio": round(rate / (rows[0]["pictures_per_second"] if rows else rate), 2)}
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if options.output:
        record("many", rows, options.output)


if __name__ == "__main__":
    main()
