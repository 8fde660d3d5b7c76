"""Learning by gradient: order, steps, caching, optimisers, and when it ends."""

import math
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from small_learning import Recording, StopsAfter, assert_equal, learnt, pictures, setup
from torch import nn

from ad.core import train
from ad.core.data.learning import LearningData
from ad.core.errors import DataError, LearningError, SettingError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.loop import fit
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.trainer import GradientTrainer, OnePassTrainer, Optimization


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


class Halves(Recording):
    """Learns from every second picture of a batch, then from the others."""

    def __init__(self, setup):
        super().__init__(setup)
        self.losses_of = []

    def num_updates(self):
        return 2

    def losses(self, batch):
        rows = slice(batch.update, None, 2)
        part = replace(batch, images=batch.images[rows], frozen=(batch.frozen[0][rows],))
        (value,) = super().losses(replace(part, indices=batch.indices[rows])).values()
        self.losses_of.append(value.item())
        told = {"all": value.detach()} if batch.step == 1 else {}
        return {f"half{batch.update}": value, **told}

    def optimizers(self, total_steps):
        sgd = torch.optim.SGD(self.detector.student.parameters(), 0.5)
        return [Optimization(optimizer=sgd, schedule=lambda step: 1 / (step + 1))]


def test_a_batch_may_give_several_updates():
    """As many steps of plain descent, one after another, at the rate of their batch."""
    trainer, told = Halves(setup(num_steps=2)), []

    class Listening(StopsAfter):
        def on_batch_end(self, state):
            told.append((state.step, dict(state.losses)))

    listener = Listening(99)
    fit(trainer, pictures(), callbacks=[listener])
    assert [len(rows) for _, rows in trainer.seen] == [2, 2, 2, 2]
    by_hand = LinearStudentTrainer(setup()).detector
    values = []
    for number, (_, rows) in enumerate(trainer.seen):
        images = torch.stack([torch.from_numpy(pictures().sources[row]) for row in rows])
        images = images.permute(0, 3, 1, 2).float() / 255
        loss = by_hand.gap(images, by_hand.taught(images)).mean()
        by_hand.student.zero_grad()
        loss.backward()
        values.append(loss.item())
        with torch.no_grad():
            for parameter in by_hand.student.parameters():
                parameter -= 0.5 / (number // 2 + 1) * parameter.grad
    assert trainer.losses_of == pytest.approx(values, rel=1e-4)
    for ours, theirs in zip(
        trainer.detector.student.parameters(), by_hand.student.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    first, second, third, fourth = trainer.losses_of
    assert [step for step, _ in told] == [1, 2]
    assert told[0][1] == {"half0": first, "half1": second}
    assert told[1][1] == {"half0": third, "half1": fourth, "all": (third + fourth) / 2}
    assert listener.states[-1].losses["half0"] == pytest.approx((first + third) / 2)


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

    with pytest.raises(SettingError, match="nothing is held out. .* `--holdout 0.1`"):
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
    assert message.endswith(
        "Look at these pictures, and start a new run with `--precision fp32` or a smaller learning "
        "rate: this one, resumed as it is, would get here again."
    )
    assert checkpoints.latest()[1]["step"] == 3
    never = Checkpoints(tmp_path / "never", every_seconds=math.inf)
    with pytest.raises(LearningError) as caught:
        fit(Diverging(setup()), pictures(), checkpoints=never)
    assert "checkpoint" not in str(caught.value)


def test_one_pass_models_take_neither_steps_nor_patience(mean_picture, toy_root):
    for setting in ({"num_steps": 3}, {"patience": 1}):
        with pytest.raises(SettingError, match="learns in one pass .* must be left out; got"):
            train("mvtec", "toy", mean_picture, data_root=toy_root, **setting)


def test_a_budget_of_the_paper_needs_one(student, toy_root):
    with pytest.raises(SettingError, match="has no schedule of its authors"):
        train("mvtec", "toy", student, data_root=toy_root, budget="paper")


class BrokenNetworkTrainer(OnePassTrainer):
    """Says of some pictures what no network should."""

    def __init__(self, setup):
        super().__init__(setup)
        self.taken = 0

    def extract(self, images):
        maps = images.clone()
        maps[0, 0, 0, 0] = math.nan
        return [images, maps]

    def observe(self, features):
        self.taken += 1

    def conclude(self):
        pass


def test_features_that_are_no_numbers_are_not_learnt_from():
    trainer = BrokenNetworkTrainer(setup())
    with pytest.raises(DataError, match="What the frozen network says of some pictures is no fin"):
        fit(trainer, pictures())
    assert trainer.taken == 0
