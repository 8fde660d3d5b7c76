"""Models that learn in one pass are fitted to folds as they are to pictures."""

from functools import partial

import numpy as np
import pytest
import torch

from ad.core import ModelRegistry, Setup, load_trainer
from ad.core.data.batches import PictureSet
from ad.core.learning.cross_fitting import cross_fitted
from ad.core.learning.loop import fit
from ad.core.testing import make_picture

SIZE = 64
FOLDS = ((0, 3), (1, 4), (2, 5, 6))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("patchcore-resnet18", {"coreset_ratio": 0.5}),
        ("patchcore-resnet18", {"coreset": "random", "coreset_ratio": 0.9}),
        ("padim-resnet18", {"reduction": "pca", "n_features": 8}),
        ("dfkde", {"backbone": "resnet18"}),
        ("dfm-resnet18", {}),
    ],
)
def test_what_is_kept_of_a_fold_is_what_its_pictures_say(name, options):
    spec = ModelRegistry.get(name)
    setup = Setup(img_size=SIZE, normalize=True, weights="random", batch_size=2)
    fresh = partial(load_trainer(spec), setup, **{**spec.model, **options})
    pictures = [make_picture(n, size=SIZE)[0] for n in range(7)]
    sets = [PictureSet([pictures[n] for n in fold], SIZE) for fold in FOLDS]
    *_, last = cross_fitted(fresh, sets)  # all that it learns from was kept from the first two
    trainer = fresh()
    fit(trainer, PictureSet([pictures[n] for fold in FOLDS[:2] for n in fold], SIZE))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        scores, expected = last(images).score, trainer.detector(images).score
    assert torch.equal(scores, expected)
    assert scores[4] < scores[5]  # it has learnt from the former
