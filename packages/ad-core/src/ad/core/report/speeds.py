"""What `ad benchmark --save` has left in a run directory, for its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ad.runtime.bench.benchmark import BENCHMARK, read
from ad.runtime.framing import Size


def read_speeds(run: Path) -> dict[str, Any] | None:
    """Title and rows of the table of a run's times; None if it was not timed.

    Raises:
        ModelFileError: If the file cannot be read.
    """
    try:
        found = read(run / BENCHMARK)
    except FileNotFoundError:
        return None
    rows = []
    for one in found["speeds"]:
        memory = "-" if one["memory"] is None else f"{one['memory'] / 1e6:.0f}"
        times = [f"{one[name]:.4g}" for name in ("p50", "p95", "p99")]
        cpu, start = f"{1000 * one['cpu_seconds']:.4g}", f"{one['start_seconds']:.3g}"
        rows.append(
            [one["engine"], str(one["threads"]), *times, f"{one['per_second']:.4g}", cpu, memory,
             start]
        )  # fmt: skip
    size = Size(*found["size"])
    title = f"{found['pictures']} pictures of {size}, one after the other, on {found['machine']}"
    return {"title": title, "rows": rows}
