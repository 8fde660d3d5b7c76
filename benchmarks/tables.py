"""Puts the recorded figures into README.md, between its ``table`` markers.

    python benchmarks/tables.py [--check]

With ``--check`` nothing is written; the exit status says whether README.md is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def accuracy() -> str:
    """Models on real pictures, with the textbook's figures where they were measured."""
    titles = ("data", "model", "image AUROC", "pixel AUROC", "AUPRO 0.3", "fit", "test", "memory")
    rows = []
    for row in load("accuracy")["rows"]:
        metrics, seconds = row["metrics"], row["seconds"]
        options = re.findall(r"--set (\S+)", row["command"])
        model = f"`{row['model']}`" + (f" ({', '.join(options)})" if options else "")
        rows.append(
            (
                row["dataset"],
                model,
                _figure(metrics["image_auroc"]),
                _figure(metrics["pixel_auroc"]),
                _figure(metrics["aupro"]),
                f"{seconds['fit']:.0f} s",
                f"{seconds['test_per_image'] * 1000:.0f} ms",
                f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
            )
        )
    for row in load("textbook")["rows"]:
        metrics = row["metrics"]
        figures = (_figure(metrics["image_auroc"]), _figure(metrics["pixel_auroc"]))
        rows.append((row["dataset"], f"textbook {row['model']}", *figures, "", "", "", ""))
    return _markdown(titles, sorted(rows, key=lambda row: row[0], reverse=True))


def speed() -> str:
    """Every benchmark's cases against its baseline."""
    rows = []
    for name in ("coreset", "neighbors", "padim", "metrics", "startup"):
        for row in load(name)["rows"]:
            rows.append((name, *SPEED_ROWS[name](row)))
    return _markdown(("benchmark", "case", "seconds", "against the baseline"), rows)


SPEED_ROWS: dict[str, Callable[[dict[str, Any]], tuple[str, str, str]]] = {}
TABLES = {"accuracy": accuracy, "speed": speed}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _markdown(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Fill README.md's tables, or check that they are filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = README.read_text()
    filled = _MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)
    if options.check:
        sys.exit("README.md: run `python benchmarks/tables.py`" if filled != text else 0)
    README.write_text(filled)


if __name__ == "__main__":
    main()
