"""Many runs: what is planned, what is skipped, and that a failure costs only itself."""

import csv
import json
import os
import signal
import sys
import threading
import time
import types

import pytest
from benches import HereExecutor, data_of, planned

from ad.core.bench import compare, run_bench, summarise
from ad.core.bench.executors import LocalExecutor, RayExecutor, train_here
from ad.core.bench.jobs import Outcome, finished, outcome_of, plan
from ad.core.errors import (
    DataError,
    Interrupted,
    OutputError,
    PluginError,
    SettingError,
    UnknownNameError,
)
from ad.core.saved.claims import claim

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs its signals")


def runs(monkeypatch, program):
    """Let every run be a program of one's own."""
    words = ["-c", f"import os, signal, sys, time; {program}"]
    monkeypatch.setattr("ad.core.bench.jobs.Job.words", lambda job: words)


def test_a_plan_has_each_category_model_and_seed(mean_picture, roots, tmp_path):
    jobs = planned(mean_picture, roots, tmp_path / "out")
    whats = [(job.category, job.settings.category, job.settings.seed) for job in jobs]
    assert whats == [
        ("other", "other", 0), ("other", "other", 1), ("toy", "toy", 0), ("toy", "toy", 1),
    ]  # fmt: skip
    assert len({job.folder for job in jobs}) == 4
    (one, _) = planned(mean_picture, roots, tmp_path / "out", ["toy"])
    assert one.name == jobs[2].name
    roots_of = {"mvtec": str(roots)}
    twice = [mean_picture, mean_picture]
    (_,) = plan(["mvtec"], ["toy"], twice, seeds=[0], output=tmp_path, data_roots=roots_of)
    (larger, _) = planned(mean_picture, roots, tmp_path / "out", ["toy"], img_size=48)
    assert larger.name != one.name
    next((roots / "toy/train/good").iterdir()).unlink()
    (changed, _) = planned(mean_picture, roots, tmp_path / "out", ["toy"])
    assert changed.name != one.name


def test_what_cannot_be_run_is_refused_before_anything_is(mean_picture, roots, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(DataError, match="No data set has a category `tooy`. There are `oth"):
        planned(mean_picture, roots, output, ["toy", "tooy"])
    with pytest.raises(UnknownNameError, match="No model named `no-such`"):
        planned("no-such", roots, output)
    with pytest.raises(SettingError, match="`img_size`"):
        planned(mean_picture, roots, output, img_size=3)
    with pytest.raises(SettingError, match="A folder was given for `mtd`, which is none of"):
        planned(mean_picture, roots, output, data_roots={"mtd": "x", "mvtec": str(roots)})
    with pytest.raises(DataError, match="needs its folder"):
        planned(mean_picture, roots, output, data_roots={})
    with pytest.raises(DataError, match="It is not laid out as `mvtec`"):
        planned(mean_picture, roots, output, data_roots={"mvtec": str(tmp_path / "nowhere")})
    assert not output.exists()


def line_count(path):
    return len(path.read_text().splitlines())


def test_runs_that_are_done_are_not_done_again(mean_picture, roots, tmp_path):
    output = tmp_path / "out"
    jobs = planned(mean_picture, roots, output)
    first, second, told = HereExecutor(fails=[1]), HereExecutor(), []
    outcomes = run_bench(jobs, first, output=output)
    assert [outcome.error for outcome in outcomes] == [None, "it broke", None, "it broke"]
    again = run_bench(jobs, second, output=output, told=told.append)
    assert [job.settings.seed for job in second.ran] == [1, 1]
    assert [outcome.skipped for outcome in told] == [True, True, False, False]
    assert [outcome.error for outcome in again] == [None] * 4
    assert compare(again, output) == output / "report.html"
    assert len(data_of(output / "report.html")["runs"]) == 4
    rows = json.loads((output / "results.json").read_text())["runs"]
    table = list(csv.DictReader((output / "results.csv").read_text().splitlines(), strict=True))
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    for row, line, outcome in zip(rows, table, again, strict=True):
        saved = json.loads((outcome.job.folder / "metrics.json").read_text())["metrics"]
        assert row["metrics"] == saved
        assert float(line["image_auroc"]) == saved["image_auroc"]
        assert line["status"] == row["status"] == "done"
        events = (outcome.job.folder / "log.jsonl").read_text().splitlines()
        tested = json.loads(events[-1])
        each, peak = tested["seconds"]["test_per_image"], tested["peak_memory_bytes"]
        assert (float(line["seconds_per_picture"]), int(line["peak_memory_bytes"])) == (each, peak)
        verdicts = json.loads((outcome.job.folder / "metrics.json").read_text())["verdicts"]
        assert {key: int(line[key]) for key in verdicts} == row["verdicts"] == verdicts
        assert int(line["num_pictures"]) == line_count(outcome.job.folder / "scores.jsonl")
        record = json.loads((outcome.job.folder / "run.json").read_text())
        assert (line["torch_version"], line["device"]) == (record["versions"]["torch"], "cpu")
        assert (line["img_size"], line["holdout"], line["options"]) == (
            "32",
            "0.1",
            '{"gain": 1.0}',
        )
        assert line["false_alarms_asked"] == "0.01"
        assert line["run"] == str(outcome.job.folder)


def test_a_folder_that_cannot_be_made_is_named(mean_picture, roots, tmp_path):
    (tmp_path / "out").write_text("a file")
    jobs = planned(mean_picture, roots, tmp_path / "out")
    with pytest.raises(OutputError, match=r"folder `.*out` cannot be made \(File exists\)\. Name"):
        run_bench(jobs, LocalExecutor(), output=tmp_path / "out")


def test_a_log_that_is_damaged_or_gone_costs_no_figures(mean_picture, roots, tmp_path):
    (job,) = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=[0])
    (done,) = run_bench([job], HereExecutor(), output=tmp_path / "out")
    log = job.folder / "log.jsonl"
    log.write_bytes(log.read_bytes() + b'{"time": 1.5, "event": "calib')
    again = outcome_of(job)
    assert (again.metrics, again.fit_seconds) == (done.metrics, done.fit_seconds)
    assert again.fit_seconds > 0
    log.unlink()
    assert outcome_of(job).fit_seconds is None


def test_the_summary_is_over_seeds(mean_picture, roots, tmp_path):
    jobs = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=range(3))
    outcomes = [
        Outcome(job=jobs[0], metrics={"image_auroc": 0.5, "pixel_ap": None}),
        Outcome(job=jobs[1], metrics={"image_auroc": 0.9, "pixel_ap": None}),
        Outcome(job=jobs[2], error="no"),
    ]
    (summary,) = summarise(outcomes)
    assert (summary.runs, summary.failed) == (2, 1)
    assert summary.mean["image_auroc"] == pytest.approx(0.7)
    assert summary.deviation["image_auroc"] == pytest.approx(0.08**0.5)
    assert summary.mean["pixel_ap"] is None


def test_what_a_killed_run_left_is_replaced_or_gone_on_with(mean_picture, roots, tmp_path):
    job = planned(mean_picture, roots, tmp_path / "out", ["toy"])[0]
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text("half")
    assert "--output" in job.words()
    assert train_here(job, 1) is None
    assert finished(job)
    (job.folder / "checkpoint").mkdir()
    assert job.words()[-2:] == ["--resume", str(job.folder)]


def test_a_process_that_fails_costs_only_itself_and_says_why(mean_picture, roots, tmp_path):
    """The model is registered here alone, so every process of its own must fail."""
    jobs = planned(mean_picture, roots, tmp_path / "out", ["toy"])
    outcomes = list(LocalExecutor(2).run(jobs))
    assert len(jobs) == len(outcomes) == 2
    assert {outcome.job.name for outcome in outcomes} == {job.name for job in jobs}
    assert all("No model named `mean-picture` is installed" in o.error for o in outcomes)


@pytest.mark.parametrize(
    ("program", "reason", "more"),
    [
        (
            r"sys.exit('checking: 20\nerror: It is bad.\nIt is.\n\nhint: this\n\nhint: that')",
            "It is bad.",
            "\nIt is.\n\nhint: this\n\nhint: that",
        ),
        ("1 / 0", "It ended with exit status 1; its last words: ZeroDivisionError: ", "Traceback"),
        ("sys.exit(3)", "It ended with exit status 3, without a word.", ""),
        ("os._exit(0)", "It ended with exit status 0, without a word.", ""),
        pytest.param(
            "print('checking: 20 pictures', flush=True); os.kill(os.getpid(), signal.SIGKILL)",
            "It was killed by SIGKILL.",
            "\nchecking: 20 pictures",
            marks=linux,
        ),
        pytest.param("os.kill(os.getpid(), 40)", "It was killed by signal 40.", "", marks=linux),
    ],
)
def test_a_process_that_ends_without_figures_is_explained(
    run_ad, mean_picture, roots, tmp_path, monkeypatch, program, reason, more
):
    """By its own words, and not by those of an earlier try."""
    (job,) = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=[0])
    job.log.parent.mkdir(parents=True)
    job.log.write_text("error: An earlier try.\n")
    runs(monkeypatch, program)
    where = ("--data-root", roots, "--output", tmp_path / "out")
    status, out, err = run_ad("bench", "mvtec", "toy", mean_picture, *where, "--json")
    assert status == 1
    (row,) = json.loads(out)["runs"]
    told = row["error"].splitlines()[0]
    assert told.startswith(reason)
    assert f"1 of 1: mvtec toy mean-picture seed 0 failed: {told} (see {job.log})\n" in err
    assert more in row["error"]
    assert "earlier" not in row["error"]
    assert job.log.read_text().startswith("error: An earlier try.\n")


def test_sigterm_ends_a_bench_after_its_runs_have_ended(mean_picture, roots, tmp_path, monkeypatch):
    jobs = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=range(3))
    runs(
        monkeypatch,
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('saved')); "
        "print('begun', flush=True); time.sleep(200)",
    )

    def stop():
        while not all(job.log.exists() and job.log.read_text() for job in jobs[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    words = r"Stopped by SIGTERM; the runs .* to save what .*\nhint: the same command goes on"
    with pytest.raises(Interrupted, match=words) as ended:
        run_bench(jobs, LocalExecutor(2), output=tmp_path / "out")
    assert ended.value.status == 143
    assert [job.log.read_text() for job in jobs[:2]] == ["begun\nsaved\n"] * 2
    assert not jobs[2].log.exists()
    assert signal.getsignal(signal.SIGTERM) is before


@linux
def test_a_run_that_another_process_is_at_is_left_alone(mean_picture, roots, tmp_path, monkeypatch):
    (job,) = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=[0])
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text("half")
    runs(monkeypatch, "sys.exit(3)")
    with job.log.open("ab") as log:
        assert claim(log)
        (outcome,) = LocalExecutor().run([job])
    assert outcome.error == (
        f"Another process trains in `{job.folder}`, so nothing there was touched.\n"
        "hint: wait until it has ended, or end it; then the same command does this run"
    )
    assert (job.folder / "run.json").read_text() == "half"
    (again,) = LocalExecutor().run([job])
    assert again.reason == "It ended with exit status 3, without a word."
    assert not job.folder.exists()


def test_a_run_that_was_finished_in_the_meantime_is_not_done_again(mean_picture, roots, tmp_path):
    (job,) = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=[0])
    assert train_here(job, 1) is None
    (outcome,) = LocalExecutor().run([job])
    assert outcome.error is None
    assert outcome.metrics["image_auroc"] is not None


def test_where_nothing_is_known_of_a_failure_that_is_said(mean_picture, roots, tmp_path):
    (job,) = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=[0])
    assert outcome_of(job).reason == "It ended without figures and without an error."


class ForeseenNothing(Exception):
    """As Ray raises what a task did not catch."""


class Ray(types.ModuleType):
    """As much of Ray as a bench uses; each run ends with the error that its seed has."""

    exceptions = types.SimpleNamespace(RayError=Exception, RayTaskError=ForeseenNothing)

    def __init__(self, *errors):
        super().__init__("ray")
        self.errors = errors
        self.shut_down = False

    def is_initialized(self):
        return False

    def init(self, **options):
        pass

    def remote(self, **options):
        return lambda function: types.SimpleNamespace(remote=lambda job, cores: job.settings.seed)

    def wait(self, running, *, num_returns, timeout):
        return running[:num_returns], running[num_returns:]

    def get(self, seed):
        if isinstance(self.errors[seed], Exception):
            raise self.errors[seed]
        return self.errors[seed]

    def shutdown(self):
        self.shut_down = True


def test_what_ray_says_of_a_failure_is_told_in_a_line(mean_picture, roots, tmp_path, monkeypatch):
    ray = Ray(
        "It is bad.\nhint: this",
        ForeseenNothing("ray::train_here() (pid=7)\n  File ...\nValueError: deep inside"),
        Exception("Out of memory.\nMore on it."),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    jobs = planned(mean_picture, roots, tmp_path / "out", ["toy"], seeds=range(3))
    outcomes = list(RayExecutor().run(jobs))
    assert [outcome.reason for outcome in outcomes] == [
        "It is bad.",
        "It ended with an error that nobody foresaw: ValueError: deep inside",
        "Its worker died: Out of memory.",
    ]
    assert "pid=7" in outcomes[1].error
    assert "More on it." in outcomes[2].error
    assert ray.shut_down


def test_sigterm_ends_a_bench_on_ray(mean_picture, roots, tmp_path, monkeypatch):
    class Stopping(Ray):
        def wait(self, running, **options):
            signal.raise_signal(signal.SIGTERM)
            return [], running

    monkeypatch.setitem(sys.modules, "ray", ray := Stopping())
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="Stopped by SIGTERM") as ended:
        list(RayExecutor().run(planned(mean_picture, roots, tmp_path / "out")))
    assert (ended.value.status, ray.shut_down) == (143, True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ray_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PluginError, match=r"(?s)Ray is not .*'./packages/ad-core\[ray\]'"):
        RayExecutor()
