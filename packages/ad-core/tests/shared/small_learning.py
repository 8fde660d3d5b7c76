"""What tests of learning share: few tiny pictures, short runs, and callbacks that end them."""

import signal

import torch

from ad.core.callbacks import Callback
from ad.core.data.batches import PictureSet
from ad.core.testing.linear_student import LinearStudentTrainer
from ad.core.testing.pictures import make_picture
from ad.core.trainer import Setup

SIZE = 16


def pictures(count=10, *, start=0):
    return PictureSet([make_picture(start + i, size=SIZE)[0] for i in range(count)], SIZE)


def setup(**changes):
    values = {"img_size": SIZE, "normalize": False, "num_epochs": 3, "batch_size": 4, "seed": 5}
    return Setup(**{**values, **changes})


def learnt(trainer):
    return {name: tensor.clone() for name, tensor in trainer.detector.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys() != set()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def files(run):
    """All that a run wrote but its log, which has the times."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != "log.jsonl"
    }


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


class Interrupting(Callback):
    """Sends a signal to this process after an epoch."""

    def __init__(self, epochs, number=signal.SIGTERM):
        self.left, self.number = epochs, number

    def on_epoch_end(self, state):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)
