"""Times of a model in several engines, as a table and as JSON."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from PIL import Image

from ad.runtime.engines import ENGINES
from ad.runtime.errors import ModelFileError, OutputError, SettingError, WorkerError
from ad.runtime.files import parse_json, read_limited, to_json, write_atomic
from ad.runtime.framing import Size
from ad.runtime.package import read_package
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress
from ad.runtime.runtime import usable_threads

BENCHMARK = "benchmark.json"
"""Name of the file in a run directory; beside an export it has the export's name in front."""

PICTURES = 100
"""Pictures that are timed, if nothing else is said."""

SCHEMA = 1
_LARGEST_SIDE = 16384
_WIDE = (8, 8, 8, 7, 6)  # characters of p50, p95, p99, CPU and start
_FIGURES = ("p50", "p95", "p99", "per_second", "cpu_seconds", "start_seconds")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast one picture after the other is, from its file to its verdict."""

    engine: str
    """What computes, such as ``onnxruntime 1.32.0 fp32 cpu``."""
    threads: int
    """Of the CPU."""
    p50: float
    """Milliseconds within which half of the pictures were done."""
    p95: float
    p99: float
    per_second: float
    """Pictures."""
    cpu_seconds: float
    """Of all threads, for one picture."""
    memory: int | None
    """The most bytes that the process had resident; None where the system does not tell."""
    start_seconds: float
    """From the start of a process to its first verdict."""

    @classmethod
    def of(cls, found: Mapping[str, Any], threads: int) -> Self:
        """From what `ad.runtime.bench.measuring` found."""
        times = sorted(found["milliseconds"])
        p50, p95, p99 = (times[math.ceil(share * len(times)) - 1] for share in (0.5, 0.95, 0.99))
        return cls(
            engine=found["engine"],
            threads=threads,
            p50=p50,
            p95=p95,
            p99=p99,
            per_second=1000 * len(times) / sum(times),
            cpu_seconds=found["cpu"],
            memory=found["memory"],
            start_seconds=found["start"],
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """How fast a model is on one machine."""

    model: str
    """What was timed, as it was named."""
    size: Size
    """Of the picture."""
    pictures: int
    """How many were timed in each engine."""
    machine: str
    """Kind of processor and system."""
    cores: int
    """That the process might use."""
    speeds: tuple[Speed, ...]

    def to_json(self) -> dict[str, Any]:
        """As it is printed and saved."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "size": list(self.size),
            "pictures": self.pictures,
            "machine": self.machine,
            "cores": self.cores,
            "speeds": [asdict(one) for one in self.speeds],
        }

    def table(self) -> list[str]:
        """Lines of at most 80 characters, for a person."""
        head = f"{'engine':<31}{'threads':>7}{'p50':>8}{'p95':>8}{'p99':>8}{'CPU':>7}{'start':>6}"
        lines = [f"{head}{'MB':>5}"]
        for one in self.speeds:
            memory = "-" if one.memory is None else f"{one.memory / 1e6:.0f}"
            times = [one.p50, one.p95, one.p99, 1000 * one.cpu_seconds, one.start_seconds]
            cells = [f"{time:.4g}" if time < 1000 else f"{time:.0f}" for time in times]
            shown = "".join(f"{cell:>{wide}}" for cell, wide in zip(cells, _WIDE, strict=True))
            lines.append(f"{one.engine[:30]:<31}{one.threads:>7}{shown}{memory:>5}")
        return [
            *lines,
            f"{self.pictures} pictures of {self.size}, one after the other:",
            "p50 to p99, CPU: milliseconds from a picture's file to its verdict;",
            "start: seconds from the start of a process to its first verdict",
        ]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to open a model."""

    opener: str
    """``module:function``; see `ad.runtime.bench.measuring.Opened`."""
    given: Mapping[str, Any]
    """What it is called with, beside the threads."""


def benchmark(
    export: str | Path,
    *,
    size: int | tuple[int, int] | None = None,
    threads: Sequence[int] | None = None,
    engine: str = "all",
    pictures: int = PICTURES,
    progress: Progress = SILENT,
) -> Benchmark:
    """Time an exported model.

    Args:
        export: What `ad export` wrote.
        size: Of the picture, in pixels; what the model sees by default.
        threads: Numbers of threads to try; as many as there are cores by default.
        engine: ``onnxruntime``, ``openvino``, or ``all`` that are installed and run it.
        pictures: How many are timed in each.
        progress: Where to show how far it is.

    Raises:
        SettingError: If a setting cannot be, or no engine is installed.
        WorkerError: If an engine fails.
        ModelFileError: If it is no exported model.
    """
    package = read_package(given_path(export, "the exported model"))
    known = [name for name in ENGINES if name != "auto"]
    if engine != "all" and engine not in known:
        msg = f"`engine` must be all or one of {', '.join(known)}; got {engine!r}."
        raise SettingError(msg)
    able = ["openvino"] if package.config.engine == "openvino" else known
    names = [name for name in able if find_spec(name)] if engine == "all" else [engine]
    if not names:
        msg = f"None of the engines that run `{export}` is installed: {', '.join(able)}."
        raise SettingError(msg)
    given = {"path": str(package.path.absolute())}
    opener = "ad.runtime.bench.measuring:open_export"
    return measured(
        [Way(opener=opener, given={**given, "engine": name}) for name in names],
        model=package.config.name,
        size=package.config.framing.size if size is None else size,
        threads=threads,
        pictures=pictures,
        progress=progress,
    )


def measured(
    ways: Iterable[Way],
    *,
    model: str,
    size: int | tuple[int, int],
    threads: Sequence[int] | None,
    pictures: int,
    progress: Progress = SILENT,
) -> Benchmark:
    """Time a model that is opened in several ways, one after the other.

    Args:
        ways: How it is opened.
        model: Its name.
        size: Of the picture.
        threads: Numbers of threads to try; None for as many as there are cores.
        pictures: How many are timed.
        progress: Where to show how far it is.

    Raises:
        SettingError: If a number cannot be.
        WorkerError: If a process fails.
    """
    height, width = (size, size) if isinstance(size, int) else size
    counts = [usable_threads()] if threads is None else [*threads]
    for name, value, most in (
        ("size", height, _LARGEST_SIDE),
        ("size", width, _LARGEST_SIDE),
        ("pictures", pictures, 10**6),
        *(("threads", count, 1024) for count in counts),
    ):
        if type(value) is not int or not 1 <= value <= most:
            msg = f"`{name}` must be a whole number from 1 to {most}; got {value!r}."
            raise SettingError(msg)
    tries = [(way, count) for way in ways for count in counts]
    speeds = []
    with tempfile.TemporaryDirectory() as folder:
        picture = _picture(Path(folder), height, width)
        with progress.step("timing", total=len(tries), unit="engines") as advance:
            for way, count in tries:
                speeds.append(Speed.of(_apart(way, count, picture, pictures), count))
                advance(1)
    return Benchmark(
        model=model,
        size=Size(height, width),
        pictures=pictures,
        machine=f"{platform.processor() or platform.machine()}, {platform.system()}",
        cores=usable_threads(),
        speeds=(*speeds,),
    )


def save(found: Benchmark, place: Path) -> Path:
    """Write it into a run directory, or beside what was exported.

    Args:
        found: What to write; in the place of what was there.
        place: A run directory, or an export's folder or file, in which nothing may be added.

    Returns:
        The file.

    Raises:
        OutputError: If it cannot be written.
    """
    whole = place.absolute()
    beside = whole.with_name(f"{whole.name}-{BENCHMARK}")
    file = whole / BENCHMARK if (whole / "run.json").is_file() else beside
    write_atomic(file, to_json(found.to_json()))
    return file


def read(file: Path) -> dict[str, Any]:
    """What `save` wrote.

    Raises:
        ModelFileError: If it is no such file.
        FileNotFoundError: If there is none.
    """
    try:
        values = parse_json(file, read_limited(file, "run directory"))
        numbers = [one[name] for one in values["speeds"] for name in (*_FIGURES, "threads")]
        memory = [one["memory"] for one in values["speeds"] if one["memory"] is not None]
        right = (
            values["schema"] == SCHEMA
            and all(type(one) in (int, float) and math.isfinite(one) for one in numbers + memory)
            and all(isinstance(one["engine"], str) for one in values["speeds"])
            and all(type(side) is int for side in values["size"])
            and len(values["size"]) == 2
            and isinstance(values["machine"], str)
        )
    except FileNotFoundError:
        raise
    except (OSError, LookupError, TypeError) as error:
        msg = f"`{file}` is not what `ad benchmark --save` writes ({error}). Move it away."
        raise ModelFileError(msg) from error
    if not right:
        msg = f"`{file}` is not what `ad benchmark --save` writes. Move it away."
        raise ModelFileError(msg)
    return values


def _apart(way: Way, threads: int, picture: Path, pictures: int) -> dict[str, Any]:
    """Measure in a process of its own, so that memory and start are its own."""
    asked = {
        "opener": way.opener,
        "given": {**way.given, "threads": threads},
        "picture": str(picture),
        "pictures": pictures,
        "began": time.time(),
    }
    command = [sys.executable, "-m", "ad.runtime.bench.measuring", json.dumps(asked)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        msg = f"No process can be started ({error.strerror})."
        raise OutputError(msg) from error
    what = way.given.get("engine", way.opener)
    last = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode or not last:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        msg = f"The process that timed `{what}` ended with status {done.returncode}: {said}"
        raise WorkerError(msg)
    found: dict[str, Any] = json.loads(last)
    if "error" in found:
        msg = f"`{what}` cannot be timed: {found['error']}"
        raise WorkerError(msg)
    return found


def _picture(folder: Path, height: int, width: int) -> Path:
    """A picture with edges, shades and noise, as a camera's; the same every time."""
    rows, columns = np.mgrid[0:height, 0:width]
    shades = 110 + 60 * np.sin(rows / 37) * np.cos(columns / 53) + 30 * ((rows // 64) % 2)
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    pixels = np.clip(shades[..., None] + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    return folder / "picture.png"
