"""Trackers, read back by their own readers."""

import json
import sys
from importlib.metadata import EntryPoint

import pytest

from ad.core import ModelRegistry, registry, train
from ad.core.callbacks import Callback
from ad.core.errors import Interrupted, PluginError, UnknownNameError
from ad.core.registry import get_tracker
from ad.core.tracking import Tracker


@pytest.fixture
def student():
    ModelRegistry.register(
        "linear-student",
        "ad.core.testing.linear_student:LinearStudentTrainer",
        {"dropout": 0.2},
        {"num_epochs": 3, "batch_size": 4, "img_size": 16, "normalize": False},
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


class Stopping(Callback):
    """Stops a run after an epoch as a signal does."""

    def on_epoch_end(self, state):
        if state.epoch == 1:
            msg = "enough"
            raise Interrupted(msg, 143)


def epochs(run):
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == "epoch"]


def test_tensorboard_has_losses_by_step_and_figures(student, toy_root, tmp_path):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=run, track=["tensorboard"],
              checkpoint_minutes=0, callbacks=[Stopping()])  # fmt: skip
    result = train("mvtec", "toy", student, data_root=toy_root, resume=run, track=["tensorboard"],
                   checkpoint_minutes=0)  # fmt: skip
    reader = accumulator(str(run / "tensorboard"))
    reader.Reload()
    losses = [(one.step, one.value) for one in reader.Scalars("loss/gap")]
    last = epochs(run)[-1]
    assert [step for step, _ in losses] == list(range(1, last["total_steps"] + 1))
    in_an_epoch = last["total_steps"] // 3
    mean = sum(value for _, value in losses[-in_an_epoch:]) / in_an_epoch
    assert mean == pytest.approx(last["losses"]["gap"], rel=1e-5)
    (auroc,) = reader.Scalars("test/image_auroc")
    assert auroc.value == pytest.approx(result.metrics["image_auroc"])


def test_mlflow_has_one_run_with_settings_losses_and_figures(
    student, toy_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=run, track=["mlflow"],
              checkpoint_minutes=0, callbacks=[Stopping()])  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "ad"]
    (stopped,) = client.search_runs([experiment.experiment_id])
    assert stopped.info.status == "KILLED"
    result = train("mvtec", "toy", student, data_root=toy_root, resume=run, track=["mlflow"],
                   checkpoint_minutes=0)  # fmt: skip
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["model"] == "linear-student"
    assert found.data.params["dropout"] == "0.2"
    assert found.data.tags["command"].startswith("ad train mvtec toy linear-student")
    assert found.data.metrics["image_auroc"] == pytest.approx(result.metrics["image_auroc"])
    history = client.get_metric_history(found.info.run_id, "gap")
    logged = {row["step"]: row["losses"]["gap"] for row in epochs(run)}
    assert {one.step: one.value for one in history} == pytest.approx(logged)


def test_a_tracker_that_fails_does_not_end_a_run(student, toy_root, tmp_path, monkeypatch):
    class Dead(Tracker):
        def on_fit_start(self, state):
            msg = "no such host"
            raise ConnectionError(msg)

    monkeypatch.setattr("ad.core.jobs.plan.get_tracker", lambda name: Dead)
    with pytest.warns(UserWarning, match="`Dead` failed and is told no more.*no such host") as seen:
        result = train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "run",
                       track=["dead"])  # fmt: skip
    assert len(seen) == 1
    assert result.metrics["image_auroc"] is not None


def test_a_tracker_is_found_by_name_or_refused_before_anything_is_written(
    student, toy_root, tmp_path
):
    with pytest.raises(UnknownNameError, match="No tracker named `tensorbord`.*`tensorboard`"):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "run",
              track=["tensorbord"])  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_named(monkeypatch):
    for module in ("mlflow", "tensorboard"):
        monkeypatch.delitem(sys.modules, f"ad.core.tracking.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = r"(?s)`{0}` lacks a package.*pip install './packages/ad-core\[{0}\]'"
    with pytest.raises(PluginError, match=words.format("mlflow")):
        get_tracker("mlflow")
    with pytest.raises(PluginError, match=words.format("tensorboard")):
        get_tracker("tensorboard")


def test_what_is_no_tracker_is_refused(monkeypatch):
    point = EntryPoint("odd", "ad.core.testing.linear_student:LinearStudentTrainer", "ad.trackers")
    monkeypatch.setattr(registry, "_only_point", lambda group, noun, name: point)
    with pytest.raises(PluginError, match="Tracker `odd` of .* must be a subclass of `Tracker`"):
        get_tracker("odd")
