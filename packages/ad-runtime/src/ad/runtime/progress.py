"""How long work tells that it is going on: one line with units and the time left.

The interface only; it imports neither torch nor rich. The default is silence: a call
from Python prints nothing. The command line hands over `ad.core.cli.console`'s version.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Tells that units of a step were done."""

    def __call__(self, count: int, note: str = "") -> None:
        """Show how far the step is.

        Args:
            count: Units that were done since the last call.
            note: A few words on how it goes, such as a loss; the last ones stay.
        """
        ...


class Progress(Protocol):
    """Shows steps of work; one step at a time."""

    def step(
        self, name: str, *, total: int, unit: str, done: int = 0
    ) -> AbstractContextManager[Advance]:
        """Show one step while the ``with`` block runs.

        Args:
            name: What is being done, for a person: ``"coreset"``.
            total: How many units the step has.
            unit: What is counted, in the plural: ``"pictures"``.
            done: Units that an earlier process did, where work is gone on with.

        Returns:
            A context manager that yields the function to call as units get done.
        """
        ...

    def tell(self, text: str) -> None:
        """Tell a person something before long work goes on, such as what the data were read as."""
        ...


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, name: str, *, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Do the work without a word; see `Progress.step`."""
        yield _say_nothing

    def tell(self, text: str) -> None:
        """Say nothing; see `Progress.tell`."""


def _say_nothing(count: int, note: str = "") -> None:
    pass


SILENT = SilentProgress()
