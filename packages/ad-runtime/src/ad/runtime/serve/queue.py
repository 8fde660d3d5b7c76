"""Who computes: threads that decode, threads that infer, and how many requests wait for them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import SettingError
from ad.runtime.runtime import Prepared, Runtime
from ad.runtime.serve.limits import Refused

Scored = tuple[NDArray[np.float32], NDArray[np.float32] | None]
Took = Callable[[str, float], None]
"""Told of a stage (``wait``, ``infer``) and its seconds."""
T = TypeVar("T")

_RETRY_AFTER = "1"  # seconds, for those who come when all is taken


@dataclass(slots=True)
class _Job:
    runtime: Runtime
    frames: NDArray[np.uint8]
    took: Took
    scored: Future[Scored] = field(default_factory=Future)
    since: float = field(default_factory=time.perf_counter)


class Inference:
    """Threads that score frames, first come first served.

    Where batches are worth it, a thread takes what waits for the same model, and never waits for
    more. A batch that fails is tried again one by one: who sent something bad fails alone.

    Args:
        workers: Number of threads.
    """

    def __init__(self, workers: int) -> None:
        self._jobs: deque[_Job] = deque()
        self._some = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, runtime: Runtime, frames: NDArray[np.uint8], took: Took) -> Future[Scored]:
        """Have frames scored together.

        Args:
            runtime: By which model.
            frames: ``[T, h, w, 3]``; at most `batch_of` its model.
            took: Told how long they waited and how long they took.

        Returns:
            Their scores ``[T]`` and maps ``[T, h, w]``; if it is cancelled before its turn they are
            never computed.
        """
        job = _Job(runtime, frames, took)
        with self._some:
            if self._closed:
                msg = "the server ends"
                raise RuntimeError(msg)
            self._jobs.append(job)
            self._some.notify()
        return job.scored

    def close(self) -> None:
        """Drop what waits and end the threads when they are done."""
        with self._some:
            self._closed = True
            for job in self._jobs:
                job.scored.cancel()
            self._jobs.clear()
            self._some.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._some:
                while not self._jobs and not self._closed:
                    self._some.wait()
                if self._closed:
                    return
                jobs = self._next()
            for job in jobs:
                job.took("wait", time.perf_counter() - job.since)
            if jobs:
                _score(jobs)

    def _next(self) -> list[_Job]:
        """The first job that somebody waits for, and those that can go along."""
        jobs: list[_Job] = []
        room = 0
        passed: list[_Job] = []
        while self._jobs:
            job = self._jobs.popleft()
            if job.scored.cancelled():
                continue
            if jobs and (job.runtime is not jobs[0].runtime or len(job.frames) > room):
                passed.append(job)
                continue
            if not job.scored.set_running_or_notify_cancel():
                continue
            if not jobs:
                room = batch_of(job.runtime)
            jobs.append(job)
            room -= len(job.frames)
            if room <= 0:
                break
        self._jobs.extendleft(reversed(passed))
        return jobs


def batch_of(runtime: Runtime) -> int:
    """How many frames are scored at once: one on a CPU, where more are no faster."""
    return 1 if runtime.engine.device == "cpu" else runtime.config.input.max_batch


def _score(jobs: list[_Job]) -> None:
    begun = time.perf_counter()
    try:
        frames = jobs[0].frames if len(jobs) == 1 else np.concatenate([j.frames for j in jobs])
        scores, maps = jobs[0].runtime.score(frames)
    except BaseException as error:
        if len(jobs) == 1:
            jobs[0].scored.set_exception(error)
            return
        for job in jobs:
            _score([job])
        return
    seconds = time.perf_counter() - begun
    at = 0
    for job in jobs:
        some = slice(at, at := at + len(job.frames))
        job.took("infer", seconds)
        job.scored.set_result((scores[some], None if maps is None else maps[some]))


class Work:
    """All threads of a server, and how many requests it takes.

    Args:
        cores: Threads that decode and encode.
        workers: Threads that infer.
        most: Requests at once.
    """

    def __init__(self, *, cores: int, workers: int, most: int) -> None:
        self.inference = Inference(workers)
        self._pool = ThreadPoolExecutor(cores, "decode")
        self._most = most
        self.requests = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one request.

        Raises:
            Refused: If all are taken.
        """
        if self.requests >= self._most:
            msg = (
                f"The server is busy: {self._most} requests are being worked on, the most at once. "
                "Send it again later."
            )
            raise Refused(503, msg, {"Retry-After": _RETRY_AFTER})
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call something that takes its time; it is not begun once nobody waits for it."""
        return await asyncio.wrap_future(self._pool.submit(function))

    async def score(self, runtime: Runtime, prepared: Prepared, took: Took) -> Scored:
        """Score the frames of one picture.

        Args:
            runtime: By which model.
            prepared: The picture. Of one that is cut, tiles take their turns with those of others.
            took: See `Inference.submit`.

        Returns:
            Scores ``[T]`` and maps ``[T, h, w]``, or None for maps.
        """
        size = batch_of(runtime)
        scores, maps = [], []
        for at in range(0, len(prepared), size):
            frames = prepared.some_frames(at, at + size)
            some = await asyncio.wrap_future(self.inference.submit(runtime, frames, took))
            scores.append(some[0])
            if some[1] is not None:
                maps.append(some[1])
        return np.concatenate(scores), np.concatenate(maps) if maps else None

    def close(self) -> None:
        """End all threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.inference.close()


def shared_out(cores: int, workers: int, threads: int | None) -> int:
    """Threads of the engine for each worker.

    Args:
        cores: That this process may use.
        workers: That infer at the same time.
        threads: As a user asked for; as many as there are by default.

    Raises:
        SettingError: If they are more than the cores.
    """
    if not 1 <= workers <= cores:
        msg = f"`--workers` must be from 1 to {cores}, the cores of this machine; got {workers}."
        raise SettingError(msg)
    if threads is None:
        return cores // workers
    if not 1 <= workers * threads <= cores:
        msg = (
            f"`--workers {workers}` times `--threads {threads}` must be from 1 to {cores}, the "
            "cores of this machine: more only wait for each other."
        )
        raise SettingError(msg)
    return threads
