"""How the command line speaks: messages, tables of figures and the progress line.

rich's heavier parts are imported where they are used, so that `ad --help` stays quick.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ad.runtime.console import Lines, Pace
from ad.runtime.console import duration as duration
from ad.runtime.console import print_error as print_error
from ad.runtime.console import print_json as print_json
from ad.runtime.console import put as put
from ad.runtime.console import say as say
from ad.runtime.printable import printable
from ad.runtime.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ad.core.data.inventory import Inventory
    from ad.core.figures.measure import Evaluation, Metrics
    from ad.core.thresholds.verdicts import Verdicts

_WIDTH_OF_FILES = 160  # characters in a line

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
    """The console for data: stdout. A file or a pipe has room for wide tables."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_FILES
    return console(width=wide)


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console that shows what a terminal would obey, in texts and the cells of tables."""
    from rich.console import Console
    from rich.text import Text

    class Showing(Console):
        # All text that is no `Text` yet passes here.
        def render_str(self, text: str, **settings: Any) -> Text:  # noqa: ANN401
            return super().render_str(printable(text), **settings)

    return Showing(stderr=stderr, highlight=False, soft_wrap=False, markup=False, width=width)


def metrics_table(mean: Metrics, categories: Mapping[str, Metrics]) -> None:
    """Print the figures of each category and, for several, their mean.

    Those of pixels are left out where no category has one.
    """
    rows = [*categories.items()]
    if len(rows) != 1:
        rows.append(("mean", mean))
    shown = [
        key
        for key in TITLES
        if key.startswith("image") or any(own[key] is not None for _, own in rows)
    ]
    table = _figures_table(["category"], [TITLES[key] for key in shown])
    for name, metrics in rows:
        table.add_row(name, *(_figure(metrics[key]) for key in shown))
    out().print(table)


def kinds_table(kinds: Mapping[str, Mapping[str, Metrics]]) -> None:
    """Print the figures of each kind of defect, and the means that MVTec LOCO is reported by."""
    from ad.core.figures.kinds import KIND_METRICS, mean_of_kinds

    table = _figures_table(
        ["category", "kind of defect"], ["image\nAUROC", "AU-sPRO\n0.3", "AU-sPRO\n0.05"]
    )
    for name, own in kinds.items():
        mean = mean_of_kinds(own)
        for kind, metrics in {**own, "mean": mean}.items():
            table.add_row(name, kind, *(_figure(metrics[key]) for key in KIND_METRICS))
        table.add_section()
    if len(kinds) != 1:
        mean = mean_of_kinds({name: mean_of_kinds(own) for name, own in kinds.items()})
        table.add_row("mean", "mean", *(_figure(mean[key]) for key in KIND_METRICS))
    out().print(table)


def _figures_table(names: Sequence[str], figures: Sequence[str]) -> Table:
    """A table to fill: where it is wide, names go on in a further line, and no figure is cut."""
    from rich.table import Table

    table = Table(header_style="bold")
    for title in names:
        table.add_column(title, overflow="fold")
    for title in figures:
        width = max(len(_figure(0.0)), *map(len, title.splitlines()))
        table.add_column(title, justify="right", no_wrap=True, min_width=width)
    return table


def inventory_table(inventory: Inventory) -> None:
    """Print what data are read as, and below it what is left out and why."""
    from rich.table import Table

    table = Table(header_style="bold")
    table.add_column("category", overflow="fold")
    table.add_column("read as", overflow="fold")
    table.add_column("pictures", justify="right")
    table.add_column("with masks", justify="right")
    for part in inventory.parts:
        table.add_row(part.category, part.name, str(part.pictures), str(part.masks or ""))
    out().print(table)
    if not inventory.left_out:
        out().print("nothing is left out")
        return
    table = Table(header_style="bold")
    for title in ("left out", "in", "why", "such as"):
        table.add_column(title, overflow="fold", justify="right" if title == "left out" else "left")
    for one in inventory.left_out:
        table.add_row(str(one.files), one.folder, one.why, one.example)
    out().print(table)


def notes(texts: Sequence[str]) -> None:
    """Print what a user should know, one note a line; a terminal breaks none inside a word."""
    for text in texts:
        note = f"note: {text}"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns
            note = textwrap.fill(
                note, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
            )
        say(note)


def say_tested(evaluation: Evaluation) -> None:
    """Say how many pictures were tested, at which size pixels were compared, and the verdicts."""
    tested = f"{evaluation.num_images} test pictures"
    if any(own["pixel_auroc"] is not None for own in evaluation.categories.values()):
        tested += f"; pixels compared at {evaluation.compared_at}"
    if evaluation.num_images:
        say(tested)
    say_verdicts(evaluation.verdicts)


def say_verdicts(verdicts: Verdicts | None) -> None:
    """Say how the threshold did on the test pictures, if there is one."""
    if verdicts is None:
        return
    words = []
    if verdicts.defective:
        words.append(f"{verdicts.found} of {verdicts.defective} defective pictures found")
    if verdicts.good:
        which = "good ones" if words else "good pictures"
        words.append(f"{verdicts.false_alarms} of {verdicts.good} {which} called defective")
    if words:
        say(f"at the threshold: {', '.join(words)}")


@contextmanager
def loading() -> Iterator[None]:
    """Say at once, on a terminal, that libraries are being loaded; it is gone afterwards."""
    if not sys.stderr.isatty():
        yield
        return
    words = "loading ..."
    print(words, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        print(f"\r{' ' * len(words)}\r", end="", file=sys.stderr, flush=True)


class ConsoleProgress:
    """One line with a bar, speed and the time left on a terminal; now and then a line elsewhere."""

    @contextmanager
    def step(self, name: str, *, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Show one step of work; see `ad.runtime.progress.Progress.step`."""
        pace = Pace(name, total, unit, done)
        if sys.stderr.isatty():
            with _bar(pace) as advance:
                yield advance
        else:
            yield Lines(pace, sys.stderr).advance
        say(pace.ended)

    def tell(self, text: str) -> None:
        """Say it; see `ad.runtime.progress.Progress.tell`."""
        say(text)


@contextmanager
def _bar(pace: Pace) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(
            pace.name, total=pace.total, completed=pace.done, unit=pace.unit, speed="", note=""
        )

        def advance(count: int, note: str = "") -> None:
            pace.advance(count, note)
            bar.update(task, advance=count, speed=pace.speed, note=pace.note)

        yield advance


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
