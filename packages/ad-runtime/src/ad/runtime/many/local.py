"""Those who score as processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Self, final

from ad.runtime.errors import WorkerError
from ad.runtime.many.scoring import Scorer
from ad.runtime.many.tasks import Answer, Load, Task, Use

STARTS = 3
"""How often one is started before it is taken for one that cannot be."""

_SECONDS_TO_END = 10.0


@final
class LocalCrew:
    """See `ad.runtime.many.tasks.Crew`; a process each, started anew and sharing nothing.

    Args:
        use: How the model is used.
        load: Loads it; a function that a new process can import.
        workers: How many.
    """

    def __init__(self, use: Use, load: Load, workers: int) -> None:
        self._use, self._load, self._count = use, load, workers
        self._workers: list[_Worker] = []
        self._told: deque[str] = deque()

    def __enter__(self) -> Self:
        """See `Crew.__enter__`."""
        try:
            self._workers = [_Worker(self._use, self._load) for _ in range(self._count)]
            self._workers = [self._ready(worker) for worker in self._workers]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """See `Crew.__exit__`."""
        for worker in self._workers:
            worker.end(at_once=worker.task is not None)

    def free(self, task: Task) -> bool:  # noqa: ARG002
        """See `Crew.free`."""
        return any(worker.task is None for worker in self._workers)

    @property
    def busy(self) -> bool:
        """See `Crew.busy`."""
        return any(worker.task is not None for worker in self._workers)

    def give(self, task: Task) -> None:
        """See `Crew.give`."""
        worker = next(worker for worker in self._workers if worker.task is None)
        worker.task = task
        with contextlib.suppress(OSError):  # it has died since: `ended` finds out
            worker.pipe.send(task)

    def ended(self) -> list[tuple[Task, Answer]]:
        """See `Crew.ended`."""
        at_work = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        done = []
        for pipe in wait([*at_work]):
            assert isinstance(pipe, Connection)
            worker = at_work[pipe]
            assert worker.task is not None
            task, answer = worker.task, worker.answer()
            worker.task = None
            if answer.died is not None:
                at = self._workers.index(worker)
                self._workers[at] = self._ready(_Worker(self._use, self._load))
            if self._told:
                answer = _with(answer, self._told)
            done.append((task, answer))
        return done

    def _ready(self, worker: _Worker) -> _Worker:
        for _ in range(STARTS):
            begun = worker.answer()
            if begun.died is None:
                self._told.extend(begun.warnings)
                if begun.error is None:
                    return worker
                worker.end(at_once=False)
                raise begun.error
            worker = _Worker(self._use, self._load)
        worker.end(at_once=True)
        msg = (
            f"A process that was to score pictures by `{self._use.export}` {begun.died} before it "
            f"had loaded the model, {STARTS} times. Does `ad-runtime verify` pass, and is there "
            "memory for so many `--workers`?"
        )
        raise WorkerError(msg)


def _with(answer: Answer, told: deque[str]) -> Answer:
    texts = (*told, *answer.warnings)
    told.clear()
    return Answer(lines=answer.lines, warnings=texts, error=answer.error, died=answer.died)


@final
class _Worker:
    """One process and the pipe to it."""

    def __init__(self, use: Use, load: Load) -> None:
        # Forked, it would share threads' locks with this process and the engines' state.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        self.process: BaseProcess = context.Process(
            target=_work, args=(use, load, theirs), daemon=True
        )
        self.process.start()
        theirs.close()  # or its end would not be seen here

    def answer(self) -> Answer:
        """Wait for what it says, or how it dies."""
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return Answer(died=_how(self.process.exitcode))
        assert isinstance(said, Answer)
        return said

    def end(self, *, at_once: bool) -> None:
        """End the process: at the end of its pipe, or in the middle of a task."""
        self.pipe.close()
        if not at_once:
            self.process.join(_SECONDS_TO_END)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _work(use: Use, load: Load, pipe: Connection) -> None:
    """What the process does until its parent closes the pipe, or is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    scorer = Scorer(use, load)
    with contextlib.suppress(EOFError, OSError):
        pipe.send(scorer.begin())
        while True:
            pipe.send(scorer.score(pipe.recv()))
