"""How much memory may be taken by what grows with the number of pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from ad.runtime.errors import SettingError

MEMORY: Final = "AD_MEMORY"
"""Environment variable: the budget, such as ``500M`` or ``4G``."""

_SHARE = 8
"""Of free memory, the part that is the budget without that variable: metrics need some five times
as much as the maps that they are of."""

_UNKNOWN = 2**30  # the budget where the system does not tell how much is free
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def memory_budget() -> int:
    """Bytes that anything which grows with the number of pictures may take in memory.

    Raises:
        SettingError: If `MEMORY` is set to something that is no number of bytes.
    """
    text = os.environ.get(MEMORY, "").strip()
    if not text:
        free = free_memory()
        return _UNKNOWN if free is None else free // _SHARE
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", text, re.IGNORECASE | re.ASCII)
    if found is None:
        msg = (
            f"`{MEMORY}` says how much memory what grows with the number of pictures may take: a "
            f"number of bytes, or of K, M, G or T, such as 500M or 4G; got `{text}`. Set it so, or "
            f"leave it unset for an eighth of what is free."
        )
        raise SettingError(msg)
    return int(float(found[1]) * _UNITS[found[2].upper()])


def at_most(size: int) -> int:
    """Bytes up to so many that something may take in memory.

    It is less where `MEMORY` says less, or where less than twice as much is free.
    """
    if os.environ.get(MEMORY, "").strip():
        return min(size, memory_budget())
    free = free_memory()
    return size if free is None else min(size, free // 2)


def free_memory() -> int | None:
    """Bytes that this process can still take; None where the system does not tell.

    The least of what the machine has and what each control group around the process allows.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = {name: value for name, _, value in (line.partition(":") for line in lines)}
        free = 1024 * int(known["MemAvailable"].split()[0])
    except (OSError, LookupError, ValueError):  # not Linux
        return None
    return min([free, *_allowed(Path("/sys/fs/cgroup"))])


def _allowed(root: Path) -> list[int]:
    """What each control group (version 2) around this process has left."""
    try:
        own = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
    except (OSError, IndexError):
        return []
    left = []
    group = root / own.lstrip("/")
    for place in (group, *(one for one in group.parents if one.is_relative_to(root))):
        try:
            limit = int((place / "memory.max").read_text())  # `max` is no number: no limit
            used = int((place / "memory.current").read_text())
            told = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            left.append(max(0, limit - used + int(told["inactive_file"])))
        except (OSError, LookupError, ValueError):
            continue
    return left
