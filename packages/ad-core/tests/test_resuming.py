"""Runs that are stopped or killed, and go on from their checkpoint to the same end."""

import json
import random
import re
import signal
import time

import pytest
import torch
import warm
from small_learning import (
    Interrupting,
    StopsAfter,
    assert_equal,
    files,
    learnt,
    pictures,
    setup,
)

from ad.core import ModelRegistry, train
from ad.core.errors import DataError, Interrupted, SettingError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.loop import fit
from ad.core.testing.linear_student import LinearStudentTrainer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_a_resumed_run_ends_bit_equal(tmp_path, number):
    whole = LinearStudentTrainer(setup(), dropout=0.3)
    fit(whole, pictures(), held_out=pictures(4, start=50))
    handler = signal.getsignal(number)
    killed = LinearStudentTrainer(setup(), dropout=0.3)
    with pytest.raises(Interrupted, match=r"Stopped by SIG\w+ after step 6 of 9") as caught:
        fit(
            killed, pictures(), held_out=pictures(4, start=50),
            checkpoints=Checkpoints(tmp_path / "run/checkpoint"),
            callbacks=[Interrupting(2, number)],
        )  # fmt: skip
    assert caught.value.status == 128 + number
    assert f"`--resume {tmp_path / 'run'}`" in str(caught.value)
    assert signal.getsignal(number) is handler
    resumed = LinearStudentTrainer(setup(), dropout=0.3)
    fit(
        resumed, pictures(), held_out=pictures(4, start=50),
        checkpoints=Checkpoints(tmp_path / "run/checkpoint"),
    )  # fmt: skip
    assert_equal(learnt(resumed), learnt(whole))


def test_resuming_in_the_middle_of_an_epoch_is_bit_equal(tmp_path):
    states = []

    class Watched(StopsAfter):
        def on_epoch_end(self, state):
            states.append(state)

    whole = LinearStudentTrainer(setup())
    fit(whole, pictures(), callbacks=[Watched(0)])
    full, states = list(states), []

    class Fails(LinearStudentTrainer):
        def losses(self, batch):
            if batch.epoch == 1 and len(batch.indices) == 2:
                raise RuntimeError
            return super().losses(batch)

    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(RuntimeError):
        fit(Fails(setup()), pictures(), checkpoints=always)
    assert [path.name for path in sorted(always.folder.iterdir())] == [
        "step-000000004", "step-000000005",
    ]  # fmt: skip
    resumed = LinearStudentTrainer(setup())
    fit(resumed, pictures(), checkpoints=always, callbacks=[Watched(0)])
    assert_equal(learnt(resumed), learnt(whole))
    assert states == full[1:]


class Judged(LinearStudentTrainer):
    """Its epochs are as good as it is told they are."""

    def __init__(self, values):
        super().__init__(setup(num_epochs=6))
        self.values = iter(values)

    def monitor(self, images):
        return torch.full((len(images),), next(self.values))


def test_an_early_best_epoch_is_kept_by_a_run_that_is_resumed_after_it(tmp_path):
    held_out, checkpoints = pictures(4, start=50), Checkpoints(tmp_path / "run/checkpoint")
    best = Judged([3.0, 1.0])
    fit(best, pictures(), held_out=held_out, callbacks=[StopsAfter(2)])
    with pytest.raises(Interrupted):
        fit(
            Judged([3.0, 1.0, 4.0]), pictures(), held_out=held_out, checkpoints=checkpoints,
            callbacks=[Interrupting(3)],
        )  # fmt: skip
    resumed, watched = Judged([2.0, 1.5]), StopsAfter(0)
    fit(
        resumed, pictures(), held_out=held_out, checkpoints=checkpoints, patience=3,
        callbacks=[watched],
    )  # fmt: skip
    assert_equal(learnt(resumed), learnt(best))
    assert [state.epoch for state in watched.states] == [3, 4]  # patience counts from the best


def test_a_damaged_checkpoint_is_left_out_with_a_warning(tmp_path):
    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    fit(LinearStudentTrainer(setup()), pictures(), checkpoints=always)
    newest = tmp_path / "checkpoint/step-000000009/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="A checkpoint is left out: .*is not the file"):
        _, state = always.latest()
    assert state["step"] == 8


def test_a_resumed_run_takes_note_of_its_pictures_but_is_not_prepared_again(tmp_path):
    class Noting(LinearStudentTrainer):
        def __init__(self, setup):
            super().__init__(setup)
            self.done = []

        def begin(self, data):
            self.done.append(data.pictures)

        def prepare(self, data):
            self.done.append("prepared")
            super().prepare(data)

    always, shown = Checkpoints(tmp_path, every_seconds=0), pictures()
    for expected in ([shown, "prepared"], [shown]):
        trainer = Noting(setup())
        fit(trainer, shown, checkpoints=always)
        assert trainer.done == expected


def test_train_resumes_a_run_that_was_stopped(student, toy_root, tmp_path):
    whole = train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "a")
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "b",
              callbacks=[Interrupting(2)])  # fmt: skip
    assert (tmp_path / "b/checkpoint").is_dir()
    again = train("mvtec", "toy", student, data_root=toy_root, resume=tmp_path / "b")
    assert again.metrics == whole.metrics
    assert files(tmp_path / "a") == files(tmp_path / "b") != {}
    events = [
        json.loads(line)["event"] for line in (tmp_path / "b/log.jsonl").read_text().splitlines()
    ]
    assert events == [
        "start", "epoch", "epoch", "resume", "epoch", "epoch", "fitted", "saved", "tested",
    ]  # fmt: skip


def test_resuming_with_other_settings_or_data_is_refused(student, toy_root, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=run,
              callbacks=[Interrupting(1)])  # fmt: skip
    with pytest.raises(SettingError, match="was started with `seed` 0; got 1"):
        train("mvtec", "toy", student, data_root=toy_root, resume=run, seed=1)
    with pytest.raises(SettingError, match="stays where it is"):
        train("mvtec", "toy", student, data_root=toy_root, resume=run, output_dir=tmp_path / "x")
    record = (run / "run.json").read_text()
    other = record.replace('"inputs": {}', '"inputs": {"teacher": "0123456789"}')
    (run / "run.json").write_text(other)
    words = "beyond its pictures has changed .* then teacher 01234567, now nothing. Restore it"
    with pytest.raises(DataError, match=words):
        train("mvtec", "toy", student, data_root=toy_root, resume=run)
    (run / "run.json").write_text(record)
    (toy_root / "toy/test/good/000.png").unlink()
    with pytest.raises(DataError, match="have changed since it was started"):
        train("mvtec", "toy", student, data_root=toy_root, resume=run)


def test_a_run_begun_by_an_alias_goes_on_by_either_name(student, toy_root, tmp_path, monkeypatch):
    spec = ModelRegistry.get(student)
    object.__setattr__(spec, "aliases", ("short",))  # it is this test's own
    monkeypatch.setitem(ModelRegistry._added, "short", spec)
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("mvtec", "toy", "short", data_root=toy_root, output_dir=run,
              callbacks=[Interrupting(1)])  # fmt: skip
    record = (run / "run.json").read_text()
    assert json.loads(record)["settings"]["model"] == student
    # As it was written before an alias was one.
    (run / "run.json").write_text(record.replace(f'"model": "{student}"', '"model": "short"'))
    result = train("mvtec", "toy", "short", data_root=toy_root, resume=run)
    assert result.detector.config.model == student


def test_resuming_in_other_circumstances_is_said(student, toy_root, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=run,
              callbacks=[Interrupting(1)])  # fmt: skip
    record = json.loads((run / "run.json").read_text())
    numpy = record["versions"]["numpy"]
    precision = record["precision"]
    record |= {"precision": "fp16", "versions": {**record["versions"], "numpy": "0.1"}}
    (run / "run.json").write_text(json.dumps(record))
    words = (
        f"`{run}` was started with precision fp16 and not {precision}, numpy 0.1 and not {numpy}: "
        "it goes on, but may not end exactly as it would have."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(words)}$"):
        train("mvtec", "toy", student, data_root=toy_root, resume=run)


def test_a_finished_run_is_not_resumed(student, toy_root, tmp_path):
    train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="is finished; there is nothing to resume"):
        train("mvtec", "toy", student, data_root=toy_root, resume=tmp_path / "run")


PROGRAM = """
import sys
from ad.core import ModelRegistry
ModelRegistry.register(
    "linear-student", "ad.core.testing.linear_student:LinearStudentTrainer", {"dropout": 0.2},
    {"num_epochs": 60, "batch_size": 2, "img_size": 16, "normalize": False},
)
from ad.core import train
root, run, resume = sys.argv[1:]
place = {"resume": run} if resume == "resume" else {"output_dir": run}
train("mvtec", "toy", "linear-student", data_root=root, checkpoint_minutes=0, **place)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_bit_equal(toy_root, tmp_path):
    said = tmp_path / "said"

    def start(run, how):
        return warm.start(PROGRAM, toy_root, run, how, said=said)

    def finish(run, how):
        process = start(run, how)
        process.join(200)
        assert process.exitcode == 0, said.read_text()

    finish(tmp_path / "whole", "start")
    rng, run = random.Random(0), tmp_path / "killed"
    log = run / "log.jsonl"
    for _ in range(20):
        process = start(run, "resume" if (run / "run.json").exists() else "start")
        size = log.stat().st_size if log.exists() else 0
        while not log.exists() or log.stat().st_size <= size:  # it is not yet learning
            assert process.is_alive(), said.read_text()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert process.is_alive(), "it ended before it was killed: make the run longer"
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finish(run, "resume")
    assert files(run) == files(tmp_path / "whole") != {}
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["event"] == "resume" for line in lines) == 20
