"""Callbacks: what they hear, when they may end learning, and how their state is kept."""

import pytest
from small_learning import Interrupting, Recording, StopsAfter, pictures, setup

from ad.core.callbacks import Callback
from ad.core.errors import Interrupted, PluginError
from ad.core.learning.checkpoints import Checkpoints
from ad.core.learning.loop import fit
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.testing.mean_picture import MeanPictureTrainer


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
