"""Two processes learn what one would."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ad.core import ModelRegistry, train
from ad.core.errors import SettingError
from ad.core.learning.distributed import ALONE, World, _buckets, join_world
from ad.core.saved.files import read_model

PROGRAM = """
import sys
from pathlib import Path
import torch
from ad.core import ModelRegistry, train
from ad.core.callbacks import Callback
from ad.core.cli import main
from ad.core.learning.distributed import end_process, is_main

class Heard(Callback):
    def on_epoch_end(self, state):
        assert is_main()

values = {"num_epochs": 4, "batch_size": 4, "img_size": 16, "normalize": False}
home = "ad.core.testing"
ModelRegistry.register("linear-student", f"{home}.linear_student:LinearStudentTrainer", {}, values)
one = {**values, "num_epochs": 1}
ModelRegistry.register("mean-picture", f"{home}.mean_picture:MeanPictureTrainer", {}, one)
"""

TRAIN = """
root, out = sys.argv[1:]
for model in ("linear-student", "mean-picture"):
    result = train(
        "mvtec", "toy", model, data_root=root, output_dir=f"{out}/{model}", precision="fp32",
        callbacks=[Heard()],
    )
    print(json.dumps([result.metrics, len(result.evaluation.scores)]))
    if model == "linear-student":  # all processes have it
        assert result.detector.threshold is not None
torch.distributed.destroy_process_group()  # as torch asks of programs
end_process(0)
"""


def launch(program, *arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, "--nproc-per-node", "2", str(program), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


@pytest.fixture
def models():
    values = {"num_epochs": 4, "batch_size": 4, "img_size": 16, "normalize": False}
    home = "ad.core.testing"
    names = {
        "linear-student": (f"{home}.linear_student:LinearStudentTrainer", values),
        "mean-picture": (f"{home}.mean_picture:MeanPictureTrainer", {**values, "num_epochs": 1}),
    }
    for name, (trainer, numbers) in names.items():
        ModelRegistry.register(name, trainer, {}, numbers)
    yield list(names)
    for name in names:
        ModelRegistry.unregister(name)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_learn_what_one_would(models, toy_root, tmp_path):
    # Nine pictures to learn from: in the last batch of an epoch there is one for two processes.
    extra = sorted((toy_root / "toy/train/good").iterdir())
    for path in extra[10:]:
        path.unlink()
    program = tmp_path / "program.py"
    program.write_text(f"import json\n{PROGRAM}{TRAIN}")
    running = launch(program, toy_root, tmp_path / "two")
    out, errors = running.communicate(timeout=200)
    assert running.returncode == 0, errors
    assert "Exception ignored" not in errors
    told = [json.loads(line) for line in out.splitlines()]
    for model in models:
        one = train(
            "mvtec",
            "toy",
            model,
            data_root=toy_root,
            output_dir=tmp_path / "one" / model,
            precision="fp32",
        )
        two = tmp_path / "two" / model
        ours, theirs = (read_model(folder / "model")[0] for folder in (two, one.run))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-5, atol=1e-6)
        assert [row["path"] for row in lines(two / "scores.jsonl")] == [
            row["path"] for row in lines(one.run / "scores.jsonl")
        ]
        found, expected = (
            [row["score"] for row in lines(run / "scores.jsonl")] for run in (two, one.run)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        assert told.count([one.metrics, len(expected)]) == 2  # in both, each picture once
        record = json.loads((two / "run.json").read_text())
        assert record["processes"] == 2
        assert record["command"].startswith("torchrun --nproc-per-node 2 -m ad.core.cli train mvt")
        events = [line["event"] for line in lines(two / "log.jsonl")]
        assert events[0] == "start"
        assert events.count("tested") == 1
    epochs = [
        [row["losses"]["gap"] for row in lines(log) if row["event"] == "epoch"]
        for log in (tmp_path / f"{count}/linear-student/log.jsonl" for count in ("one", "two"))
    ]
    assert len(epochs[0]) == 4
    np.testing.assert_allclose(*epochs, rtol=1e-5)


COMMAND = """
import atexit
atexit.register(print, "exit functions ran")
sys.argv[0] = "ad"
main()
"""


@pytest.mark.slow
def test_a_stopped_run_of_two_processes_goes_on(models, toy_root, tmp_path):
    program, run = tmp_path / "program.py", tmp_path / "run"
    program.write_text(PROGRAM + COMMAND)
    words = ["train", "mvtec", "toy", "linear-student", "--data-root", toy_root, "--steps", 600]
    running = launch(program, *words, "--output", run)
    log = run / "log.jsonl"
    while not log.exists() or '"epoch"' not in log.read_text():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=100)
    assert running.returncode != 0
    assert errors.count("Stopped by SIGTERM after step") == 1
    assert (run / "checkpoint").is_dir()
    resumed = launch(program, *words, "--resume", run)
    out, errors = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, errors
    assert "saved to" in out + errors
    assert out.count("exit functions ran") == 2
    assert [line["event"] for line in lines(log)].count("resume") == 1


def test_shares_are_the_batch_and_weights_its_mean():
    worlds = [World(rank, 3) for rank in range(3)]
    for rows in ([4, 1, 7, 3, 9, 8], [5, 2, 6, 1], [5]):
        shares = [world.share(rows) for world in worlds]
        assert sum(weight for _, weight in shares) == pytest.approx(1)
        counted = [row for share, weight in shares if weight for row in share]
        assert sorted(counted) == sorted(rows)
        mean = sum(weight * np.mean(share) for share, weight in shares)
        assert mean == pytest.approx(np.mean(rows))
        assert all(len(share) for share, _ in shares)
    assert ALONE.share([3, 1]) == ([3, 1], 1.0)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(SettingError, match="`batch_size` must divide by 2; got 5. Give another"):
        World(0, 2).check_batch(5)


def test_buckets_keep_order_and_types_apart():
    tensors = [torch.zeros(3), torch.zeros(2), torch.zeros(2).double(), torch.zeros(8_000_000)]
    assert [len(bucket) for bucket in _buckets(tensors)] == [2, 1, 1]
    assert [t for bucket in _buckets(tensors) for t in bucket] == tensors


def test_one_process_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    world = join_world()
    assert world is ALONE
    values = torch.tensor([1.0])
    world.average_gradients([values], 0.5)
    assert world.tell("it") == "it"
    assert world.gather("it") == ["it"]
    assert world.mean({"a": 1.0}, 0.3) == {"a": 1.0}
    assert world.any(True)
