"""`ad bench`: what it writes, what it tells, and what it refuses."""

import itertools
import json
import os
import shutil

import pytest
from benches import HereExecutor, data_of
from typer.testing import CliRunner

from ad.core.cli import app


def test_the_command_says_what_failed_and_ends_with_1(mean_picture, roots, tmp_path):
    words = ["bench", "mvtec", "toy", mean_picture, "--data-root", str(roots)]
    result = CliRunner().invoke(app, [*words, "--output", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "mvtec toy mean-picture seed 0 failed: No model named `mean-picture`" in result.stderr
    assert "1 run failed; the same command does it again" in result.stderr
    several = ["bench", "mvtec,mtd", "toy", mean_picture, "--data-root", str(roots)]
    refused = CliRunner().invoke(app, several)
    assert "Of several data sets, `--data-root` takes NAME=DIR" in str(refused.exception)
    refused = CliRunner().invoke(
        app, [*words, "--device", "cuda:99", "--output", str(tmp_path / "o")]
    )
    assert "`cuda:99`" in str(refused.exception)
    assert not (tmp_path / "o").exists()


@pytest.fixture
def bench_here(run_ad, monkeypatch, mean_picture, roots, tmp_path):
    """`ad bench` on one category, in this process; runs of the seeds in `fails` fail."""

    def run(*words, fails=(), seeds=2, more=""):
        monkeypatch.setattr("ad.core.bench.executors.LocalExecutor", lambda _: HereExecutor(fails))
        where = ("--data-root", roots, "--output", tmp_path / "out", "--seeds", seeds)
        return run_ad("bench", "mvtec", "toy", mean_picture + more, *where, *words)

    return run


def test_the_command_writes_a_report_of_all_finished_runs(bench_here, tmp_path):
    page = tmp_path / "out/report.html"
    status, out, err = bench_here("--json", fails=[1])
    assert status == 1
    assert json.loads(out)["report"] == str(page)
    assert f"report to look at: {page}\n" in err
    assert json.loads(out)["summary"] == [
        str(tmp_path / f"out/summary.{kind}") for kind in ("csv", "md", "tex")
    ]
    assert all(map(os.path.exists, json.loads(out)["summary"]))
    assert data_of(page)["notes"] == ["1 of 2 runs failed and are not here: see results.csv."]
    (one,) = data_of(page)["runs"]
    assert json.loads(out)["runs"][0]["run"] == one["folder"]
    assert "runs compared" not in data_of(page)["title"]
    assert one["link"] == f"runs/{one['folder'].rpartition('/')[2]}/report.html"
    assert bench_here()[0] == 0
    assert len(data_of(page)["runs"]) == 2


def test_the_command_compares_models_with_options_and_says_what_differs(bench_here, tmp_path):
    status, out, err = bench_here("--set", "gain=2", "--json", seeds=1)
    assert status == 0
    assert json.loads(out)["runs"][0]["label"] == "mean-picture[gain=2.0]"
    assert json.loads(out)["differences"] == []
    assert "mvtec toy mean-picture[gain=2.0] seed 0: image AUROC" in err
    status, out, err = bench_here("--json", seeds=1, more=",mean-picture[gain=0.5]")
    assert status == 0
    assert [row["label"] for row in data_of(tmp_path / "out/report.html")["rows"]] == [
        "mean-picture", "mean-picture[gain=0.5]",
    ]  # fmt: skip
    (one,) = json.loads(out)["differences"]
    assert {one["first"], one["second"]} == {"mean-picture", "mean-picture[gain=0.5]"}
    assert one["signs"] is None
    assert (one["difference"], one["low"], one["high"]) == (0.0, 0.0, 0.0)
    assert ": +0.000 (95 %: 0.000 to 0.000) on these pictures; may be chance.\n" in err
    assert json.loads(out)["notes"] == []


def test_runs_that_were_done_with_other_versions_are_told_wherever_figures_are(
    bench_here, tmp_path
):
    bench_here(seeds=2)
    record = next((tmp_path / "out/runs").glob("*seed0*/run.json"))
    saved = json.loads(record.read_text())
    record.write_text(json.dumps({**saved, "versions": {**saved["versions"], "torch": "1.0"}}))
    _, out, err = bench_here("--json", seeds=2)
    (note,) = json.loads(out)["notes"]
    assert note.startswith("Not all runs were made alike: torch 1.0 (1), ")
    assert f"note: {note}\n" in err
    assert data_of(tmp_path / "out/report.html")["notes"] == [note]
    markdown, latex = ((tmp_path / f"out/summary.{kind}").read_text() for kind in ("md", "tex"))
    assert f"% {note}\n" in latex
    assert "\n- Not all runs were made alike: torch 1.0 " in markdown


def test_a_bench_that_is_stopped_leaves_a_page_of_the_runs_that_had_ended(
    bench_here, tmp_path, monkeypatch
):
    run, ended = HereExecutor.run, 1

    def stopped(self, jobs):
        yield from itertools.islice(run(self, jobs), ended)
        raise KeyboardInterrupt

    monkeypatch.setattr(HereExecutor, "run", stopped)
    status, _, err = bench_here()
    page = tmp_path / "out/report.html"
    assert status == 130
    assert f"stopped when 1 of 2 runs had ended; report to look at: {page}\n" in err
    assert "hint: the same command goes on with the others\n" in err
    assert "The bench was stopped when 1 of 2 runs had ended" in page.read_text()
    assert "The bench was stopped" in (tmp_path / "out/summary.md").read_text()
    shutil.rmtree(tmp_path / "out")
    ended = 0
    assert "stopped when 0 of 2 runs had ended\n" in bench_here()[2]  # there is nothing to show


def test_no_report_is_written_where_none_is_wanted_or_no_run_is_done(bench_here, tmp_path):
    status, out, err = bench_here("--json", fails=[0, 1])
    assert (status, json.loads(out)["report"]) == (1, None)
    status, out, err = bench_here("--json", "--no-report")
    assert (status, json.loads(out)["report"]) == (0, None)
    assert "report to look at" not in err
    assert not (tmp_path / "out/report.html").exists()


def test_a_report_that_cannot_be_written_costs_no_figures(bench_here, tmp_path):
    _, out, _ = bench_here("--json", "--no-report", seeds=1)
    run = json.loads(out)["runs"][0]["run"]
    shutil.rmtree(f"{run}/model")
    status, out, err = bench_here("--json", seeds=1)
    assert (status, json.loads(out)["report"]) == (0, None)
    assert json.loads(out)["runs"][0]["status"] == "done"
    assert f"warning: no report was written: `{run}` is no finished run: it has no `config.j" in err


def test_a_finished_bench_is_asked_what_to_take_and_trains_nothing(
    bench_here, monkeypatch, tmp_path
):
    assert json.loads(bench_here("--json")[1])["recommendation"] is None
    monkeypatch.setattr("ad.core.bench.executors.train_here", None)  # it would fail
    status, out, _ = bench_here("--recommend", "--latency", "90000", "--json")
    assert status == 0
    found = json.loads(out)["recommendation"]
    assert found["model"] == "mean-picture"
    assert found["front"] == found["tied"] == ["mean-picture"]
    assert found["words"][0] == (
        "Take mean-picture: image AUROC 1.000; no other was compared within 90000 ms a picture."
    )
    speeds = data_of(tmp_path / "out/report.html")["speeds"]
    assert speeds["words"] == found["words"]
    assert [one["chosen"] for one in speeds["models"]] == [True]
    _, out, _ = bench_here("--recommend", "--memory", "1e-6", "--no-report")
    assert "No model meets 1e-06 GB.\nmean-picture comes nearest: image AUROC 1.000, " in out


def test_where_no_run_is_done_nothing_is_recommended(bench_here):
    status, out, _ = bench_here("--recommend", "--json", fails=[0, 1])
    assert status == 1
    assert json.loads(out)["recommendation"]["words"] == [
        "No model has an image AUROC on all categories: nothing can be recommended.",
        "mean-picture was not compared: it has no image AUROC on all categories.",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--latency", 50), "`--latency` is a limit for a recommendation. Add `--recommend`, or"),
        (("--memory", 2), "`--memory` is a limit for a recommendation. Add `--recommend`, or"),
        (
            ("--recommend", "--latency", 0),
            "`--latency` takes milliseconds, a number above 0; got 0",
        ),
        (
            ("--recommend", "--latency", "nan"),
            "`--latency` takes milliseconds, a number above 0; got",
        ),
        (
            ("--recommend", "--memory", "inf"),
            "`--memory` takes gigabytes, a number above 0; got inf",
        ),
        (("--recommend", "--memory=-1"), "`--memory` takes gigabytes, a number above 0; got -1."),
    ],
)
def test_limits_of_nothing_and_limits_that_are_none_are_refused(bench_here, tmp_path, words, said):
    status, _, err = bench_here(*words)
    assert status == 1
    assert said in err
    assert not (tmp_path / "out").exists()
