"""A run that is killed at a step and resumed, beside one that was not."""

import pytest
import torch

from ad.core import Checkpoints, fit


def learnt(trainer):
    return {
        f"{owner}.{name}": tensor.clone()
        for owner, module in trainer.modules().items()
        for name, tensor in module.state_dict().items()
    }


def check_resuming(kind, build, pictures, folder, *, killed_at):
    """`build` makes a trainer of a kind; what both have learnt is equal bit for bit."""
    whole = build(kind)
    fit(whole, pictures)

    class Killed(kind):
        def losses(self, batch):
            if batch.step == killed_at:
                raise KeyboardInterrupt
            return super().losses(batch)

    always = Checkpoints(folder / "checkpoint", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(build(Killed), pictures, checkpoints=always)
    resumed = build(kind)
    fit(resumed, pictures, checkpoints=always)
    ours, theirs = learnt(resumed), learnt(whole)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert resumed.notes == whole.notes
