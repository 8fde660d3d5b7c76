"""Work on one thing after another by threads, with the results in the order of the things."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def threads_of(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads that work ahead of a generator: if it ends early, nobody wants the rest.

    Nor is what they are at waited for. A generator that was forgotten is closed by the thread that
    happens to collect garbage, and that one may hold what they wait for: a video that it decodes.

    Args:
        count: How many.
        name: What they are called.
    """
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_order(
    items: Iterator[Item], work: Callable[[Item], Result], *, threads: int | None = None
) -> Iterator[Result]:
    """Work on items while the next ones come, as many at once as there are threads.

    Args:
        items: Asked for the next one by the caller's thread alone.
        work: Done by other threads.
        threads: One for each core up to eight by default.

    Yields:
        A result for each item, in their order. If the items end by an error, the results of those
        that had come are yielded before it is raised.
    """
    threads = threads or min(8, os.cpu_count() or 1)
    ahead: deque[Future[Result]] = deque()
    failure: BaseException | None = None

    def first() -> Result:
        """What is next, even where a person stops the wait for it."""
        nonlocal failure
        try:
            result = ahead[0].result()
        except KeyboardInterrupt as error:
            failure = error
            result = ahead[0].result()
        ahead.popleft()
        return result

    with threads_of(threads, "draw") as pool:
        while failure is None:
            try:
                item = next(items)
            except StopIteration:
                break
            except (Exception, KeyboardInterrupt) as error:  # once what was before it is told
                failure = error
                break
            ahead.append(pool.submit(work, item))
            if len(ahead) > threads:
                yield first()
        while ahead:
            yield first()
    if failure is not None:
        raise failure
