"""`ad bench`: many trainings, as a table of models and categories."""

from __future__ import annotations

import math
import sys
import time
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ad.core.cli.options import (
    BatchSizeOption,
    Budget,
    BudgetOption,
    DatasetsArgument,
    DeviceOption,
    EpochsOption,
    HoldoutOption,
    ImgSizeOption,
    JsonOption,
    ModelsArgument,
    PrecisionChoice,
    PrecisionOption,
    ReportOption,
    StepsOption,
    SupervisedOption,
    WeightsOption,
    path_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

    from ad.core.bench import Summary
    from ad.core.bench.jobs import Outcome
    from ad.core.report.contrasts import Contrast
    from ad.core.report.recommending import Limits, Recommendation


_LINES_BESIDE_ROWS = 8
"""Lines of a terminal that a table of figures leaves to its head, its frame and what is said."""


_SAID = 5
"""Differences that are said; the files have all."""

_SHOWN = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")


class Where(StrEnum):
    """Choices of ``--executor``."""

    local = "local"
    ray = "ray"


def bench(
    datasets: DatasetsArgument,
    categories: Annotated[
        str, typer.Argument(help="Categories, separated by commas, or `all` for each of them.")
    ],
    models: ModelsArgument,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="Repeat each with seeds 0 to N - 1.")
    ] = 1,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Runs at a time.")] = 1,
    executor: Annotated[
        Where, typer.Option(help="Processes here, or workers of a Ray cluster.")
    ] = Where.local,
    cores: Annotated[
        int, typer.Option(metavar="N", min=1, help="Processor cores of a run, with Ray.")
    ] = 1,
    gpus: Annotated[
        float, typer.Option(metavar="F", min=0, help="GPUs of a run, with Ray; may be a part.")
    ] = 0.0,
    output: Annotated[
        Path, typer.Option(parser=path_of("`--output`"), metavar="DIR", help="Folder of the bench.")
    ] = Path("bench"),
    data_root: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR", help="Folder of the data set; of several, NAME=DIR for each."
        ),
    ] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    budget: BudgetOption = Budget.default,
    batch_size: BatchSizeOption[int | None] = None,
    img_size: ImgSizeOption[Any] = None,
    holdout: HoldoutOption = 0.1,
    weights: WeightsOption = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="An option for all models that have it: `ad show`."
        ),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = PrecisionChoice.auto,
    supervised: SupervisedOption = False,
    recommend: Annotated[
        bool, typer.Option("--recommend", help="Say which model to take, and why.")
    ] = False,
    latency: Annotated[
        float | None,
        typer.Option(metavar="MS", help="... of those up to MS milliseconds a picture."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GB", help="... of those up to GB of memory.")
    ] = None,
    report: ReportOption = True,
    json: JsonOption = False,
) -> None:
    """Train and test many models on many categories; repeat it to go on where it stopped.

    With --recommend, runs that are done are not done again.

    Example: [bold]ad bench mvtec all padim,patchcore --data-root ./mvtec_ad --seeds 3[/bold]
    """
    from ad.core.cli import early
    from ad.core.cli.console import ConsoleProgress, loading, out, print_json, say
    from ad.core.options import parse_assignments, split_models
    from ad.runtime.errors import counted

    names = _parts(datasets)
    what = names, _parts(categories), split_models(models)
    roots = _roots(names, data_root or [])
    early.check_bench(*what, roots, set_ or [])
    early.check_files(weights, None)
    _check_limits(recommend=recommend, latency=latency, memory=memory)
    _check_where(executor, jobs=jobs, cores=cores, gpus=gpus)
    with loading():
        from ad.core.bench import run_bench, summarise
        from ad.core.bench.beforehand import refuse_beforehand
        from ad.core.bench.executors import LocalExecutor, RayExecutor
        from ad.core.bench.jobs import plan
        from ad.core.devices import resolve_device
        from ad.core.errors import Interrupted
        from ad.core.report.recommending import Limits
    planned = plan(
        *what,
        seeds=range(seeds),
        output=output,
        data_roots=roots,
        options=parse_assignments(set_ or []),
        num_epochs=epochs,
        num_steps=steps,
        budget=budget.value,
        batch_size=batch_size,
        img_size=img_size,
        holdout=holdout,
        weights=weights,
        device=device,
        precision=precision.value,
        supervised=supervised,
    )
    if executor is Where.local:  # with Ray it is for the machines that run
        resolve_device(device)
    refuse_beforehand(planned, here=executor is Where.local, progress=ConsoleProgress())
    how = LocalExecutor(jobs) if executor is Where.local else RayExecutor(cores, gpus)
    say(f"{counted(len(planned), 'run', 'runs')}, in {output}")
    ended: list[Outcome] = []
    try:
        with _watched(len(planned), ended) as tell:
            outcomes = run_bench(planned, how, output=output, told=tell)
    except (KeyboardInterrupt, Interrupted):
        page = _write(ended, output, report=report, limits=None, planned=len(planned)).page
        where = "" if page is None else f"; report to look at: {page}"
        say(f"stopped when {len(ended)} of {len(planned)} runs had ended{where}")
        say("\nhint: the same command goes on with the others")
        raise
    failed = sum(outcome.error is not None for outcome in outcomes)
    limits = Limits(
        seconds=None if latency is None else latency / 1000,
        memory=None if memory is None else memory * 1e9,
    )
    written = _write(outcomes, output, report=report, limits=limits if recommend else None)
    page, files, contrasts, found, notes = written
    if json:
        print_json(
            {
                "output": str(output),
                "runs": [outcome.row() for outcome in outcomes],
                "report": None if page is None else str(page),
                "summary": [str(path) for path in files],
                "differences": [one.to_json() for one in contrasts],
                "notes": notes,
                "recommendation": None if found is None else found.to_json(),
            }
        )
    else:
        console = out()
        console.print(_table(summarise(outcomes), console))
        for line in () if found is None else found.lines:
            console.print(line, soft_wrap=not sys.stdout.isatty())
    for one in contrasts[:_SAID]:
        say(one.words())
    if len(contrasts) > _SAID:
        more = counted(len(contrasts) - _SAID, "more difference is", "more differences are")
        say(f"{more} in summary.md")
    for note in notes:
        say(f"note: {note}")
    tables = ("results.csv", "results.json", *(path.name for path in files))
    say(f"written to {output}: {', '.join(tables)}")
    if page is not None:
        say(f"report to look at: {page}")
    if failed:
        they = "it" if failed == 1 else "them"
        many = counted(failed, "run", "runs")
        say(f"\nhint: {many} failed; the same command does {they} again")
        raise typer.Exit(1)


class _Written(NamedTuple):
    """What was made of the runs that are done."""

    page: Path | None = None
    """The page, if it was asked for and could be written."""
    files: Sequence[Path] = ()
    """The summaries."""
    contrasts: Sequence[Contrast] = ()
    """Differences between models."""
    found: Recommendation | None = None
    """Which model to take, if that was asked."""
    notes: Sequence[str] = ()
    """What a reader of the figures must know."""


def _write(
    outcomes: Sequence[Outcome],
    output: Path,
    *,
    report: bool,
    limits: Limits | None,
    planned: int | None = None,
) -> _Written:
    """Write page and summaries; if they cannot be, the figures of hours are shown all the same.

    With limits, a model is recommended.
    """
    from ad.core.bench import compare, failures, read_done, recommendation
    from ad.core.bench.summaries import write_summaries
    from ad.core.cli.console import say
    from ad.core.errors import AdError

    page: Path | None = None
    found: Recommendation | None = None
    wanted = ["report", "summary"] if report else ["summary"]
    try:
        compared = read_done(outcomes)
        if limits is not None:
            found = recommendation(outcomes, compared, limits)
        if compared is None:
            return _Written(found=found)
        if report:
            page = compare(outcomes, output, compared=compared, recommended=found, planned=planned)
            wanted.remove("report")
        files = write_summaries(output, compared, failures(outcomes, planned))
    except AdError as error:
        for what in wanted:
            say(f"warning: no {what} was written: {error}")
        return _Written(page=page, found=found)
    return _Written(page, files, compared.contrasts.pairs, found, compared.caveats)


def _check_limits(*, recommend: bool, latency: float | None, memory: float | None) -> None:
    """Refuse limits that are none, or of nothing."""
    from ad.core.errors import SettingError

    for name, value in (("--latency", latency), ("--memory", memory)):
        if value is None:
            continue
        if not (value > 0 and math.isfinite(value)):
            unit = "milliseconds" if name == "--latency" else "gigabytes"
            msg = f"`{name}` takes {unit}, a number above 0; got {value:g}."
            raise SettingError(msg)
        if not recommend:
            msg = f"`{name}` is a limit for a recommendation. Add `--recommend`, or leave it out."
            raise SettingError(msg)


def _check_where(executor: Where, *, jobs: int, cores: int, gpus: float) -> None:
    """Refuse what the executor takes no notice of."""
    from ad.core.errors import SettingError

    msg = ""
    if executor is Where.ray and jobs != 1:
        msg = (
            f"`--jobs {jobs}` is for processes here; Ray starts as many as there is room for: give "
            "what a run takes (`--cores`, `--gpus`), or leave `--jobs` out."
        )
    elif executor is Where.local and (cores, gpus) != (1, 0):
        name = f"`--cores {cores}`" if cores != 1 else f"`--gpus {gpus:g}`"
        msg = (
            f"{name} is for workers of a Ray cluster: add `--executor ray`, or leave it out. "
            "Here, `--jobs N` is how many run at a time."
        )
    if msg:
        raise SettingError(msg)


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _roots(datasets: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Which folder is whose: ``DIR`` for the only data set, ``NAME=DIR`` for each of several."""
    from ad.core.errors import SettingError

    roots: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not (equals and name in datasets):
            if len(datasets) > 1:
                msg = (
                    f"Of several data sets, `--data-root` takes NAME=DIR, such as "
                    f"`--data-root {datasets[0]}=./data`; got `{text}`."
                )
                raise SettingError(msg)
            name, folder = datasets[0], text
        if name in roots:
            msg = (
                f"`--data-root` is given twice for `{name}`: `{roots[name]}` and `{folder}`. Leave "
                "out one."
            )
            raise SettingError(msg)
        roots[name] = folder
    return roots


@contextmanager
def _watched(total: int, ended: list[Outcome]) -> Iterator[Callable[[Outcome], None]]:
    """Say what came of each run; on a terminal, with a table of all figures so far below.

    Args:
        total: How many runs there are to be.
        ended: Where those are added that have ended.
    """
    from ad.core.cli.console import console, say

    def tell(outcome: Outcome) -> None:
        ended.append(outcome)
        say(f"{len(ended)} of {total}: {_line(outcome)}")

    if not sys.stderr.isatty():
        yield tell
        return
    from rich.live import Live

    table = _LiveTable(total)
    # What is said goes to stderr, which the display catches and prints above itself.
    with Live(table, console=console(stderr=True), transient=True, refresh_per_second=2):

        def tell_and_show(outcome: Outcome) -> None:
            table.add(outcome)
            tell(outcome)

        yield tell_and_show


class _LiveTable:
    """The figures so far, those that changed last below, as many as there is room for."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.outcomes: list[Outcome] = []
        self.started = self.last = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.last = time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from ad.core.bench import summarise
        from ad.core.cli.console import duration

        changed = list(reversed(summarise(self.outcomes[::-1])))
        room = max(1, options.size.height - _LINES_BESIDE_ROWS)
        if changed:
            yield _table(changed[-room:], console)
        failed = sum(outcome.error is not None for outcome in self.outcomes)
        own = sum(not outcome.skipped for outcome in self.outcomes)
        now = time.monotonic()
        words = f"{len(self.outcomes)} of {self.total} runs"
        words += f", {failed} failed" if failed else ""
        words += f"; {duration(now - self.started)}"
        waiting = self.total - len(self.outcomes)
        if own and waiting:
            left = (self.last - self.started) / own * waiting - (now - self.last)
            words += f", about {duration(max(0, left))} left"
        yield words


def _line(outcome: Outcome) -> str:
    job = outcome.job
    what = f"{job.dataset} {job.category} {job.label} seed {job.settings.seed}"
    if outcome.error is not None:
        where = f" (see {job.log})" if job.log.exists() else ""  # Ray keeps what a run says
        return f"{what} failed: {outcome.reason}{where}"
    auroc = outcome.metrics.get("image_auroc")
    figure = "no image AUROC" if auroc is None else f"image AUROC {auroc:.3f}"
    return f"{what}: {figure}{' (done before)' if outcome.skipped else ''}"


def _table(summaries: Sequence[Summary], console: Console) -> Table:
    """The figures; where they are too wide, deviations go below, then precisions are left out."""
    few = [key for key in _SHOWN if not key.endswith("_ap")]
    table = _drawn(summaries, _SHOWN, "±")
    boundless = console.options.update(width=10 * console.width)
    for keys in (_SHOWN, few):
        if console.measure(table, options=boundless).maximum <= console.width:
            break
        table = _drawn(summaries, keys, "\n±")
    return table


def _drawn(summaries: Sequence[Summary], keys: Sequence[str], before_deviation: str) -> Table:
    from rich.table import Table

    from ad.core.cli.console import TITLES

    table = Table(header_style="bold")
    for title in ("data", "category", "model"):
        table.add_column(title, overflow="fold")
    table.add_column("runs", justify="right", no_wrap=True)
    keys = [key for key in keys if any(one.mean[key] is not None for one in summaries)]
    for key in keys:
        table.add_column(TITLES[key], justify="right", no_wrap=True)
    for one in summaries:
        runs = f"{one.runs} of {one.runs + one.failed}" if one.failed else f"{one.runs}"
        figures = [_figure(one.mean[key], one.deviation[key], before_deviation) for key in keys]
        table.add_row(one.dataset, one.category, one.model, runs, *figures)
    return table


def _figure(mean: float | None, deviation: float | None, before_deviation: str) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" + ("" if deviation is None else f"{before_deviation}{deviation:.3f}")
