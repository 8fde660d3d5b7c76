"""Learning by gradient: order, checkpoints, resuming, caching, stopping."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from ad.core import ModelRegistry, train
from ad.core.callbacks import Callback
from ad.core.checkpoints import Checkpoints
from ad.core.data.batches import PictureSet
from ad.core.data.learning import LearningData
from ad.core.errors import DataError, Interrupted, LearningError, PluginError, SettingError
from ad.core.loop import fit
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.testing.mean_picture import MeanPictureTrainer
from ad.core.testing.pictures import make_picture
from ad.core.trainer import GradientTrainer, Optimization, Setup

SIZE = 16


def pictures(count=10, *, start=0):
    return PictureSet([make_picture(start + i, size=SIZE)[0] for i in range(count)], SIZE)


def setup(**changes):
    values = {"img_size": SIZE, "normalize": False, "num_epochs": 3, "batch_size": 4, "seed": 5}
    return Setup(**{**values, **changes})


def learnt(trainer):
    return {name: tensor.clone() for name, tensor in trainer.detector.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


class Recording(LinearStudentTrainer):
    """Keeps what it was shown."""

    def __init__(self, setup, **options):
        super().__init__(setup, **options)
        self.seen = []

    def losses(self, batch):
        self.seen.append((batch.epoch, batch.indices))
        return super().losses(batch)


class StopsAfter(Callback):
    def __init__(self, epochs):
        self.epochs = epochs
        self.states = []

    def on_epoch_end(self, state):
        self.states.append(state)
        return "stop" if len(self.states) == self.epochs else None


def test_every_epoch_shows_each_picture_once_in_an_order_of_its_own():
    trainer = Recording(setup())
    fit(trainer, pictures())
    epochs = [[i for e, rows in trainer.seen if e == epoch for i in rows] for epoch in range(3)]
    assert [len(rows) for _, rows in trainer.seen] == [4, 4, 2] * 3
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = Recording(setup())
    fit(again, pictures())
    assert again.seen == trainer.seen
    other = Recording(setup(seed=6))
    fit(other, pictures())
    assert other.seen != trainer.seen


def test_a_number_of_steps_counts_in_place_of_epochs():
    trainer = Recording(setup(num_steps=5))
    fit(trainer, pictures())
    assert [epoch for epoch, _ in trainer.seen] == [0, 0, 0, 1, 1]


def test_the_loss_falls_and_callbacks_hear_of_it():
    callback = StopsAfter(99)
    trainer = LinearStudentTrainer(setup(num_epochs=8))
    fit(trainer, pictures(), callbacks=[callback])
    losses = [state.losses["gap"] for state in callback.states]
    assert len(losses) == 8
    assert losses[-1] < 0.2 * losses[0]
    assert [(s.epoch, s.step, s.total_steps) for s in callback.states][-1] == (7, 24, 24)


def test_what_is_no_callback_is_refused():
    with pytest.raises(PluginError, match="A callback must be an `ad.core.Callback`; got `dict`"):
        fit(LinearStudentTrainer(setup()), pictures(), callbacks=[{}])


def test_a_callback_can_end_learning():
    trainer = Recording(setup())
    fit(trainer, pictures(), callbacks=[StopsAfter(2)])
    assert trainer.seen[-1][0] == 1


def test_callbacks_hear_everything_in_order():
    heard = []

    class Listening(Callback):
        def on_fit_start(self, state):
            heard.append(("fit starts", state.epoch, state.step, state.total_steps))

        def on_epoch_start(self, state):
            heard.append(("epoch starts", state.epoch, state.step, state.total_steps))

        def on_batch_end(self, state):
            assert state.losses.keys() == {"gap"}
            heard.append(("batch", state.epoch, state.step, state.total_steps))

        def on_epoch_end(self, state):
            heard.append(("epoch ends", state.epoch, state.step, state.total_steps))

        def on_fit_end(self, state):
            heard.append(("fit ends", state.epoch, state.step, state.total_steps))

    fit(LinearStudentTrainer(setup(num_epochs=2)), pictures(5), callbacks=[Listening()])
    assert heard == [
        ("fit starts", 0, 0, 4),
        ("epoch starts", 0, 0, 4), ("batch", 0, 1, 4), ("batch", 0, 2, 4), ("epoch ends", 0, 2, 4),
        ("epoch starts", 1, 2, 4), ("batch", 1, 3, 4), ("batch", 1, 4, 4), ("epoch ends", 1, 4, 4),
        ("fit ends", 2, 4, 4),
    ]  # fmt: skip
    heard.clear()
    fit(MeanPictureTrainer(setup()), pictures(5), callbacks=[Listening()])
    assert heard == [("fit starts", 0, 0, 2), ("fit ends", 0, 2, 2)]


class Counting(Callback):
    """Counts epochs over all parts of a run."""

    def __init__(self):
        self.epochs, self.errors = 0, []

    def on_epoch_end(self, state):
        self.epochs += 1

    def on_exception(self, error):
        self.errors.append(type(error))

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]


def test_a_checkpoint_keeps_the_callbacks_state(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoint")
    first, second = Counting(), Counting()
    with pytest.raises(Interrupted):
        fit(
            LinearStudentTrainer(setup()), pictures(), checkpoints=checkpoints,
            callbacks=[first, Interrupting(2)],
        )  # fmt: skip
    assert first.errors == [Interrupted]
    fit(LinearStudentTrainer(setup()), pictures(), checkpoints=checkpoints, callbacks=[second])
    assert (first.epochs, second.epochs) == (2, 3)
    others = [StopsAfter(9), Counting(), Counting()]  # places and numbers differ
    fit(LinearStudentTrainer(setup()), pictures(), checkpoints=checkpoints, callbacks=others)
    assert [one.epochs for one in others[1:]] == [3, 1]


def test_a_callback_that_fails_ends_learning_unless_it_is_not_vital():
    class Failing(Counting):
        def on_epoch_end(self, state):
            super().on_epoch_end(state)
            msg = "the disk is full"
            raise OSError(msg)

    class Harmless(Failing):
        vital = False

    with pytest.raises(OSError, match="the disk is full"):
        fit(LinearStudentTrainer(setup()), pictures(), callbacks=[Failing()])
    callback = Harmless()
    words = r"`Harmless` failed and is told no more; the run goes on\. OSError: the disk is full"
    with pytest.warns(UserWarning, match=words) as warned:
        fit(LinearStudentTrainer(setup()), pictures(), callbacks=[callback])
    assert len(warned) == callback.epochs == 1


@pytest.mark.parametrize("hook", ["state_dict", "load_state_dict"])
def test_a_state_that_cannot_be_kept_or_given_back_ends_what_is_vital_alone(hook, tmp_path):
    class Failing(Counting):
        def state_dict(self):
            return self.fails("state_dict") or super().state_dict()

        def load_state_dict(self, state):
            return self.fails("load_state_dict") or super().load_state_dict(state)

        def fails(self, where):
            if where == hook:
                msg = "no such host"
                raise OSError(msg)

    class Harmless(Failing):
        vital = False

    def run(callback):
        checkpoints = Checkpoints(tmp_path / type(callback).__name__, every_seconds=0)
        callbacks = [callback, Interrupting(1)]
        with pytest.raises(Interrupted):
            fit(LinearStudentTrainer(setup()), pictures(), checkpoints=checkpoints,
                callbacks=callbacks)  # fmt: skip
        fit(LinearStudentTrainer(setup()), pictures(), checkpoints=checkpoints,
            callbacks=[callback])  # fmt: skip

    with pytest.raises(OSError, match="no such host"):
        run(Failing())
    callback = Harmless()
    words = r"`Harmless` failed and is told no more; the run goes on\. OSError: no such host"
    with pytest.warns(UserWarning, match=words):
        run(callback)
    assert callback.epochs == (0 if hook == "state_dict" else 1)


def test_compiling_changes_nothing_but_rounding():
    plain, compiled = LinearStudentTrainer(setup()), LinearStudentTrainer(setup())
    fit(plain, pictures())
    fit(compiled, pictures(), compiled=True)
    for name, tensor in learnt(compiled).items():
        torch.testing.assert_close(tensor, learnt(plain)[name], rtol=1e-4, atol=1e-5)


def test_keeping_features_changes_nothing():
    kept, anew = LinearStudentTrainer(setup()), LinearStudentTrainer(setup())
    fit(kept, pictures())
    fit(anew, pictures(), feature_cache=False)
    assert_equal(learnt(kept), learnt(anew))


@pytest.mark.parametrize("budget", [2**30, 0])
def test_frozen_networks_are_asked_once_per_picture(budget):
    asked = []

    def frozen(images):
        asked.append(len(images))
        return images.mean(1, keepdim=True), images.sum((1, 2, 3))

    data = LearningData(pictures(), torch.device("cpu"), frozen, budget=budget)
    data.fill()
    for epoch in range(2):
        for batch in data.batches(3, order=[7, 2, 9, 0], epoch=epoch):
            assert torch.equal(batch.frozen[0], batch.images.mean(1, keepdim=True))
            assert torch.equal(batch.frozen[1], batch.images.sum((1, 2, 3)))
    assert asked == [1, 8, 2]  # the first once more, for the shapes


def test_a_pictures_randomness_depends_on_seed_epoch_and_picture_alone():
    data = LearningData(pictures(), torch.device("cpu"), lambda images: (), seed=3)

    def drawn(batch_size, epoch, order):
        return {
            index: torch.rand(1, generator=batch.generator(row)).item()
            for batch in data.batches(batch_size, order=order, epoch=epoch)
            for row, index in enumerate(batch.indices)
        }

    assert drawn(3, 0, range(10)) == drawn(4, 0, [*range(9, -1, -1)])
    assert drawn(3, 0, range(10)) != drawn(3, 1, range(10))
    assert len(set(drawn(3, 0, range(10)).values())) == 10


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    fit(LinearStudentTrainer(setup(), dropout=0.5), pictures())
    assert torch.equal(before, torch.random.get_rng_state())


class TwoPlayers(GradientTrainer):
    """Two optimisers whose terms reach each other's parameters."""

    def __init__(self, setup):
        super().__init__(setup)
        self.detector = LinearStudentTrainer(setup).detector
        self.a, self.b = nn.Linear(1, 1), nn.Linear(1, 1)
        self.gradients = []

    def modules(self):
        return {"detector": self.detector, "a": self.a, "b": self.b}

    def prepare(self, data):
        self.detector.trained = torch.ones(1)

    def losses(self, batch):
        x = batch.images.mean((1, 2, 3))[:, None]
        both = self.b(self.a(x)).square().mean()
        return {"first": both, "second": -3 * both}

    def optimizers(self, total_steps):
        return [
            Optimization(optimizer=torch.optim.SGD(self.a.parameters(), 0.1), terms=("first",)),
            Optimization(optimizer=torch.optim.SGD(self.b.parameters(), 0.1), terms=("second",)),
        ]


def test_each_optimiser_has_the_gradients_of_its_own_terms_only():
    trainer = TwoPlayers(setup(num_steps=1))
    a, b = [{k: v.clone() for k, v in m.state_dict().items()} for m in (trainer.a, trainer.b)]
    batch = Recording(setup(num_steps=1))
    fit(batch, pictures())
    fit(trainer, pictures())
    (rows,) = [rows for _, rows in batch.seen]
    x = torch.stack([torch.from_numpy(pictures().sources[i]).float().mean() / 255 for i in rows])
    inner = x * a["weight"].item() + a["bias"].item()
    outer = inner * b["weight"].item() + b["bias"].item()
    gradient_a = (2 * outer * b["weight"].item() * x).mean()
    gradient_b = (-3 * 2 * outer * inner).mean()
    moved_a = (a["weight"] - trainer.a.weight).item() / 0.1
    moved_b = (b["weight"] - trainer.b.weight).item() / 0.1
    assert moved_a == pytest.approx(gradient_a.item(), rel=1e-3)
    assert moved_b == pytest.approx(gradient_b.item(), rel=1e-3)


def test_phases_leave_each_others_parameters_alone():
    class Phases(TwoPlayers):
        def losses(self, batch):
            both = super().losses(batch)
            return {"first": both["first"]} if batch.step < 2 else {"second": both["second"]}

        def optimizers(self, total_steps):
            a, b = super().optimizers(total_steps)
            return [replace(a, steps=range(2)), replace(b, steps=range(2, total_steps))]

    first, both = Phases(setup(num_steps=2)), Phases(setup(num_steps=4))
    both.a.load_state_dict(first.a.state_dict())
    both.b.load_state_dict(first.b.state_dict())
    before = [{k: v.clone() for k, v in m.state_dict().items()} for m in (first.a, first.b)]
    for trainer in (first, both):
        fit(trainer, pictures())
    assert first.a.weight != before[0]["weight"]
    assert_equal(first.b.state_dict(), before[1])
    assert_equal(both.a.state_dict(), first.a.state_dict())
    assert both.b.weight != first.b.weight


def test_schedules_and_clipping_are_kept():
    class Scheduled(LinearStudentTrainer):
        rates: ClassVar[list[float]] = []

        def optimizers(self, total_steps):
            sgd = torch.optim.SGD(self.detector.student.parameters(), 0.5)
            self.sgd = sgd

            def schedule(step):
                self.rates.append(step / total_steps)
                return step / total_steps

            return [Optimization(optimizer=sgd, schedule=schedule, clip_norm=1e-6)]

    trainer = Scheduled(setup())
    before = learnt(trainer)
    fit(trainer, pictures())
    assert Scheduled.rates == [step / 9 for step in range(9)]
    assert trainer.sgd.param_groups[0]["lr"] == 0.5 * 8 / 9
    moved = sum((learnt(trainer)[k] - before[k]).abs().sum() for k in before if "student" in k)
    assert 0 < moved < 1e-5


class Interrupting(Callback):
    """Sends a signal to this process after an epoch."""

    def __init__(self, epochs, number=signal.SIGTERM):
        self.left, self.number = epochs, number

    def on_epoch_end(self, state):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)


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


def test_a_damaged_checkpoint_is_left_out_with_a_warning(tmp_path):
    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    fit(LinearStudentTrainer(setup()), pictures(), checkpoints=always)
    newest = tmp_path / "checkpoint/step-000000009/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="A checkpoint is left out: .*is not the file"):
        _, state = always.latest()
    assert state["step"] == 8


def test_the_epoch_that_reproduces_held_out_pictures_best_is_kept():
    class Worsening(LinearStudentTrainer):
        values = iter([3.0, 1.0, 2.0, 2.5, 9.0])
        kept: ClassVar[list] = []

        def monitor(self, images):
            if not self.kept or len(images) == 4:
                self.kept.append(learnt(self))
            return torch.full((len(images),), next(self.values))

    trainer = Worsening(setup(num_epochs=5))
    callback = StopsAfter(99)
    fit(trainer, pictures(), held_out=pictures(4, start=50), callbacks=[callback])
    assert [state.monitor for state in callback.states] == [3.0, 1.0, 2.0, 2.5, 9.0]
    assert_equal(learnt(trainer), Worsening.kept[1])


def test_patience_ends_learning_when_nothing_gets_better():
    class Flat(LinearStudentTrainer):
        def monitor(self, images):
            return torch.ones(len(images))

    callback = StopsAfter(99)
    fit(
        Flat(setup(num_epochs=9)), pictures(), held_out=pictures(2, start=50), patience=2,
        callbacks=[callback],
    )  # fmt: skip
    assert len(callback.states) == 3


def test_patience_without_anything_to_go_by_is_refused():
    with pytest.raises(SettingError, match="`patience` 2 .* does not watch its learning. Leave"):
        fit(LinearStudentTrainer(setup()), pictures(), held_out=pictures(2), patience=2)

    class Watched(LinearStudentTrainer):
        def monitor(self, images):
            return torch.ones(len(images))

    with pytest.raises(SettingError, match="`patience` 2 .*: nothing is held out. .* `holdout` ab"):
        fit(Watched(setup()), pictures(), patience=2)


def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_pictures(tmp_path):
    class Diverging(LinearStudentTrainer):
        def losses(self, batch):
            losses = super().losses(batch)
            if batch.epoch == 1:
                losses["other"] = torch.tensor(float("inf"))
            return losses

    checkpoints = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(LearningError) as caught:
        fit(Diverging(setup()), pictures(), checkpoints=checkpoints)
    message = str(caught.value)
    assert message.startswith("The loss is not finite at step 4 of 9: gap ")
    assert "other inf. The batch was " in message
    assert "The last checkpoint is still there." in message
    assert checkpoints.latest()[1]["step"] == 3


@pytest.fixture
def student():
    ModelRegistry.register(
        "linear-student",
        "ad.core.testing.linear_student:LinearStudentTrainer",
        {"dropout": 0.2},
        {"num_epochs": 4, "batch_size": 4, "img_size": SIZE, "normalize": False},
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


def files(run):
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "log.jsonl"
    }


def test_train_resumes_a_run_that_was_stopped(student, toy_root, tmp_path):
    whole = train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "a")
    with pytest.raises(Interrupted):
        train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "b",
              callbacks=[Interrupting(2)])  # fmt: skip
    assert (tmp_path / "b/checkpoint").is_dir()
    again = train("mvtec", "toy", student, data_root=toy_root, resume=tmp_path / "b")
    assert again.metrics == whole.metrics
    assert files(tmp_path / "a") == files(tmp_path / "b")
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


def test_a_finished_run_is_not_resumed(student, toy_root, tmp_path):
    train("mvtec", "toy", student, data_root=toy_root, output_dir=tmp_path / "run")
    with pytest.raises(SettingError, match="is finished; there is nothing to resume"):
        train("mvtec", "toy", student, data_root=toy_root, resume=tmp_path / "run")


def test_one_pass_models_take_neither_steps_nor_patience(mean_picture, toy_root):
    for setting in ({"num_steps": 3}, {"patience": 1}):
        with pytest.raises(SettingError, match="learns in one pass .* must be left out; got"):
            train("mvtec", "toy", mean_picture, data_root=toy_root, **setting)


def test_a_budget_of_the_paper_needs_one(student, toy_root):
    with pytest.raises(SettingError, match="has no schedule of its authors"):
        train("mvtec", "toy", student, data_root=toy_root, budget="paper")


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
    errors = (tmp_path / "errors").open("w+")

    def start(run, how):
        command = [sys.executable, "-c", PROGRAM, str(toy_root), str(run), how]
        return subprocess.Popen(command, stderr=errors)

    def finish(run, how):
        status = start(run, how).wait(200)
        errors.seek(0)
        assert status == 0, errors.read()

    finish(tmp_path / "whole", "start")
    rng, run = random.Random(0), tmp_path / "killed"
    log = run / "log.jsonl"
    for _ in range(20):
        process = start(run, "resume" if (run / "run.json").exists() else "start")
        size = log.stat().st_size if log.exists() else 0
        while not log.exists() or log.stat().st_size <= size:  # it is not yet learning
            assert process.poll() is None, errors.seek(0) or errors.read()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        assert process.poll() is None, "it ended before it was killed: make the run longer"
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish(run, "resume")
    errors.close()
    assert files(run) == files(tmp_path / "whole")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["event"] == "resume" for line in lines) == 20
