"""What is too small to learn from is refused in words; all else ends in finite scores."""

import math
from importlib.metadata import entry_points

import pytest
import torch

from ad.core import (
    AdError,
    Callback,
    GradientTrainer,
    ModelRegistry,
    PictureSet,
    Setup,
    fit,
    load_trainer,
)
from ad.core.options import options_of
from ad.core.registry import MODELS
from ad.core.settings import resolve_options
from ad.core.testing import make_picture


def specs():
    """One of each trainer that learns by gradient, the smallest there is."""
    found = {}
    for name in sorted(point.name for point in entry_points(group=MODELS)):
        spec = ModelRegistry.get(name)
        if issubclass(load_trainer(spec), GradientTrainer) and (
            spec.trainer not in found or name.endswith("-resnet18")
        ):
            found[spec.trainer] = spec
    return list(found.values())


class Steps(Callback):
    """Counts them."""

    taken = 0

    def on_batch_end(self, state):
        self.taken += 1


@pytest.mark.slow
@pytest.mark.parametrize("spec", specs(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("size", [16, 32, 64])
def test_a_last_batch_of_one_small_picture_is_learnt_from_or_refused_before(spec, size):
    kind = load_trainer(spec)
    options = dict(spec.check.get("options", {}))
    options |= {"input_size": (size, size)} if "input_size" in options_of(kind) else {}
    options |= {"solver": "sgd"} if "solver" in options_of(kind) else {}
    setup = Setup(
        img_size=size,
        normalize=spec.train["normalize"],
        batch_size=2,
        weights="random",
    )
    pictures = PictureSet([make_picture(number, size=size)[0] for number in range(3)], size)
    steps = Steps()
    try:
        trainer = kind(setup, **resolve_options(spec, kind, options))
        fit(trainer, pictures, callbacks=[steps])
    except AdError:
        assert size < 64
        assert steps.taken == 0
        return
    with torch.inference_mode():
        score = trainer.detector(torch.rand(2, 3, size, size)).score
    assert all(map(math.isfinite, score.tolist()))
