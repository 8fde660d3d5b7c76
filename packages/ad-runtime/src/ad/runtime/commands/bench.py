"""`ad-runtime bench`: how fast an exported model is here."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad.runtime.console import LineProgress, print_json, put, say

if TYPE_CHECKING:
    from ad.runtime.bench.benchmark import Benchmark


def add_bench(commands: Any) -> None:  # noqa: ANN401  argparse has no public name for it
    """Add the command to those of a parser."""
    text = "Time an exported model in each engine that is installed, each in its own process."
    command = commands.add_parser("bench", help="Time an exported model here.", description=text)
    add = command.add_argument
    add("export", metavar="EXPORT", help="What `ad export` wrote.")
    add("--size", type=size_of, metavar="N|HxW", help="Of the picture (default: the model's).")
    add("--threads", type=numbers_of, metavar="N,...", help="Of the CPU (default: all).")
    add("--engine", default="all", help="all (default), onnxruntime or openvino.")
    add("--pictures", type=int, default=100, metavar="N", help="To time (default 100).")
    add("--save", action="store_true", help="Also write EXPORT-benchmark.json beside the export.")
    add("--json", action="store_true", help="Print one JSON object.")
    command.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Time as the arguments say."""
    from ad.runtime.bench.benchmark import benchmark

    found = benchmark(
        given.export,
        size=given.size,
        threads=given.threads,
        engine=given.engine,
        pictures=given.pictures,
        progress=LineProgress(),
    )
    tell(found, json=given.json, place=Path(given.export) if given.save else None)
    return 0


def tell(found: Benchmark, *, json: bool, place: Path | None) -> None:
    """Print what was found.

    Args:
        found: The times.
        json: Whether as JSON.
        place: Where to save it, too; see `ad.runtime.bench.benchmark.save`.
    """
    from ad.runtime.bench.benchmark import save

    if json:
        print_json(found.to_json())
    else:
        for line in found.table():
            put(line)
    if place is not None:
        say(f"written to {save(found, place)}")


def size_of(text: str) -> int | tuple[int, int]:
    """Read ``256`` or ``256x640``, height x width.

    Raises:
        argparse.ArgumentTypeError: If it is neither.
    """
    found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", text, re.ASCII)
    if found is None:
        msg = f"it takes a square's side in pixels, or height x width as 256x640; got `{text}`"
        raise argparse.ArgumentTypeError(msg)
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))


def numbers_of(text: str) -> list[int]:
    """Read ``1,2``.

    Raises:
        argparse.ArgumentTypeError: If it is not that.
    """
    parts = text.split(",")
    if not all(re.fullmatch(r"[0-9]{1,9}", part, re.ASCII) for part in parts):
        msg = f"it takes whole numbers such as 1,2; got `{text}`"
        raise argparse.ArgumentTypeError(msg)
    return [int(part) for part in parts]
