"""What every model must promise, as code that any package's tests can run.

It lives in the library, not under tests/, so that models of others can be checked too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ad.core.data.batches import PictureSet, Source, to_device
from ad.core.detector import Detector, Prediction
from ad.core.errors import NotFittedError
from ad.core.files import load_tensors, read_model, save_model
from ad.core.loop import fit
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.settings import resolve_options
from ad.core.testing.pictures import make_picture
from ad.core.trainer import GradientTrainer, Setup, Trainer

TOLERANCE = 1e-4
"""Largest relative difference that the size of a batch may make."""

EPOCHS = 20
"""For models that learn by gradient: enough to see a blatant defect, not enough to be good."""


def check_model(
    name: str,
    *,
    img_size: int = 64,
    options: Mapping[str, Any] | None = None,
    num_epochs: int = EPOCHS,
) -> None:
    """Train a model on tiny pictures, offline, and check what every detector promises.

    Args:
        name: Registry name.
        img_size: Side of the pictures, in pixels.
        options: Options other than the catalogue's, to make it small.
        num_epochs: How long a model that learns by gradient learns to see a blatant defect.

    Raises:
        AssertionError: Naming the promise that was broken.
    """
    spec = ModelRegistry.get(name)
    trainer_class = load_trainer(spec)
    resolved = resolve_options(spec, trainer_class, options or {})
    good = [make_picture(index, size=img_size)[0] for index in range(12)]
    fresh = [make_picture(100 + index, size=img_size)[0] for index in range(4)]
    bad, masks = zip(
        *(make_picture(200 + index, size=img_size, defect=True) for index in range(4)), strict=True
    )

    def build(weights: str = "random", num_epochs: int = 1) -> Trainer:
        setup = Setup(
            img_size=img_size,
            normalize=spec.train["normalize"],
            num_epochs=num_epochs,
            batch_size=4,
            weights=weights,
        )
        return trainer_class(setup, **resolved)

    def trained(num_epochs: int = 1) -> Detector:
        trainer = build(num_epochs=num_epochs)
        fit(trainer, PictureSet(good, img_size))
        return trainer.detector

    def images_of(pictures: Sequence[Source]) -> Tensor:
        (batch,) = PictureSet(pictures, img_size).batches(len(pictures))
        return to_device(batch.pictures, torch.device("cpu"))

    images = images_of([*fresh, *bad])
    _check_unfitted(build().detector, images)
    generator_state = torch.random.get_rng_state()
    by_gradient = issubclass(trainer_class, GradientTrainer)
    detector = trained(num_epochs if by_gradient else 1)
    whole = _predict(detector, images)
    _check_prediction(detector, whole, images)
    assert torch.equal(generator_state, torch.random.get_rng_state()), (
        "training and prediction must leave torch's global random generator alone"
    )
    _check_batches(detector, whole, images)
    once = _predict(trained(), images) if by_gradient else whole
    again = _predict(trained(), images)
    assert torch.equal(once.score, again.score), "equal seeds and pictures must give equal scores"
    _check_saved(detector, build("from-model-file").detector, whole, images)
    good_scores, bad_scores = whole.score[:4], whole.score[4:]
    if whole.map is None:
        # Who judges pictures as a whole need not see a small spot, but another product.
        bad_scores = _predict(detector, images_of([255 - picture for picture in fresh])).score
    assert bad_scores.median() > good_scores.max(), (
        "a blatant defect must score higher than good pictures do"
    )
    if whole.map is not None:
        for map_, mask in zip(whole.map[4:], masks, strict=True):
            _check_place(map_, torch.from_numpy(mask))


def _predict(detector: Detector, images: Tensor) -> Prediction:
    with torch.inference_mode():
        prediction: Prediction = detector(images)
    return prediction


def _check_unfitted(detector: Detector, images: Tensor) -> None:
    try:
        _predict(detector, images)
    except NotFittedError:
        return
    msg = "a detector that has not been fitted must raise `NotFittedError`"
    raise AssertionError(msg)


def _check_prediction(detector: Detector, whole: Prediction, images: Tensor) -> None:
    b, _, h, w = images.shape
    assert whole.score.shape == (b,), "`score` must hold one value per image"
    assert whole.score.dtype == torch.float32, "`score` must be float32"
    assert whole.score.isfinite().all(), "`score` must be finite"
    assert (whole.map is not None) == detector.localises, "`localises` must say if there are maps"
    if whole.map is not None:
        assert whole.map.shape == (b, h, w), "`map` must hold one value per input pixel"
        assert whole.map.dtype == torch.float32, "`map` must be float32"
        assert whole.map.isfinite().all(), "`map` must be finite"
    assert not any(p.requires_grad for p in whole if isinstance(p, Tensor)), (
        "prediction must not keep gradients"
    )


def _check_place(map_: Tensor, defect: Tensor) -> None:
    assert map_[defect].mean() > map_[~defect].mean(), (
        "the map must be higher on a blatant defect than beside it"
    )


def _check_batches(detector: Detector, whole: Prediction, images: Tensor) -> None:
    singles = [_predict(detector, image[None]) for image in images]
    alone = torch.cat([single.score for single in singles])
    assert torch.allclose(alone, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on the other images of the batch"
    )
    turned = _predict(detector, images.flip(0)).score.flip(0)
    assert torch.allclose(turned, whole.score, rtol=TOLERANCE, atol=TOLERANCE), (
        "a score must not depend on an image's place in the batch"
    )


def _check_saved(detector: Detector, blank: Detector, whole: Prediction, images: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "model"
        save_model(home, detector, {})
        load_tensors(blank, read_model(home)[0], home)
    loaded = _predict(blank.eval(), images)
    assert torch.equal(loaded.score, whole.score), "a saved and loaded model must score the same"
    if whole.map is not None and loaded.map is not None:
        assert torch.equal(loaded.map, whole.map), "a saved and loaded model must map the same"
