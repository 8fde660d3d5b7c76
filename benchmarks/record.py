"""Writes what a benchmark measured, with all that is needed to judge it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "timm", "faiss-cpu", "pillow")


def record(name: str, rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a benchmark's figures as JSON.

    Args:
        name: What was measured.
        rows: One per case; JSON values.
        path: The file to write.
    """
    result = {
        "benchmark": name,
        "command": command(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


def command() -> str:
    """What was typed."""
    return " ".join(["python", *(_portable(argument) for argument in sys.argv)])


def machine() -> dict[str, Any]:
    """Processor, cores, threads that torch uses, memory, GPU."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(pages / 2**30, 1),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _portable(argument: str) -> str:
    """A path as seen from where it was given: no machine's folders in a record."""
    path = Path(argument)
    return os.path.relpath(path) if path.is_absolute() else argument
