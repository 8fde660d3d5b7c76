"""What is handed to those who score, and what they hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from ad.runtime.errors import AdError
from ad.runtime.runtime import Runtime

Load = Callable[..., Runtime]
"""Has the parameters of `ad.runtime.load`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """How an exported model is used, by all who score."""

    export: Path
    """Where it lies."""
    engine: str
    device: str
    threads: int
    """Of the CPU, for each who scores."""
    batch_size: int
    category: str | None
    threshold: float | None
    min_area: int | None
    maps: Path | None
    """Where maps are written; None if they are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Pictures that one who scores takes at a time."""

    chunk: int
    """Which part of all pictures they are, or are of."""
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    """Of their maps' files; none if maps are not written."""
    place: int | None = None
    """Which picture of its chunk it is, if it is scored alone."""
    deaths: int = 0
    """How many have died at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a task."""

    lines: tuple[Mapping[str, Any], ...] = ()
    """One for each picture, as they are written, in order."""
    warnings: tuple[str, ...] = ()
    """That a person should see; each is told once."""
    error: AdError | None = None
    """Why no picture can be scored at all."""
    died: str | None = None
    """How the one who scored died of it."""
    again: bool = False
    """Whether it was lost through no fault of its own."""


class Crew(Protocol):
    """Those who score, each with the model loaded."""

    def __enter__(self) -> Self:
        """Have all load the model.

        Raises:
            WorkerError: If one dies of it.
            AdError: As `ad.runtime.load`.
        """
        ...

    def __exit__(self, *error: object) -> None:
        """End them all."""
        ...

    def free(self, task: Task) -> bool:
        """Whether one of them can take a task now."""
        ...

    @property
    def busy(self) -> bool:
        """Whether one of them has a task."""
        ...

    def give(self, task: Task) -> None:
        """Have it done by one that is free for it."""
        ...

    def ended(self) -> list[tuple[Task, Answer]]:
        """Wait until a task has ended; who died of one is replaced.

        Raises:
            WorkerError: If that one dies, too, before it has loaded the model.
        """
        ...
