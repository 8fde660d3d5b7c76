"""Every installed model keeps the promises of a detector."""

from importlib.metadata import entry_points

import pytest

from ad.core import ModelRegistry
from ad.core.registry import MODELS
from ad.core.testing import check_model

SMALL = {
    "draem": {"options": {"width": 16, "lr": 1e-3}, "num_epochs": 40},
    "ganomaly": {
        "options": {"input_size": (64, 64), "n_features": 8, "latent_vec_size": 16, "lr": 2e-4},
        "num_epochs": 60,
    },
}
"""What makes a model small enough for a test, and lets it learn enough for one."""


def names():
    """One name of each model: another with the same trainer and numbers is the same model."""
    specs = [ModelRegistry.get(name) for name in sorted(p.name for p in entry_points(group=MODELS))]
    same = {repr((spec.trainer, spec.model, spec.train)): spec.name for spec in specs}
    return sorted(same.values())


@pytest.mark.parametrize("name", names())
def test_a_model_keeps_what_every_detector_promises(name):
    check_model(name, **SMALL.get(name, {}))
