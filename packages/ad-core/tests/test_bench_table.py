"""The figures of many runs on a screen: while they go on, and whole however narrow it is."""

import io
import sys

import pytest
from benches import planned
from rich.console import Console

from ad.core.bench import summarise
from ad.core.bench.jobs import Outcome
from ad.core.cli import bench


def outcomes_of(jobs, **changes):
    metrics = {"image_auroc": 0.75}
    return [Outcome(job=job, metrics=metrics, **changes) for job in jobs]


def test_the_live_table_has_what_changed_last_and_the_time_left(
    mean_picture, roots, tmp_path, monkeypatch
):
    now = [50.0]
    monkeypatch.setattr(bench.time, "monotonic", lambda: now[0])
    jobs = planned(mean_picture, roots, tmp_path, ["toy", "other"], seeds=range(3))
    of = {c: [job for job in jobs if job.category == c] for c in ("toy", "other")}
    table = bench._LiveTable(len(jobs))

    def show(outcomes):
        for outcome in outcomes:
            table.add(outcome)

    def shown(height=30):
        console = Console(file=io.StringIO(), width=120, height=height)
        console.print(table)
        return console.file.getvalue()

    now[0] = 60.0
    assert shown() == "0 of 6 runs; 10.0 s\n"
    show(outcomes_of(of["other"][:2], skipped=True))
    assert shown().endswith("\n2 of 6 runs; 10.0 s\n")
    show(outcomes_of(of["toy"][:1]))
    show(outcomes_of(of["toy"][1:2], error="it broke"))
    assert shown().endswith("\n4 of 6 runs, 1 failed; 10.0 s, about 10.0 s left\n")
    now[0] = 63.0
    assert shown().endswith("\n4 of 6 runs, 1 failed; 13.0 s, about 7.0 s left\n")
    assert shown().index(" other ") < shown().index(" toy ")
    assert "1 of 2" in shown()
    low = shown(height=9)
    assert " toy " in low
    assert " other " not in low
    show(outcomes_of(of["other"][2:]))
    assert " other " in shown(height=9)


def test_on_a_terminal_lines_are_said_above_a_table(mean_picture, roots, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    jobs = planned(mean_picture, roots, tmp_path, ["toy"], seeds=range(2))
    with bench._watched(len(jobs), []) as tell:
        for outcome in outcomes_of(jobs):
            tell(outcome)
    said = terminal.getvalue()
    assert "2 of 2: mvtec toy mean-picture seed 1: image AUROC 0.750" in said
    assert "0.750±0.000" in said
    assert "2 of 2 runs; " in said


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (160, ("0.750±0.000", "AP"), ()),
        (100, (" 0.750 ", "±0.000", "AP"), ("0.750±",)),
        (80, (" 0.750 ", "±0.000", "AUPRO"), ("AP", "…")),
    ],
)
def test_figures_are_never_cut(mean_picture, roots, tmp_path, width, shown, hidden):
    jobs = planned(mean_picture, roots, tmp_path, ["toy"], seeds=range(2))
    metrics = dict.fromkeys(("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro"), 0.75)
    console = Console(file=io.StringIO(), width=width)
    console.print(
        bench._table(summarise([Outcome(job=job, metrics=metrics) for job in jobs]), console)
    )
    text = console.file.getvalue()
    assert all(words in text for words in shown)
    assert not any(words in text for words in hidden)


def test_columns_without_figures_are_left_out(mean_picture, roots, tmp_path):
    jobs = planned(mean_picture, roots, tmp_path, ["toy"])
    console = Console(file=io.StringIO(), width=120)
    console.print(bench._table(summarise(outcomes_of(jobs)), console))
    text = console.file.getvalue()
    assert "AUROC" in text
    assert "pixel" not in text
