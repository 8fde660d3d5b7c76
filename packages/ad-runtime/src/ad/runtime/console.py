"""How command lines speak: data to stdout, all else to stderr. Standard library alone."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from ad.runtime.errors import counted
from ad.runtime.printable import in_one_line, printable
from ad.runtime.progress import Advance

SCHEMA = 1
"""Version of what ``--json`` prints: a higher one where a key changes its meaning or goes."""

_SECONDS_BETWEEN_LINES = 10.0


def put(text: str) -> None:
    """Print a line of data to stdout, whatever its length."""
    print(printable(text))


def say(text: str) -> None:
    """Tell a person something: to stderr, so that stdout stays data."""
    _say(printable(text))


def print_error(error: Exception) -> None:
    """Say what went wrong; ``hint:`` lines stand apart."""
    message, *hints = str(error).split("\nhint: ")
    _say(f"{_red('error')}: {printable(message)}")
    for hint in hints:
        say(f"\nhint: {hint}")


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object to stdout; in ASCII, whatever the terminal or pipe can take.

    Args:
        value: What is in it. An iterator is printed as a list, an entry at a time.
    """
    entries = {"schema": SCHEMA, **value}
    known = {key: _json(one) for key, one in entries.items() if not isinstance(one, Iterator)}
    start = "{"
    for key, one in entries.items():
        print(f"{start}\n  {json.dumps(key)}: ", end="")
        start = ","
        if not isinstance(one, Iterator):
            print(known[key].replace("\n", "\n  "), end="")
            continue
        first = True
        for entry in one:
            text = _json(entry).replace("\n", "\n    ")
            print(f"{'[' if first else ','}\n    {text}", end="")
            first = False
        print("[]" if first else "\n  ]", end="")
    print("\n}")


def _json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning that is meant for the user, without the line of code that it comes from."""
    where = "" if category is UserWarning else f" ({category.__name__}, {filename}:{lineno})"
    print(printable(f"warning: {message}{where}"), file=sys.stderr, flush=True)


class LineProgress:
    """A line now and then on how far a step of work is, and one when it ends."""

    @contextmanager
    def step(self, name: str, *, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Show one step of work; see `ad.runtime.progress.Progress.step`."""
        pace = Pace(name, total, unit, done)
        yield Lines(pace, sys.stderr).advance
        say(pace.ended)

    def tell(self, text: str) -> None:
        """Say it; see `ad.runtime.progress.Progress.tell`."""
        say(text)


class Pace:
    """How far a step of work is, and how fast."""

    def __init__(self, name: str, total: int, unit: str, done: int) -> None:
        self.name, self.total, self.unit = in_one_line(name), total, in_one_line(unit)
        self.before = self.done = done
        self.note = ""
        self.started = time.monotonic()

    def advance(self, count: int, note: str) -> None:
        """Count units that were done."""
        self.done += count
        self.note = in_one_line(note) or self.note

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.started

    @property
    def speed(self) -> str:
        """Such as ``12.3 steps/s``; nothing before the first unit."""
        own = self.done - self.before
        return f"{own / max(self.seconds, 1e-9):.3g} {self.unit}/s" if own else ""

    @property
    def left(self) -> float | None:
        """Seconds until the end at this pace; the first few units say too little of the rest."""
        own, all_own = self.done - self.before, self.total - self.before
        return self.seconds / own * (self.total - self.done) if own * 50 >= all_own > 0 else None

    @property
    def ended(self) -> str:
        """What was done in which time, in a line."""
        after = f" after {self.before}" if self.before else ""
        own = self.done - self.before
        unit = counted(own, _singular(self.unit), self.unit)
        return f"{self.name}: {unit}{after} in {duration(self.seconds)}"


def _singular(unit: str) -> str:
    """``patch`` of ``patches``, ``pair of both`` of ``pairs of both``; others as they are."""
    noun, space, rest = unit.partition(" ")
    return noun.removesuffix("es" if noun.endswith("ches") else "s") + space + rest


class Lines:
    """Progress for logs: a line every ten seconds."""

    def __init__(self, pace: Pace, stream: TextIO) -> None:
        self.pace, self.stream = pace, stream
        self.last = pace.started

    def advance(self, count: int, note: str = "") -> None:
        """Show how far it is, if the last line is old."""
        pace = self.pace
        pace.advance(count, note)
        now = time.monotonic()
        if now - self.last < _SECONDS_BETWEEN_LINES or pace.done == pace.before:
            return
        self.last = now
        left = "" if pace.left is None else f", {duration(pace.left)} left"
        print(
            f"{pace.name}: {pace.done} of {pace.total} {pace.unit}, {pace.speed}{left}"
            f"{pace.note and f'  {pace.note}'}",
            file=self.stream,
            flush=True,
        )


def duration(seconds: float) -> str:
    """A time for a person, such as ``12.3 s`` or ``1 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _red(text: str) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else f"\033[1;31m{text}\033[0m"
