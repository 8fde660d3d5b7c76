import threading
from concurrent.futures import Future

import pytest

from ad.runtime.ordered import in_order


def test_results_come_in_order_whichever_is_done_first():
    second_done = threading.Event()

    def work(number):
        if number == 0:
            assert second_done.wait(10)
        if number == 1:
            second_done.set()
        return 10 * number

    assert list(in_order(iter(range(5)), work, threads=2)) == [0, 10, 20, 30, 40]


def test_items_are_asked_for_by_one_thread_and_no_further_ahead_than_there_are_threads():
    asked = []

    def items():
        for number in range(9):
            asked.append((number, threading.get_ident()))
            yield number

    results = in_order(items(), lambda number: threading.get_ident(), threads=2)
    workers = [next(results)]
    assert [number for number, _ in asked] == [0, 1, 2]
    workers += results
    assert {thread for _, thread in asked} == {threading.get_ident()}
    assert threading.get_ident() not in workers
    assert len(workers) == 9


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_what_had_come_before_the_items_failed_is_yielded_first(kind):
    def items():
        yield from range(3)
        raise kind

    results = in_order(items(), str, threads=8)
    assert [next(results) for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(kind):
        next(results)


def test_work_that_fails_is_told_in_its_place():
    results = in_order(iter([1, 0, 2]), lambda number: 1 // number, threads=4)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_under_way_when_a_person_stops_the_wait_is_yielded_first(monkeypatch):
    whole_result, waits = Future.result, []

    def stopped_once(future, timeout=None):
        waits.append(future)
        if len(waits) == 2:
            raise KeyboardInterrupt
        return whole_result(future, timeout)

    monkeypatch.setattr(Future, "result", stopped_once)
    asked = iter(range(9))
    results = in_order(asked, str, threads=2)
    assert [next(results) for _ in range(4)] == ["0", "1", "2", "3"]
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert next(asked) == 4


def test_one_who_stops_early_waits_for_no_thread_and_gets_nothing_begun():
    asked, done = threading.Event(), []

    def work(number):
        if number:
            asked.wait(10)
        done.append(number)

    results = in_order(iter(range(9)), work, threads=2)
    next(results)
    results.close()
    assert done == [0]  # 1 is under way, and a thread that may have to let it go on is free to
    asked.set()
    for thread in threading.enumerate():
        if thread.name.startswith("draw"):
            thread.join(10)
    assert max(done) <= 2
