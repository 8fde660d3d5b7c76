"""What each run would refuse at its start, refused before the first run of a bench."""

from __future__ import annotations

from collections.abc import Sequence

from ad.core.bench.jobs import Job, finished
from ad.core.errors import AdError
from ad.core.jobs.plan import Plan, build, look_at_data, settle, share_pictures
from ad.runtime.progress import SILENT, Progress


def refuse_beforehand(jobs: Sequence[Job], *, here: bool, progress: Progress = SILENT) -> None:
    """Ask what `ad train` asks before it learns, once for each model on each category.

    Runs that are done are left out. Each model is built once, one at a time, and each category's
    pictures are looked at once: they are the same for all models.

    Args:
        jobs: All runs of a bench.
        here: Whether this machine does them: others may have weights that it lacks.
        progress: Where to show how far it is.

    Raises:
        AdError: As `ad train` does; it names the model and the category.
    """
    models: dict[str, dict[tuple[str, str], Job]] = {}
    for job in jobs:
        if not finished(job):
            models.setdefault(job.label, {}).setdefault((job.dataset, job.category), job)
    seen: set[tuple[str, str]] = set()
    total = sum(map(len, models.values()))
    with progress.step("checking", total=total, unit="pairs of model and category") as advance:
        for label, categories in models.items():
            trainer = None
            for place, job in categories.items():
                try:
                    plan = _plan(job, here=here)
                    trainer = trainer or build(plan)
                    (share_pictures if place in seen else look_at_data)(plan, trainer)
                except AdError as error:
                    what = f"`{label}` cannot do `{' '.join(place)}`"
                    msg = f"No run was begun: {what}. {error}"
                    raise type(error)(msg) from error
                seen.add(place)
                advance(1)


def _plan(job: Job, *, here: bool) -> Plan:
    given = job.settings.asked()
    given["device"] = "cpu"  # the memory of a GPU is for the runs
    if not here:
        given["weights"] = "random"
    what = [given.pop(name) for name in ("dataset", "category", "model")]
    return settle(*what, track=(), progress=SILENT, **given)
