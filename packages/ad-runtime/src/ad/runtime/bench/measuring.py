"""What a process of its own does: opens one model in one way and times it on one picture.

    python -m ad.runtime.bench.measuring '{"opener": "ad.runtime.bench.measuring:open_export", ...}'

It prints one JSON object, in the last line.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_WARM_UP = 3  # pictures

Opened = tuple[Callable[[Path], object], str]
"""What scores a picture's file, and what computes, in words."""


def open_export(path: str, *, engine: str, threads: int) -> Opened:
    """An exported model in an engine."""
    from ad.runtime.runtime import load

    runtime = load(path, engine=engine, threads=threads)
    return runtime.predict, runtime.engine.described


def measure(
    opener: Callable[..., Opened],
    given: Mapping[str, Any],
    picture: Path,
    *,
    pictures: int,
    began: float,
) -> dict[str, Any]:
    """Time a model on one picture, from its file to its verdict, again and again.

    Args:
        opener: Opens the model.
        given: What it is called with.
        picture: The file.
        pictures: How often.
        began: Seconds since 1970 when this process was started.

    Returns:
        ``engine`` in words, ``start`` (seconds from the start of the process to the first verdict),
        ``milliseconds`` of each picture, ``cpu`` (seconds of all threads a picture) and ``memory``
        (the most bytes that were resident; None where the system does not tell).
    """
    predict, described = opener(**given)
    predict(picture)
    start = time.time() - began
    for _ in range(_WARM_UP):
        predict(picture)
    times = []
    cpu = time.process_time()
    for _ in range(pictures):
        before = time.perf_counter()
        predict(picture)
        times.append(1000 * (time.perf_counter() - before))
    return {
        "engine": described,
        "start": start,
        "milliseconds": times,
        "cpu": (time.process_time() - cpu) / pictures,
        "memory": most_memory(),
    }


def most_memory() -> int | None:
    """The most bytes that this process had resident at a time; None where it is not told."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def main() -> None:
    """Measure as the argument says."""
    from ad.runtime.errors import AdError

    asked = json.loads(sys.argv[1])
    module, _, name = asked.pop("opener").partition(":")
    opener = getattr(importlib.import_module(module), name)
    try:
        # That a threshold is from elsewhere matters to verdicts, not to speed.
        with warnings.catch_warnings(action="ignore"):
            found = measure(opener, picture=Path(asked.pop("picture")), **asked)
    except AdError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
