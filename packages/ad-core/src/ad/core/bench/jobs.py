"""One run of a bench: what it is, whether it is done, how it is started and what came of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ad.core.bench.contenders import Contender, contenders
from ad.core.data.finding import collect
from ad.core.data.places import find_places
from ad.core.data.samples import fingerprint
from ad.core.errors import AdError, SettingError
from ad.core.errors import listed as names_of
from ad.core.jobs.run_directory import claim_run, command_line, folder_name
from ad.core.registry import get_dataset
from ad.core.saved.record import read_costs, read_run
from ad.core.settings import DEFAULT_HOLDOUT, RunSettings, run_settings
from ad.core.thresholds.verdicts import Verdicts
from ad.core.trainer import OnePassTrainer
from ad.runtime.files import to_json

_LAST_WORDS = 2000
"""Characters of a failed run's error, or of what it said last, that are kept."""

_ERROR = "error: "
"""How the line begins in which a command says why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training."""

    settings: RunSettings
    """All that it is made of."""
    category: str
    """What it is called in tables."""
    label: str
    """The model, with the options that are not its catalogue's: ``patchcore[coreset_ratio=0.01]``.
    """
    folder: Path
    """Its run directory; its name ends with a hash of settings and data."""

    @property
    def dataset(self) -> str:
        """Layout of the data."""
        return self.settings.dataset

    @property
    def name(self) -> str:
        """Unlike that of any other job of the bench."""
        return self.folder.name

    @property
    def log(self) -> Path:
        """What the run says."""
        return self.folder.with_name(f"{self.name}.log")

    def words(self) -> list[str]:
        """The command line that begins the run, or goes on with it, after the interpreter."""
        how = "--resume" if (self.folder / "checkpoint").is_dir() else "--output"
        return ["-m", "ad.core.cli", *command_line(self.settings)[1:], how, str(self.folder)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a job."""

    job: Job
    """The job."""
    skipped: bool = False
    """It was done before."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The figures; empty if it failed."""
    fit_seconds: float | None = None
    """How long it learnt; of a resumed run, the last part. None if its log does not say."""
    seconds_per_picture: float | None = None
    """Decoding and scoring a test picture; None if its log does not say."""
    peak_memory_bytes: int | None = None
    """Largest memory of the run's process, learning and testing: of the GPU, if it ran on one, and
    of the machine otherwise. None if its log does not say."""
    num_pictures: int | None = None
    """Test pictures; None if it failed."""
    verdicts: Verdicts | None = None
    """How the threshold did on them; None without one."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Its ``run.json``: settings, device, machine, versions; empty if it cannot be read."""
    error: str | None = None
    """Why it is not done, in the first line; more on it below. None if it is done."""

    @property
    def reason(self) -> str | None:
        """Why it is not done, in one line; None if it is."""
        return None if self.error is None else self.error.strip().partition("\n")[0]

    def row(self) -> dict[str, Any]:
        """As ``results.json`` has it."""
        job = self.job
        return {
            "dataset": job.dataset,
            "category": job.category,
            "model": job.settings.model,
            "label": job.label,
            "seed": job.settings.seed,
            "status": "done" if self.error is None else "failed",
            "metrics": dict(self.metrics),
            "num_pictures": self.num_pictures,
            "verdicts": None if self.verdicts is None else self.verdicts._asdict(),
            "fit_seconds": self.fit_seconds,
            "seconds_per_picture": self.seconds_per_picture,
            "peak_memory_bytes": self.peak_memory_bytes,
            "settings": job.settings.model_dump(mode="json"),
            **{key: self.record.get(key) for key in ("device", "precision", "threads")},
            **{key: self.record.get(key) or {} for key in ("machine", "versions")},
            "run": str(job.folder),
            "error": self.error,
        }


def plan(
    datasets: Sequence[str],
    categories: Sequence[str],
    models: Sequence[str],
    *,
    seeds: Sequence[int],
    output: Path,
    data_roots: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **given: Any,  # noqa: ANN401 - checked by `run_settings`
) -> list[Job]:
    """Check all settings and list the runs, before the first of them starts.

    Args:
        datasets: Layouts.
        categories: Of any of the data sets, each taken where it exists; ``all`` for every one.
        models: Registry names, or ``NAME[KEY=VALUE;...]`` with options; one that is named twice,
            or by an alias too, runs once.
        seeds: Each makes a run of its own.
        output: The bench's folder.
        data_roots: Folder of each data set that needs one.
        options: For all models that have them: see `contenders`.
        given: Fields of `RunSettings` that are the same for all; None for the catalogue's. Unless
            told otherwise, a tenth is held out for all: models are to learn from the same pictures.

    Raises:
        AdError: One of its kinds, for anything that can be wrong with settings or data.
    """
    places = find_places(list(map(get_dataset, datasets)), categories, data_roots or {})
    given["holdout"] = DEFAULT_HOLDOUT if given.get("holdout") is None else given["holdout"]
    listed = contenders(models, options or {}, budget=given.get("budget") or "default")
    without = _schedules(listed, given)
    jobs = []
    for place in places:
        dataset, title, root = place.dataset, place.title, place.root
        for one in listed:
            for seed in seeds:
                settings = run_settings(
                    one.spec,
                    one.trainer,
                    options=one.options,
                    dataset=dataset.name,
                    category=place.category,
                    data_root=None if root is None else str(root),
                    seed=seed,
                    **{**given, **(without if _in_one_pass(one) else {})},
                )
                samples = collect(
                    *(dataset, place.category),
                    root=root,
                    seed=seed,
                    labelled=settings.supervised,
                )
                values = settings.model_dump()
                if not settings.supervised:  # so that runs are found again that knew nothing of it
                    del values["supervised"]
                content = [values, fingerprint(samples)]
                digest = hashlib.sha256(to_json(content)).hexdigest()[:10]
                model = one.label.removesuffix("]")
                name = f"{dataset.name}-{title}-{model}-seed{seed}-{digest}"
                folder = output.absolute() / "runs" / folder_name(name)
                jobs.append(Job(settings=settings, category=title, label=one.label, folder=folder))
    return jobs


def _in_one_pass(one: Contender) -> bool:
    return issubclass(one.trainer, OnePassTrainer)


def _schedules(listed: Sequence[Contender], given: Mapping[str, Any]) -> dict[str, None]:
    """How long to learn, which is not set for models that learn in one pass; warns of these.

    Raises:
        SettingError: If none of the models learns longer.
    """
    once = {one.spec.name for one in listed if _in_one_pass(one)}
    longer = {
        name: f"`--{name.removeprefix('num_')} {given[name]}` (`{name}`)"
        for name, usual in (("num_epochs", 1), ("num_steps", None))
        if given.get(name) not in (None, usual)
    }
    if not (once and longer):
        return {}
    said = " and ".join(longer.values())
    if all(map(_in_one_pass, listed)):
        msg = f"{said}: {names_of(once)} learn in one pass over the pictures. Leave it out."
        raise SettingError(msg)
    warnings.warn(
        f"{said} is not set for {names_of(once)}: there is one pass over the pictures.",
        stacklevel=3,
    )
    return dict.fromkeys(longer)


def finished(job: Job) -> bool:
    """Whether the run was done before: its metrics are written last."""
    return (job.folder / "metrics.json").is_file()


def clear_way(job: Job) -> None:
    """Remove what a killed run left that cannot be gone on with.

    Raises:
        OutputError: If another process trains there.
    """
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    if job.folder.exists() and not (job.folder / "checkpoint").is_dir():
        with claim_run(job.folder) as log:  # nobody else trains there
            if sys.platform == "win32":  # where an open file cannot be removed
                log.close()
            shutil.rmtree(job.folder)


def start(job: Job, environment: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start the run in a process of its own, which writes to a log."""
    clear_way(job)
    return subprocess.Popen(
        [sys.executable, *job.words()],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(environment),
    )


def outcome_of(job: Job, *, skipped: bool = False, error: str | None = None) -> Outcome:
    """Read what a run has written.

    Args:
        job: The run, over or never begun.
        skipped: It was done before.
        error: Why it failed, if it did; see `why_failed`.
    """
    if not finished(job):
        return Outcome(job=job, error=error or "It ended without figures and without an error.")
    found = json.loads((job.folder / "metrics.json").read_text())
    costs = read_costs(job.folder)
    record: dict[str, Any] = {}
    with contextlib.suppress(AdError):  # somebody removed it: the figures are there all the same
        record = read_run(job.folder)
    return Outcome(
        job=job,
        skipped=skipped,
        metrics=found["metrics"],
        fit_seconds=costs.fit_seconds,
        seconds_per_picture=costs.seconds_per_picture,
        peak_memory_bytes=costs.peak_memory_bytes,
        num_pictures=found["num_images"],
        verdicts=None if found["verdicts"] is None else Verdicts(**found["verdicts"]),
        record=record,
    )


def why_failed(job: Job, status: int, begun: int) -> str:
    """Why a run's process ended without figures: a line that says it, and more on it below.

    Args:
        job: The run.
        status: Exit status of the process; of one that was killed, the signal's number below 0.
        begun: Bytes of the log that were there before the process: they are of earlier tries.
    """
    said = ""
    with contextlib.suppress(OSError), job.log.open("rb") as file:  # somebody removed it
        file.seek(begun)
        said = file.read().decode(errors="replace").strip()
    lines = said.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    if status >= 0 and errors:
        return "\n".join(lines[errors[-1] :]).removeprefix(_ERROR)[:_LAST_WORDS]
    if status < 0:
        reason = f"It was killed by {_signal_name(-status)}."
    elif lines:  # of an error that nobody foresaw, the last line is its name
        reason = f"It ended with exit status {status}; its last words: {lines[-1]}"
    else:
        reason = f"It ended with exit status {status}, without a word."
    return f"{reason}\n{said[-_LAST_WORDS:]}".strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have no names
        return f"signal {number}"
