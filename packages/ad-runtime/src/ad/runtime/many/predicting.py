"""Scores many pictures: shares them out, tries again what was lost, writes what was found."""

from __future__ import annotations

import hashlib
import os
import shlex
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, final

from ad.runtime.config import ExportConfig
from ad.runtime.drift import Drift, compare
from ad.runtime.errors import SettingError
from ad.runtime.findings import check_batch_size
from ad.runtime.many.ledger import Ledger
from ad.runtime.many.scoring import line_of_error
from ad.runtime.many.tasks import Crew, Load, Task, Use
from ad.runtime.map_files import make_map_folder
from ad.runtime.numbered import numbered_names
from ad.runtime.package import Package, read_package
from ad.runtime.paths import given_path
from ad.runtime.pictures.frames import AS_PICTURES, is_frame, video_of
from ad.runtime.progress import SILENT, Progress
from ad.runtime.results import refuse_without_threshold
from ad.runtime.runtime import load, usable_threads, warn_of_more_threads_than_cores
from ad.runtime.sources import find_sources

SIZE = 64
"""The most pictures of a chunk."""

RETRIES = 2
"""How often a chunk is tried again that one has died of; then its pictures are scored alone."""

_CHUNKS_EACH = 4  # at least, where there are so few pictures that the last one would be waited for


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Many:
    """What was found in many pictures."""

    output: Path
    """The file."""
    pictures: int
    """Of this shard, all of which are in it."""
    before: int
    """How many of them an earlier work had found."""
    verdicts: Counter[str]
    """How many there are of each, ``error`` among them."""
    drift: Drift
    """How the scores differ from those of calibration."""


def predict_many(
    export: str | Path,
    inputs: Sequence[str | Path],
    *,
    output: str | Path,
    workers: int = 1,
    executor: Literal["local", "ray"] = "local",
    shard: tuple[int, int] | None = None,
    maps: str | Path | None = None,
    resume: bool = False,
    engine: str = "auto",
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 1,
    category: str | None = None,
    threshold: float | None = None,
    min_area: int | None = None,
    verdicts_for: str = "",
    progress: Progress = SILENT,
    load: Load = load,
) -> Many:
    """Score pictures by several processes, into a file that can be gone on with.

    A kill of any process loses at most the chunks that were being scored, and no picture is ever
    counted twice. A chunk that a process dies of is tried again twice, then each of its pictures
    alone; the one that kills gets a line with an error.

    Args:
        export: What `ad export` wrote.
        inputs: Pictures and folders of pictures.
        output: The file ``.jsonl``, see `ad.runtime.many.ledger`; must not exist unless it is gone
            on with.
        workers: Processes, each with the model loaded.
        executor: ``local``, or ``ray``: see `ad.runtime.many.ray_actors`.
        shard: ``(k, n)``: only every n-th picture from the k-th on, counted from 1.
        maps: Folder to make for maps in the pictures' own pixels, see `ad.runtime.map_files`.
        resume: Go on with ``output`` if it is there; it must be of the same export, inputs, shard
            and verdicts. Pictures are told apart by their paths, not by what is in them.
        engine: As of `ad.runtime.load`.
        device: As of `ad.runtime.load`.
        threads: Of each process; all cores are shared out by default.
        batch_size: As of `Runtime.predict`.
        category: As of `Runtime.predict`.
        threshold: As of `Runtime.predict`.
        min_area: As of `Runtime.predict`.
        verdicts_for: What verdicts are needed for, as a user would say it: without a threshold that
            is refused, before anything is scored.
        progress: Where to show how far it is.
        load: Loads the model in each process.

    Raises:
        SettingError: If a setting cannot be.
        OutputError: If the file or the folder is there already, is of something else, or cannot be
            written.
        WorkerError: If processes die before they have loaded the model.
        AdError: As of `ad.runtime.load` and `find_sources`.
    """
    _check(workers, executor, shard, batch_size)
    file = given_path(output, "the output")
    if file.suffix != ".jsonl":
        msg = f"Results of many pictures are written to .jsonl; got `{file}`."
        raise SettingError(msg)
    package = read_package(given_path(export, "the exported model"))
    calibration, _ = package.config.calibration_of(category)
    limit = None if calibration is None else calibration.threshold
    refuse_without_threshold(verdicts_for, limit, package.config.name)
    for one in inputs:
        if (video := one.video if is_frame(one) else video_of(Path(one))) is not None:
            msg = (
                f"`{video}` is a video, whose frames are decoded one after the other: it cannot be "
                "shared out to processes. Leave `--workers`, `--executor`, `--shard` and "
                "`--resume` out (`predict_many`: take `Runtime.stream`), or give pictures: "
                f"{AS_PICTURES.format(video=shlex.quote(str(video)))}"
            )
            raise SettingError(msg)
    everything = [one for one in find_sources([*inputs]) if isinstance(one, Path)]
    names = numbered_names(everything, ".npz")
    part = slice(None) if shard is None else slice(shard[0] - 1, None, shard[1])
    paths = everything[part]
    folder = None if maps is None else given_path(maps, "the folder for maps")
    if threads is not None and device == "cpu" and executor == "local":
        warn_of_more_threads_than_cores(threads, workers)
    use = Use(
        export=package.path,
        engine=engine,
        device=device,
        threads=threads or max(1, usable_threads() // workers),
        batch_size=batch_size,
        category=category,
        threshold=threshold,
        min_area=min_area,
        maps=folder,
    )
    head = {
        "export": package.identity,
        "inputs": _sha256(everything),
        "shard": None if shard is None else list(shard),
        "category": category,
        "threshold": threshold,
        "engine": engine,
        "device": device,
        "maps": None if folder is None else str(folder),
        "min_area": 1 if min_area is None else min_area,
        "pictures": len(paths),
        "size": max(1, min(SIZE, -(-len(paths) // (_CHUNKS_EACH * workers)))),
    }
    with Ledger(file, head, resume=resume) as ledger:
        before = sum(ledger.verdicts.values())
        chunks = [
            _task(chunk, ledger.of(chunk), paths, names[part] if folder else None)
            for chunk in ledger.chunks
            if chunk not in ledger.done
        ]
        if folder is not None:
            make_map_folder(folder, resume=resume)
        if chunks:
            crew = _crew(executor, use, load, min(workers, len(chunks)), package)
            _work(crew, chunks, ledger, progress, len(paths))
        ledger.begin()
        return Many(
            output=file,
            pictures=len(paths),
            before=before,
            verdicts=ledger.verdicts,
            drift=_drift(package.config, ledger.scores, use),
        )


def _drift(config: ExportConfig, scores: Sequence[float], use: Use) -> Drift:
    calibration, together = config.calibration_of(use.category)
    if calibration is not None and use.threshold is not None:
        calibration = calibration.by_hand(use.threshold)
    return compare(calibration, scores, categories=together)


def finished(crew: Crew, chunks: Sequence[Task]) -> Iterator[tuple[Task, list[dict[str, Any]]]]:
    """Have all chunks done; yields each with its lines, in the order in which they end.

    Args:
        crew: Those who score, ready.
        chunks: What they score.

    Raises:
        AdError: If no picture can be scored at all.
    """
    waiting = deque(chunks)
    apart: dict[int, dict[int, dict[str, Any]]] = {}
    whole = {task.chunk: task for task in chunks}
    told: set[str] = set()
    while waiting or crew.busy:
        while waiting and crew.free(waiting[0]):
            crew.give(waiting.popleft())
        for task, answer in crew.ended():
            for text in answer.warnings:
                if text not in told:
                    told.add(text)
                    warnings.warn(text, stacklevel=2)
            if answer.error is not None:
                raise answer.error
            lines = [dict(line) for line in answer.lines]
            if answer.again:
                waiting.appendleft(task)
                continue
            if answer.died is not None and task.place is None:
                waiting.extendleft(reversed(_again(task)))
                continue
            if answer.died is not None:
                why = f"The process that scored this picture alone {answer.died} while it did."
                lines = [line_of_error(task.paths[0], why)]
            if task.place is None:
                yield task, lines
                continue
            own = apart.setdefault(task.chunk, {})
            own[task.place] = lines[0]
            if len(own) == len(whole[task.chunk].paths):
                yield whole[task.chunk], [line for _, line in sorted(apart.pop(task.chunk).items())]


def _again(task: Task) -> list[Task]:
    """What is done about a chunk that one has died of."""
    if task.deaths < RETRIES:
        return [replace(task, deaths=task.deaths + 1)]
    return [
        Task(chunk=task.chunk, paths=(path,), names=task.names[place : place + 1], place=place)
        for place, path in enumerate(task.paths)
    ]


def _work(
    crew: Crew, chunks: Sequence[Task], ledger: Ledger, progress: Progress, pictures: int
) -> None:
    done = pictures - sum(len(task.paths) for task in chunks)
    with (
        progress.step("predicting", total=pictures, unit="pictures", done=done) as advance,
        crew,
    ):
        for task, lines in finished(crew, chunks):
            ledger.add(task.chunk, lines)
            advance(len(lines))


def _crew(executor: str, use: Use, load: Load, workers: int, package: Package) -> Crew:
    if executor == "local":
        from ad.runtime.many.local import LocalCrew

        return LocalCrew(use, load, workers)
    from ad.runtime.many.ray_actors import RayCrew

    return RayCrew(use, load, workers, package)


def _task(chunk: int, part: range, paths: Sequence[Path], names: Sequence[str] | None) -> Task:
    return Task(
        chunk=chunk,
        paths=(*paths[part.start : part.stop],),
        names=() if names is None else (*names[part.start : part.stop],),
    )


def _sha256(paths: Sequence[Path]) -> str:
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(os.fsencode(path) + b"\0")
    return hashed.hexdigest()


def _check(workers: int, executor: str, shard: tuple[int, int] | None, batch_size: int) -> None:
    if type(workers) is not int or not 1 <= workers <= 1024:
        msg = f"`workers` must be a whole number from 1 to 1024; got {workers!r}."
        raise SettingError(msg)
    if executor not in ("local", "ray"):
        msg = f"`executor` must be local or ray; got {executor!r}."
        raise SettingError(msg)
    check_batch_size(batch_size)
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        msg = f"`shard` is K/N, the K-th of N parts, with K from 1 to N; got {shard[0]}/{shard[1]}."
        raise SettingError(msg)
