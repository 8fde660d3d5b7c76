"""What a process costs from its start to its end.

No torch here: a process that is started inherits the largest memory of the one that starts it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process."""

    cpu_seconds: float
    """User and system time of all its threads, and of processes that it waited for."""
    wall_seconds: float
    peak_memory_bytes: int
    """What was resident at most."""


def measured(
    command: Sequence[str], environment: Mapping[str, str] | None = None, log: str = os.devnull
) -> Cost:
    """Run a process and wait for its end.

    Args:
        command: A program's file and its arguments.
        environment: Its variables; None for those of this process.
        log: The file that gets what it prints.

    Raises:
        RuntimeError: If it failed.
    """
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    actions = [(os.POSIX_SPAWN_DUP2, out, number) for number in (1, 2)]
    variables = os.environ if environment is None else environment
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, variables, file_actions=actions)
    try:
        _, status, usage = os.wait4(child, 0)
    except BaseException:  # who ends this process ends that one
        os.kill(child, signal.SIGTERM)
        raise
    seconds = time.perf_counter() - start
    os.close(out)
    if status:
        msg = f"`{' '.join(command)}` failed: status {status}."
        raise RuntimeError(msg)
    return Cost(usage.ru_utime + usage.ru_stime, seconds, 1024 * usage.ru_maxrss)
