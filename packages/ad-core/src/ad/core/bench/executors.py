"""Where the runs of a bench are done: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from subprocess import Popen
from typing import IO, Any, NamedTuple, Protocol, final

from ad.core.bench.jobs import Job, Outcome, clear_way, finished, outcome_of, start, why_failed
from ad.core.errors import AdError, Interrupted, OutputError, PluginError, how_to_install
from ad.core.learning.signals import noted_signals
from ad.core.saved.claims import claim

_SECONDS_BETWEEN_LOOKS = 0.1
_RETRIES = 3


class Executor(Protocol):
    """Does runs."""

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do all of them; yields what came of each, in the order in which they end.

        A run that fails is an outcome with an error and no exception. What is running is stopped
        when the caller closes the iterator.

        Raises:
            Interrupted: On SIGTERM, after what was running has ended; in the main thread alone.
        """
        ...


@final
class LocalExecutor:
    """Processes of this machine.

    Args:
        at_once: How many runs go on at a time; the processor's cores are shared by them.
    """

    def __init__(self, at_once: int = 1) -> None:
        self.at_once = at_once

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do all of them; see `Executor.run`."""
        threads = str(max(1, (os.cpu_count() or 1) // self.at_once))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        waiting = list(reversed(jobs))
        running: list[_Running] = []
        with noted_signals([signal.SIGTERM]) as caught:
            try:
                while waiting or running:
                    _obey(caught)
                    while waiting and len(running) < self.at_once:
                        begun = _begin(waiting.pop(), environment)
                        if isinstance(begun, Outcome):
                            yield begun
                        else:
                            running.append(begun)
                    for one in list(running):
                        if one.process.poll() is not None:
                            running.remove(one)
                            one.log.close()
                            yield one.outcome()
                    time.sleep(_SECONDS_BETWEEN_LOOKS)
            finally:  # they save what they have learnt
                for one in running:
                    one.process.terminate()
                for one in running:
                    one.process.wait()
                    one.log.close()


def _obey(caught: Sequence[int]) -> None:
    """End the bench if a signal has asked for it."""
    # Noted first and raised here, since an exception from a signal's handler could come while a
    # process is being started, which would then go on unknown to anybody.
    if caught:
        msg = (
            f"Stopped by {signal.Signals(caught[0]).name}; the runs that were going on were told "
            "to save what they have learnt.\nhint: the same command goes on from there"
        )
        raise Interrupted(msg, status=128 + caught[0])


class _Running(NamedTuple):
    """A run that was started."""

    job: Job
    process: Popen[bytes]
    log: IO[bytes]
    begun: int
    """Bytes of the log before it."""

    def outcome(self) -> Outcome:
        """What came of it, once it has ended."""
        if finished(self.job):
            return outcome_of(self.job)
        why = why_failed(self.job, self.process.wait(), self.begun)
        return outcome_of(self.job, error=why)


def _begin(job: Job, environment: Mapping[str, str]) -> _Running | Outcome:
    """Start a run, unless another process is at it or has done it."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    log = job.log.open("ab")
    if not claim(log):  # the run's process inherits its log, and so outlives its bench as the owner
        log.close()
        error = (
            f"Another process trains in `{job.folder}`, so nothing there was touched.\n"
            "hint: wait until it has ended, or end it; then the same command does this run"
        )
        return outcome_of(job, error=error)
    if finished(job):  # by another bench, since this one began
        log.close()
        return outcome_of(job)
    begun = log.tell()
    try:
        return _Running(job, start(job, environment, log), log, begun)
    except OutputError as error:
        log.close()
        return outcome_of(job, error=str(error))


@final
class RayExecutor:
    """Workers of a Ray cluster, or of a local one if none is named by ``RAY_ADDRESS``.

    All must see the same folders. A run whose worker dies is begun again, up to three times.

    Args:
        cores: Processor cores of each run.
        gpus: GPUs of each run; may be a fraction.

    Raises:
        PluginError: If ray is not installed.
    """

    def __init__(self, cores: int = 1, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            msg = f"Ray is not installed ({error}).\nhint: {how_to_install('ad-core', 'ray')}"
            raise PluginError(msg) from error
        self.ray = ray
        self.cores = cores
        self.gpus = gpus

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Do all of them; see `Executor.run`."""
        ray = self.ray
        ours = not ray.is_initialized()
        if ours:
            ray.init(log_to_driver=False, include_dashboard=False)
        # A worker of its own for each run, so that memory and time are its own.
        task = ray.remote(
            num_cpus=self.cores, num_gpus=self.gpus, max_calls=1, max_retries=_RETRIES
        )(train_here)
        try:
            # After Ray has started, which handles SIGTERM in its own way.
            with noted_signals([signal.SIGTERM]) as caught:
                running = {task.remote(job, self.cores): job for job in jobs}
                while running:
                    _obey(caught)
                    ended, _ = ray.wait(
                        list(running), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS
                    )
                    for one in ended:
                        yield self._outcome(running.pop(one), one)
        finally:
            if ours:
                ray.shutdown()

    def _outcome(self, job: Job, task: Any) -> Outcome:  # noqa: ANN401 - Ray's reference
        """What came of a run, once its task has ended."""
        errors = self.ray.exceptions
        try:
            return outcome_of(job, error=self.ray.get(task))
        except errors.RayTaskError as error:
            said = str(error).strip()
            last = said.rpartition("\n")[2]
            why = f"It ended with an error that nobody foresaw: {last}"
            return outcome_of(job, error=f"{why}\n{said}")
        except errors.RayError as error:
            return outcome_of(job, error=f"Its worker died: {error}")


def train_here(job: Job, cores: int) -> str | None:
    """Do a run in this process.

    Returns:
        Why it failed; None if it did not.
    """
    import torch

    from ad.core.jobs.train import train

    if finished(job):  # by a worker that died right after
        return None
    torch.set_num_threads(cores)
    values = job.settings.asked()
    names = {"dataset": "dataset_type", "model": "model_type", "options": "model"}
    given: dict[str, Any] = {names.get(key, key): value for key, value in values.items()}
    goes_on = (job.folder / "checkpoint").is_dir()
    given["resume" if goes_on else "output_dir"] = job.folder
    try:
        clear_way(job)
        train(**given)
    except AdError as error:
        return str(error)
    return None
