"""A run that is killed in the middle of an epoch ends like one that was not, bit for bit."""

from functools import partial

import pytest
from killed_runs import check_resuming
from tiny_batches import pictures

from ad.core import Setup
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


@pytest.mark.parametrize("name", MODELS)
def test_resuming_is_bit_equal(name, tmp_path):
    kind, options = MODELS[name]
    make = partial(build, options=options)
    check_resuming(kind, make, pictures(SIZE, 5), tmp_path, killed_at=5)
