"""Signals that ask a process to stop, for work that has something to save before it ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ONE_REQUEST = 1.0
"""Seconds in which a signal that comes again is the same request: a job scheduler sends it to all
processes of a group, and the one that started the others passes it on to them."""


@contextmanager
def noted_signals(numbers: Sequence[signal.Signals]) -> Iterator[list[int]]:
    """Note signals, and do nothing else; one that comes again later is obeyed.

    Outside of the main thread, which alone hears of signals, they do what they did before.

    Args:
        numbers: Which.

    Yields:
        The numbers of those that came, as they come.
    """
    caught: list[int] = []
    if not numbers or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.getsignal(number) for number in numbers}
    first: dict[int, float] = {}

    def note(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number not in first:
            first[number] = now
            caught.append(number)
        elif now - first[number] >= _ONE_REQUEST:
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
