"""A run that is killed in the middle of an epoch ends like one that was not, bit for bit."""

import pytest
import torch

from ad.core.checkpoints import Checkpoints
from ad.core.data.batches import PictureSet
from ad.core.loop import fit
from ad.core.testing.pictures import make_picture
from ad.core.trainer import Setup
from ad.recon.autoencoder import AutoencoderTrainer
from ad.recon.draem import DraemTrainer
from ad.recon.ganomaly import GanomalyTrainer

SIZE = 64
MODELS = {
    "autoencoder": (AutoencoderTrainer, {"latent_dim": 8}),
    "draem": (DraemTrainer, {"width": 4}),
    "ganomaly": (
        GanomalyTrainer,
        {"input_size": (SIZE, SIZE), "n_features": 4, "latent_vec_size": 8},
    ),
}


def build(kind, options):
    setup = Setup(img_size=SIZE, normalize=False, num_epochs=3, batch_size=2, seed=5)
    return kind(setup, **options)


def pictures():
    return PictureSet([make_picture(i, size=SIZE)[0] for i in range(5)], SIZE)


def learnt(trainer):
    return {
        f"{owner}.{name}": tensor
        for owner, module in trainer.modules().items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_resuming_is_bit_equal(name, tmp_path):
    kind, options = MODELS[name]
    whole = build(kind, options)
    fit(whole, pictures())

    class Killed(kind):
        def losses(self, batch):
            if batch.step == 5:
                raise KeyboardInterrupt
            return super().losses(batch)

    always = Checkpoints(tmp_path / "checkpoint", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fit(build(Killed, options), pictures(), checkpoints=always)
    resumed = build(kind, options)
    fit(resumed, pictures(), checkpoints=always)
    ours, theirs = learnt(resumed), learnt(whole)
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    assert resumed.notes == whole.notes
