"""Memory against the number of test pictures: all kept in memory, and past a budget on disk.

Run: python benchmarks/flat.py [--counts N ...] [--side N] [--memory SIZE] [--output FILE]

Pictures and masks are made, each another one, and tiny; the model is the mean picture, so that what
surrounds a model is measured. Each case is a process of its own, the two forms of it in turns:
``AD_MEMORY`` of 1T keeps everything in memory, which is what was done before there was a budget.
Memory is the largest resident one (Linux's ``VmHWM``), beyond what the process had before its work.

* ``metrics``: `ad evaluate` without its search for copies: scores, maps, and all figures of pixels.
* ``predict``: `ad predict` without heat maps, with its tables and its report.
* ``heat maps``: the same with them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from record import record

from ad.core import ModelRegistry, Sample, load, train
from ad.core.figures.measure import measure
from ad.core.jobs.inspect import inspect

MOST = {"metrics": 100_000, "predict": 10_000, "heat maps": 2_000}
"""Each case with the pictures up to which it is measured."""

MOST_IN_MEMORY = 2**30
"""Bytes of maps up to which all are kept in memory, too; metrics take some three times as much."""

_PICTURE = 16  # pixels


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--cases", nargs="+", choices=MOST, default=MOST)
    parser.add_argument("--side", type=int, default=64, help="of maps, in pixels")
    parser.add_argument("--memory", default="64M")
    parser.add_argument("--output", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--alone", nargs=3, metavar=("CASE", "FOLDER", "COUNT"))
    args = parser.parse_args()
    if args.alone:
        case, folder, count = args.alone
        print(json.dumps(measured(case, Path(folder), int(count))))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make(folder, max(args.counts), args.side)
        print(f"{'case':10}{'pictures':>10}{'kept':>8}{'memory':>12}{'CPU':>10}{'figures':>12}")
        for case in args.cases:
            for count in args.counts:
                if count > MOST[case]:
                    continue
                pair = [
                    row_of(case, folder, count, memory)
                    for memory in ("1T", args.memory)
                    if memory != "1T" or 4 * args.side**2 * count <= MOST_IN_MEMORY
                ]
                for row in pair:
                    row |= {"side": args.side, "ratio": pair[0]["peak_mib"] / row["peak_mib"]}
                    row["same"] = row["found"] == pair[0]["found"]
                    rows.append(row)
                    print(
                        f"{case:10}{count:10,}{row['kept']:>8}{row['peak_mib']:8.0f} MiB"
                        f"{row['cpu_seconds']:8.1f} s{'same' if row['same'] else 'OTHER':>12}"
                    )
    if args.output:
        record("flat", rows, args.output)


def make(folder: Path, count: int, side: int) -> None:
    """Write a trained run, and pictures with masks: every second one has a defect."""
    rng = np.random.default_rng(0)
    for name in ("data/good", "new", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(30):
        write(folder / "data/good" / f"{number:02d}.png", texture(rng))
    register(side)
    data = folder / "data"
    train("folder", str(data), "mean-picture", output_dir=folder / "run", report=False)
    for number in range(count):
        pixels = texture(rng)
        if number % 2:
            mask = np.zeros((_PICTURE, _PICTURE), np.uint8)
            row, column = rng.integers(0, _PICTURE - 3, 2)
            mask[row : row + 3, column : column + 3] = 255
            pixels[mask > 0] += np.uint8(40)
            write(folder / "masks" / f"{number:06d}.png", mask)
        write(folder / "new" / f"{number:06d}.png", pixels)


def texture(rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """A good picture."""
    return rng.integers(90, 130, (_PICTURE, _PICTURE, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    """Write a PNG that is quick to make."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=0)
    path.write_bytes(content.getvalue())


def register(side: int) -> None:
    """Make the model known to this process."""
    ModelRegistry.register(
        "mean-picture",
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": side, "normalize": False},
    )


def row_of(case: str, folder: Path, count: int, memory: str) -> dict[str, Any]:
    """Measure a case in a process of its own."""
    command = [sys.executable, __file__, "--alone", case, str(folder), str(count)]
    environment = os.environ | {"AD_MEMORY": memory}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return {"case": case, "pictures": count, "kept": memory, **json.loads(done.stdout)}


def measured(case: str, folder: Path, count: int) -> dict[str, Any]:
    """Do the work of a case; what it took, and what says that it came to the same."""
    register(64)  # the size is the saved model's own
    paths = sorted((folder / "new").iterdir())[:count]
    detector = load(folder / "run")
    detector.predict(paths[:8])  # the first ones prepare what all others use
    Path("/proc/self/clear_refs").write_text("5")  # the largest memory is that of now again
    begun, before = time.process_time(), peak_mib()
    if case == "metrics":
        masks = folder / "masks"
        samples = [
            Sample(path, 1, "test", "toy", "dent", (masks / path.name,))
            if number % 2
            else Sample(path, 0, "test", "toy")
            for number, path in enumerate(paths)
        ]
        found: Any = measure(detector, samples).metrics
    else:
        with tempfile.TemporaryDirectory() as output:
            drawn = "all" if case == "heat maps" else "none"
            result = inspect(folder / "run", paths, output=Path(output) / "out", heatmaps=drawn)
            found = [sum(result.rows.scores), dict(result.rows.verdicts)]
    return {
        "peak_mib": peak_mib() - before,
        "before_mib": before,
        "cpu_seconds": time.process_time() - begun,
        "found": found,
    }


def peak_mib() -> float:
    """The largest resident memory of this process since it was looked at from anew."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    msg = "The system does not tell a process's largest memory."
    raise OSError(msg)


if __name__ == "__main__":
    main()
