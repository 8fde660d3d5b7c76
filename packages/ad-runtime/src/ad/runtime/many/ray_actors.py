"""Those who score as actors of a Ray cluster, or of a local one.

`ray.util.ActorPool` is not used: of a task that fails it does not say which one it was, and that is
what is tried again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

from ad.runtime.errors import MissingExtraError, SettingError, WorkerError, how_to_install
from ad.runtime.many.scoring import Scorer
from ad.runtime.many.tasks import Answer, Load, Task, Use
from ad.runtime.package import Package
from ad.runtime.runtime import Runtime

_IN_FLIGHT = 2  # tasks: one is at hand as soon as the other has ended
_RESTARTS = 2
_STARTS = 3


@final
class RayCrew:
    """See `ad.runtime.many.tasks.Crew`; the cluster is named by ``RAY_ADDRESS``.

    The exported model goes to all machines by itself. Pictures, and the folder for maps, must be on
    paths that all of them see.

    Args:
        use: How the model is used; ``threads`` are the cores that each asks for.
        load: Loads it.
        workers: How many.
        package: The model.

    Raises:
        MissingExtraError: If ray is not installed.
    """

    def __init__(self, use: Use, load: Load, workers: int, package: Package) -> None:
        try:
            import ray
        except ImportError as error:
            msg = f"Ray is not installed ({error}): {how_to_install('ad-runtime', 'ray')}"
            raise MissingExtraError(msg) from error
        self._ray: Any = ray
        self._use, self._load, self._count, self._package = use, load, workers, package
        self._actors: list[Any] = []
        self._at_work: dict[Any, deque[tuple[Any, Task]]] = {}
        self._told: tuple[str, ...] = ()
        self._ours = False

    def __enter__(self) -> Self:
        """See `Crew.__enter__`.

        Raises:
            SettingError: If the cluster has not so many cores.
        """
        ray = self._ray
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(log_to_driver=False, include_dashboard=False)
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))
            if self._count * self._use.threads > cores:
                msg = (
                    f"{self._count} `workers` of {self._use.threads} `threads` each are more than "
                    f"the {cores} cores of the Ray cluster. Take fewer of either."
                )
                raise SettingError(msg)
            self._files = ray.put(_files_of(self._package))
            self._actors = [self._new() for _ in range(self._count)]
            self._actors = [self._ready(actor) for actor in self._actors]
            self._at_work = {actor: deque() for actor in self._actors}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """See `Crew.__exit__`."""
        for actor in self._actors:
            with contextlib.suppress(Exception):  # a cluster that is gone has no actors
                self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()

    def free(self, task: Task) -> bool:
        """See `Crew.free`."""
        # An actor that dies at a task may take along the answer to the one before, which had not
        # been sent yet. A chunk is then tried again; a picture alone would be blamed.
        at_once = _IN_FLIGHT if task.place is None else 1
        return any(
            len(tasks) < at_once and not any(one.place is not None for _, one in tasks)
            for tasks in self._at_work.values()
        )

    @property
    def busy(self) -> bool:
        """See `Crew.busy`."""
        return any(self._at_work.values())

    def give(self, task: Task) -> None:
        """See `Crew.give`."""
        able = {
            actor: tasks
            for actor, tasks in self._at_work.items()
            if not any(one.place is not None for _, one in tasks)
        }
        actor, tasks = min(able.items(), key=lambda item: len(item[1]))
        tasks.append((actor.score.remote(task), task))

    def ended(self) -> list[tuple[Task, Answer]]:
        """See `Crew.ended`."""
        references = [one for tasks in self._at_work.values() for one, _ in tasks]
        self._ray.wait(references, num_returns=1)
        done: list[tuple[Task, Answer]] = []
        for actor, tasks in [*self._at_work.items()]:
            while tasks and self._ray.wait([tasks[0][0]], timeout=0)[0]:
                reference, task = tasks.popleft()
                answer = self._answer(reference)
                done.append((task, answer))
                if answer.died is not None:
                    # Those behind it never began; what they would have found is not counted.
                    done += [(one, Answer(again=True)) for _, one in tasks]
                    self._replace(actor)
                    break
        if self._told and done:
            task, answer = done[0]
            told = (*self._told, *answer.warnings)
            done[0], self._told = (task, dataclasses.replace(answer, warnings=told)), ()
        return done

    def _answer(self, reference: Any) -> Answer:  # noqa: ANN401 - Ray's reference
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayActorError:
            return Answer(died="was killed, or ended by itself,")
        assert isinstance(answer, Answer)
        return answer

    def _replace(self, actor: Any) -> None:  # noqa: ANN401
        """Wait until Ray has restarted one that died; take a new one if it does not any more."""
        del self._at_work[actor]
        self._at_work[fresh := self._ready(actor)] = deque()
        self._actors[self._actors.index(actor)] = fresh

    def _ready(self, actor: Any) -> Any:  # noqa: ANN401
        for _ in range(_STARTS):
            begun = self._answer(actor.begin.remote())
            if begun.died is None:
                self._told = (*self._told, *begun.warnings)
                if begun.error is not None:
                    raise begun.error
                return actor
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
            actor = self._new()
        self._ray.kill(actor)
        msg = (
            f"An actor that was to score pictures by `{self._use.export}` died before it had "
            f"loaded the model, {_STARTS} times. Is ad-runtime installed on all machines, in one "
            "version, and is there memory for so many `--workers`?"
        )
        raise WorkerError(msg)

    def _new(self) -> Any:  # noqa: ANN401
        gpus = 0 if self._use.device.startswith("cpu") else 1
        actor = self._ray.remote(num_cpus=self._use.threads, num_gpus=gpus, max_restarts=_RESTARTS)(
            _Actor
        )
        return actor.remote(self._use, self._load, self._files)


class _Actor:
    """Scores in a worker of Ray."""

    def __init__(self, use: Use, load: Load, files: Mapping[str, bytes]) -> None:
        def unpacked(export: Path, **settings: Any) -> Runtime:  # noqa: ANN401
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                here = Path(folder) / export.name
                home = here if export.name not in files else here.parent
                home.mkdir(exist_ok=True)
                for name, content in files.items():
                    (home / name).write_bytes(content)
                return load(here, **settings)

        self._scorer = Scorer(use, unpacked)

    def begin(self) -> Answer:
        """Load the model."""
        return self._scorer.begin()

    def score(self, task: Task) -> Answer:
        """Make the lines of a task."""
        return self._scorer.score(task)


def _files_of(package: Package) -> dict[str, bytes]:
    """A model as Ray carries it from machine to machine."""
    if package.path.is_dir():
        names, home = [*package.sha256, "manifest.json"], package.path
    else:
        names, home = [*package.sha256], package.path.parent
    return {name: (home / name).read_bytes() for name in names}
