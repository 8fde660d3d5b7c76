"""What all sides of `peer.py` share: orders, clocks, pictures, answers.

It runs in both environments and imports nothing that costs: a row may measure a bare import.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNTAUGHT = ("efficientad", "draem")
"""Rows without a pretrained network on either side."""
Mark = tuple[float, float]
"""CPU seconds of this process and of those that it waited for; seconds on the wall."""


def now() -> Mark:
    """The mark of this moment."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used), time.perf_counter()


@dataclass
class Work:
    """One side's run of one row: what is asked for, and what was found."""

    row: str
    side: str
    """``"anomalib"``, ``"ours"`` or ``"limit"``."""
    form: str
    """``"fp32"``; anomalib's ``"bf16"``, for which its user asks; our ``"shipped"``, the precision
    that this machine is given by default."""
    folder: str
    """Where pictures and files are."""
    weights: str
    """A safetensors file with the backbone's weights; ``"random"`` for none."""
    counts: dict[str, int]
    """How many pictures, steps, picks ... the row takes."""
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each phase, for one unit of it: ``cpu`` and ``wall``."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What must be equal on both sides."""
    told: dict[str, Any] = field(default_factory=dict)
    """What is worth telling of this side."""
    memory: int = 0
    """Bytes at most, where they are counted; 0 for the memory of the process."""

    def note(self, phase: str, start: Mark, end: Mark, units: int = 1) -> None:
        """Keep what a phase took."""
        cpu, wall = ((after - before) / units for before, after in zip(start, end, strict=True))
        self.seconds[phase] = {"cpu": cpu, "wall": wall}

    @contextmanager
    def phase(self, name: str, units: int = 1) -> Iterator[None]:
        """Measure what is done within."""
        start = now()
        yield
        self.note(name, start, now(), units)

    def steps(self, marks: list[Mark]) -> None:
        """Keep what a step took, from the ends of steps; the first two warm up."""
        self.note("step", marks[1], marks[-1], len(marks) - 2)

    def pictures(self, name: str, number: int) -> NDArray[np.uint8]:
        """The first pictures of a prepared array ``[N, H, W, 3]``, whose sum is a fact."""
        import numpy as np

        found: NDArray[np.uint8] = np.load(Path(self.folder) / f"{name}.npy")[:number]
        self.facts[f"pictures of {name}"] = list(found.shape)
        self.facts[f"sum of {name}"] = int(found.sum(dtype=np.int64))
        return found

    def test(self, name: str, score: Callable[[NDArray[np.uint8]], object]) -> None:
        """Measure scoring prepared pictures in batches, after one batch to warm up."""
        size = self.counts["at_once"]
        pictures = self.pictures(name, self.counts["test"] + size)
        score(pictures[:size])
        with self.phase("test", len(pictures) - size):
            for first in range(size, len(pictures), size):
                score(pictures[first : first + size])


def run(rows: dict[str, Callable[[Work], None]]) -> None:
    """Do what the command line orders as JSON, and leave the answer where it says."""
    order = json.loads(sys.argv[1])
    os.chdir(order["folder"])  # anomalib writes results where it is started
    place = Path(order.pop("answer"))
    work = Work(**order)
    try:
        rows[work.row](work)
    except SystemExit as end:  # a command line's own
        if end.code:
            raise
    answer = {"seconds": work.seconds, "facts": work.facts, "told": work.told,
              "memory": work.memory}  # fmt: skip
    place.write_text(json.dumps(answer))
