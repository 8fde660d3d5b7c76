"""Signals that are noted, and what was done with them before."""

import signal
import threading

import pytest

import ad.core.learning.signals
from ad.core.learning.signals import noted_signals


@pytest.fixture
def heard():
    """What a handler of the test's own hears of SIGTERM."""
    numbers = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_a_signal_is_noted_and_the_handler_comes_back(heard):
    with noted_signals([signal.SIGTERM]) as caught:
        assert caught == []
        signal.raise_signal(signal.SIGTERM)
        assert (caught, heard) == ([signal.SIGTERM], [])
    signal.raise_signal(signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_of_one_that_comes_again_at_once_nothing_more_is_heard(heard, monkeypatch):
    monkeypatch.setattr(ad.core.learning.signals, "_ONE_REQUEST", 1e9)
    with noted_signals([signal.SIGTERM, signal.SIGINT]) as caught:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
    assert (caught, heard) == ([signal.SIGTERM, signal.SIGINT], [])


def test_one_that_comes_again_later_is_obeyed(heard, monkeypatch):
    monkeypatch.setattr(ad.core.learning.signals, "_ONE_REQUEST", 0)
    with noted_signals([signal.SIGTERM]) as caught:
        signal.raise_signal(signal.SIGTERM)
        assert (caught, heard) == ([signal.SIGTERM], [])
        signal.raise_signal(signal.SIGTERM)
        assert (caught, heard) == ([signal.SIGTERM], [signal.SIGTERM])


def test_where_none_is_to_be_noted_or_can_be_nothing_changes(heard):
    with noted_signals([]) as caught:
        signal.raise_signal(signal.SIGTERM)
    assert (caught, heard) == ([], [signal.SIGTERM])
    seen = []

    def elsewhere():
        with noted_signals([signal.SIGTERM]):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
