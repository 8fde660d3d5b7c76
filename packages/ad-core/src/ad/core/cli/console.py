"""How the command line speaks: messages, tables of figures and the progress line.

rich's heavier parts are imported where they are used, so that `ad --help` stays quick.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from ad.core.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console

    from ad.core.evaluation import Metrics, Verdicts

_SECONDS_BETWEEN_LINES = 10.0

TITLES = {
    "image_auroc": "image\nAUROC",
    "image_ap": "image\nAP",
    "image_f1max": "image\nF1-max",
    "pixel_auroc": "pixel\nAUROC",
    "pixel_ap": "pixel\nAP",
    "pixel_f1max": "pixel\nF1-max",
    "aupro": "AUPRO\n0.3",
    "aupro_05": "AUPRO\n0.05",
}


def out() -> Console:
    """The console for data: stdout."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False, markup=False)


def say(text: str) -> None:
    """Tell a person something: to stderr, so that stdout stays data."""
    print(text, file=sys.stderr, flush=True)


def print_error(error: Exception) -> None:
    """Say what went wrong; ``hint:`` lines stand apart."""
    message, *hints = str(error).split("\nhint: ")
    say(f"{_red('error')}: {message}")
    for hint in hints:
        say(f"\nhint: {hint}")


def print_json(value: object) -> None:
    """Print one JSON object to stdout; in ASCII, whatever the terminal or pipe can take."""
    print(json.dumps(value, indent=2, allow_nan=False))


def metrics_table(mean: Metrics, categories: Mapping[str, Metrics]) -> None:
    """Print the figures of each category and, for several, their mean."""
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("category", no_wrap=True, min_width=max(map(len, ("category", *categories))))
    for title in TITLES.values():
        table.add_column(title, justify="right")
    rows = [*categories.items()]
    if len(rows) != 1:
        rows.append(("mean", mean))
    for name, metrics in rows:
        table.add_row(name, *(_figure(metrics[key]) for key in TITLES))
    out().print(table)


def notes(texts: Sequence[str]) -> None:
    """Print what a user should know, one note a line."""
    for text in texts:
        say(f"note: {text}")


def say_verdicts(verdicts: Verdicts | None) -> None:
    """Say how the threshold did on the test pictures, if there is one."""
    if verdicts is None:
        return
    say(
        f"at the threshold: {verdicts.found} of {verdicts.defective} defective pictures found, "
        f"{verdicts.false_alarms} of {verdicts.good} good ones called defective"
    )


class ConsoleProgress:
    """One line with a bar, units and the time left on a terminal; now and then a line elsewhere."""

    @contextmanager
    def step(self, name: str, *, total: int, unit: str) -> Iterator[Advance]:
        """Show one step of work; see `ad.core.progress.Progress.step`."""
        started = time.monotonic()
        if sys.stderr.isatty():
            with _bar(name, total, unit) as advance:
                yield advance
        else:
            yield _Lines(name, total, unit, sys.stderr).advance
        say(f"{name}: {total} {unit} in {_duration(time.monotonic() - started)}")


@contextmanager
def _bar(name: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, note="")

        def advance(count: int, note: str = "") -> None:
            if note:
                bar.update(task, advance=count, note=note)
            else:
                bar.advance(task, count)

        yield advance


class _Lines:
    """Progress for logs: a line every ten seconds."""

    def __init__(self, name: str, total: int, unit: str, stream: TextIO) -> None:
        self.name, self.total, self.unit, self.stream = name, total, unit, stream
        self.done, self.note = 0, ""
        self.started = self.last = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last < _SECONDS_BETWEEN_LINES or not self.done:
            return
        self.last = now
        left = (now - self.started) / self.done * (self.total - self.done)
        # The first few units say little of the rest.
        known = f", {_duration(left)} left" if self.done * 50 >= self.total else ""
        print(
            f"{self.name}: {self.done} of {self.total} {self.unit}{known}"
            f"{self.note and f'  {self.note}'}",
            file=self.stream,
            flush=True,
        )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _red(text: str) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else f"\033[1;31m{text}\033[0m"
