"""One process at a time trains in a run directory, and one that was killed is in nobody's way."""

import signal
import sys
import time
from contextlib import contextmanager

import pytest
import warm
from small_learning import Interrupting

from ad.core import evaluate, train
from ad.core.bench.executors import LocalExecutor, train_here
from ad.core.bench.jobs import plan
from ad.core.errors import Interrupted, ModelFileError, OutputError
from ad.core.jobs.inspect import inspect
from ad.core.jobs.recalibrate import recalibrate
from ad.core.jobs.report import write_report
from ad.core.jobs.run_directory import claim_run
from ad.core.saved.claims import temporary_name

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nobody is kept out there")

IN_USE = r"Another process trains or calibrates in `{}`, so nothing there was touched. Wait until"


@contextmanager
def another_process_in(run):
    """A process that has claimed the run, until it is killed at the end."""
    code = "import sys, time; from pathlib import Path\n"
    code += "from ad.core.jobs.run_directory import claim_run\n"
    code += "held = claim_run(Path(sys.argv[1])); print('there', flush=True); time.sleep(600)"
    said = run.with_name("said")
    process = warm.start(code, run, said=said)
    try:
        while not said.exists() or said.read_text() != "there\n":
            assert process.is_alive(), said.read_text()
            time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture
def stopped(student, toy_root, tmp_path):
    """A run that was stopped after an epoch."""
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "run",
              callbacks=[Interrupting(1)])  # fmt: skip
    return tmp_path / "run"


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_another_process_is_in_is_neither_resumed_nor_begun_anew(
    stopped, student, toy_root
):
    before = everything(stopped)
    words = IN_USE.format(stopped)
    with another_process_in(stopped):
        for where in ("resume", "output_dir"):
            with pytest.raises(OutputError, match=words):
                train("mvtec", "toy", student, data_root=toy_root, **{where: stopped})
        assert everything(stopped) == before
    train("mvtec", "toy", student, data_root=toy_root, resume=stopped)
    assert (stopped / "metrics.json").exists()


def test_a_run_is_given_up_when_it_ends_and_when_it_fails(stopped, student, toy_root):
    with pytest.raises(Interrupted) as kept:  # and with it all that its frames hold
        train("mvtec", "toy", student, data_root=toy_root, resume=stopped,
              callbacks=[Interrupting(2)])  # fmt: skip
    claim_run(stopped).close()
    train("mvtec", "toy", student, data_root=toy_root, resume=stopped)
    claim_run(stopped).close()
    assert kept.value.status == 143


def test_a_run_is_claimed_while_it_is_trained(student, toy_root, tmp_path):
    run = tmp_path / "run"
    refused = []

    class Looks(Interrupting):
        def on_epoch_end(self, state):
            with pytest.raises(OutputError, match=IN_USE.format(run)):
                claim_run(run, shared=True)
            refused.append(state.epoch)

    train("mvtec", "toy", student, data_root=toy_root, output_dir=run, callbacks=[Looks(0)])
    assert len(refused) == 4


def test_a_threshold_is_not_set_while_the_run_is_trained_nor_the_other_way(
    stopped, trained_beside, student, toy_root
):
    normals = toy_root / "toy/test/good"
    with another_process_in(trained_beside), pytest.raises(OutputError, match="trains or calib"):
        recalibrate(trained_beside, normals=normals)
    recalibrate(trained_beside, normals=normals)
    with claim_run(stopped, shared=True), pytest.raises(OutputError, match="trains or calibrates"):
        train("mvtec", "toy", student, data_root=toy_root, resume=stopped)


@pytest.fixture
def trained_beside(mean_picture, toy_root, tmp_path):
    run = tmp_path / "beside"
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run).run


def test_a_bench_leaves_a_run_alone_that_another_process_trains_in(mean_picture, roots, tmp_path):
    (job, *_) = plan(
        ["mvtec"], ["toy"], [mean_picture], seeds=[0], output=tmp_path / "out",
        data_roots={"mvtec": str(roots)},
    )  # fmt: skip
    job.folder.mkdir(parents=True)
    (job.folder / "run.json").write_text("{}")
    words = f"Another process trains or calibrates in `{job.folder}`"
    with another_process_in(job.folder):
        (outcome,) = LocalExecutor().run([job])
        assert outcome.error.startswith(words)
        assert train_here(job, 1).startswith(words)
        assert (job.folder / "run.json").read_text() == "{}"
    assert train_here(job, 1) is None


# --- What the killed leave ----------------------------------------------------------------------


@pytest.mark.parametrize("job", ["calibrate", "evaluate", "report", "predict"])
def test_every_job_clears_what_the_killed_have_left_in_a_run(trained, toy_root, job):
    kept = {"report.html", "calibrations.json"}  # a calibration keeps the one before
    before = {path for path in trained.rglob("*") if path.name not in kept}
    left = [temporary_name(trained / name) for name in ("model", "metrics.json")]
    left += [temporary_name(trained / "model/config.json"), trained / "checkpoint/step-000000007"]
    for path in left:
        if path.suffix == ".tmp" and ".model." not in path.name:
            path.write_text("half")
        else:
            path.mkdir(parents=True)
            (path / "model.safetensors").write_text("half")
    good = toy_root / "toy/test/good"
    {
        "calibrate": lambda: recalibrate(trained, normals=good),
        "evaluate": lambda: evaluate(trained),
        "report": lambda: write_report(trained),
        "predict": lambda: inspect(trained, [good], output=trained.parent / "out"),
    }[job]()
    assert {path for path in trained.rglob("*") if path.name not in kept} == before


def test_resuming_clears_what_the_killed_have_left_but_no_checkpoint(stopped, student, toy_root):
    half = temporary_name(stopped / "checkpoint/step-000000009")
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    seen = []

    class Looks(Interrupting):
        def on_epoch_end(self, state):
            seen.append((half.exists(), any((stopped / "checkpoint").glob("step-*")), state.epoch))

    train("mvtec", "toy", student, data_root=toy_root, resume=stopped, callbacks=[Looks(0)])
    assert [(left, kept) for left, kept, _ in seen] == [(False, True)] * 3


# --- What is no file, or no folder --------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "checkpoint"])
@pytest.mark.parametrize("put", [lambda path: path.touch(), lambda path: path.symlink_to(path)])
def test_what_is_no_folder_where_a_resumed_run_has_one_is_refused(
    stopped, student, toy_root, name, put
):
    (stopped / "checkpoint").rename(stopped / "aside")
    put(stopped / name)
    with pytest.raises(OutputError, match=f"run/{name}` is in the way: .* Move it away"):
        train("mvtec", "toy", student, data_root=toy_root, resume=stopped)
    (stopped / name).unlink()
    (stopped / "aside").rename(stopped / "checkpoint")
    train("mvtec", "toy", student, data_root=toy_root, resume=stopped)


def test_a_folder_in_the_place_of_a_log_is_refused(stopped, student, toy_root):
    (stopped / "log.jsonl").unlink()
    (stopped / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log `.*log\.jsonl` cannot be written .Is a directory"):
        train("mvtec", "toy", student, data_root=toy_root, resume=stopped)


def test_a_file_in_the_place_of_a_model_is_no_model(trained, toy_root):
    (trained / "model").rename(trained / "aside")
    (trained / "model").touch()
    good = toy_root / "toy/test/good"
    for job in (
        lambda: evaluate(trained),
        lambda: inspect(trained, [good]),
        lambda: recalibrate(trained, normals=good),
        lambda: write_report(trained),
    ):
        with pytest.raises(ModelFileError, match="run/model` is a file: a run's model is a folder"):
            job()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"metrics": 3, "notes": []}', "[" * 99_999])
def test_figures_that_cannot_be_read_are_named(trained, content):
    (trained / "metrics.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"metrics\.json` cannot be read .*Move it away"):
        evaluate(trained)
    (trained / "metrics.json").unlink()
    evaluate(trained)
