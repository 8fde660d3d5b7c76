from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import gaussian_kde

from ad.core import FROM_MODEL_FILE, Setup
from ad.core.errors import DataError, ModelFileError, NotFittedError, SettingError, WeightsError
from ad.core.saved.files import read_model, save_model
from ad.core.saved.loading import load_tensors
from ad.memory.dfkde import DfkdeTrainer

BACKBONE = "test_resnet"  # timm's smallest: layers as of a ResNet-18, built in milliseconds


def setup(**changes):
    return Setup(**{"img_size": 32, "normalize": True, "weights": "random", **changes})


def build(setting=None, **options):
    return DfkdeTrainer(setting or setup(), backbone=BACKBONE, **options)


def pictures(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(
        torch.rand(count, 3, 4, 4, generator=generator), size=(32, 32), mode="bilinear"
    )


def taught(trainer, images, *, batch=4):
    with torch.inference_mode():
        trainer.begin(len(images))
        for part in images.split(batch):
            trainer.observe(trainer.extract(part))
        trainer.conclude()
    return trainer.detector


@pytest.mark.parametrize("scaling", ["scale", "norm"])
@pytest.mark.parametrize("layers", [("layer4",), ("layer2", "layer4")])
def test_scores_are_those_of_a_plain_version_with_scipys_density(scaling, layers):
    images, asked = pictures(30), pictures(5, seed=1)
    detector = taught(build(layers=layers, scaling=scaling, n_components=6), images)

    def pooled(batch):
        maps = [m.double().numpy() for m in detector.extractor(batch)]
        return np.concatenate([m.mean(axis=(2, 3)) for m in maps], axis=1)

    seen, new = pooled(images), pooled(asked)
    _, _, right = np.linalg.svd(seen - seen.mean(axis=0), full_matrices=False)
    seen, new = ((v - seen.mean(axis=0)) @ right[:6].T for v in (seen, new))
    largest = np.linalg.norm(seen, axis=1).max()
    if scaling == "scale":
        seen, new = seen / largest, new / largest
    else:
        seen, new = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (seen, new))
    expected = -gaussian_kde(seen.T).logpdf(new.T)
    prediction = detector(asked)
    assert prediction.map is None
    np.testing.assert_allclose(prediction.score.numpy(), expected, rtol=1e-3, atol=1e-3)


def test_a_strange_picture_scores_higher_than_all_that_was_seen():
    images = 0.5 + 0.05 * pictures(20)
    strange = images[:2] * torch.tensor([0.0, 0.5])[:, None, None, None]
    detector = taught(build(), images)
    assert detector(strange).score.min() > detector(images).score.max()


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (9, 8), (17, 16), (30, 16)])
def test_few_pictures_mean_fewer_components(count, expected):
    detector = taught(build(), pictures(count))
    assert detector.components.shape[1] == expected
    assert torch.isfinite(detector(pictures(3, seed=1)).score).all()


def test_more_pictures_than_max_points_are_sampled_with_the_seed():
    images, asked = pictures(20), pictures(3, seed=1)

    def scores(seed, batch):
        trainer = build(max_points=8, n_components=3)
        trainer.setup = setup(seed=seed)  # the backbone stays the same
        detector = taught(trainer, images, batch=batch)
        assert len(detector.density.points) == 8
        return detector(asked).score

    torch.testing.assert_close(scores(0, 4), scores(0, 1), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(scores(0, 4), scores(1, 4), rtol=1e-3, atol=1e-3)


def test_a_loaded_detector_gives_identical_scores(tmp_path):
    detector, asked = taught(build(), pictures(20)), pictures(3, seed=1)
    save_model(tmp_path / "model", detector, {})
    tensors, _ = read_model(tmp_path / "model")
    fresh = build(setup(seed=5, weights=FROM_MODEL_FILE)).detector
    load_tensors(fresh, tensors, tmp_path / "model")
    assert torch.equal(fresh(asked).score, detector(asked).score)


def test_an_image_scores_the_same_alone_and_in_a_batch_of_eight():
    detector, asked = taught(build(), pictures(20)), pictures(8, seed=1)
    alone = torch.cat([detector(image[None]).score for image in asked])
    torch.testing.assert_close(alone, detector(asked).score, rtol=1e-4, atol=1e-4)


def test_a_trainer_can_learn_again_and_forgets():
    trainer, asked = build(), pictures(2, seed=9)
    taught(trainer, pictures(20, seed=4))
    again = taught(trainer, pictures(12))
    assert torch.equal(again(asked).score, taught(build(), pictures(12))(asked).score)


def test_without_pretraining_the_backbone_comes_from_the_seed(monkeypatch):
    monkeypatch.setattr(
        "ad.core.networks.backbones._weights_file",
        lambda *_: pytest.fail("a weights file was looked for"),
    )
    built = build(setup(weights="auto"), pre_trained=False).detector.extractor
    expected = build(setup(weights="random")).detector.extractor
    for one, other in zip(built.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_saved_detector_without_pretraining_can_be_built_to_be_loaded():
    build(setup(weights=FROM_MODEL_FILE), pre_trained=False)


def test_without_pretraining_a_weights_file_is_a_contradiction():
    message = r"`pre_trained=False` .* `weights` names the file `my\.safetensors`\. Leave out one"
    with pytest.raises(SettingError, match=message):
        build(setup(weights="my.safetensors"), pre_trained=False)
    with pytest.raises(WeightsError, match="does not exist"):  # and with it, the file is wanted
        build(setup(weights="my.safetensors"))


@pytest.mark.parametrize(
    ("option", "value", "least"), [("n_components", 0, 1), ("max_points", 1, 2)]
)
def test_counts_must_be_large_enough(option, value, least):
    message = rf"`{option}` of `DfkdeTrainer`: .* greater than or equal to {least}; got {value}\."
    with pytest.raises(SettingError, match=message):
        build(**{option: value})


def test_one_picture_is_too_few():
    trainer = build()
    with pytest.raises(DataError, match="DFKDE needs at least 2 normal pictures; got 1. Add"):
        trainer.begin(1)
    trainer.begin(5)
    trainer.observe(trainer.extract(pictures(1)))
    with pytest.raises(DataError, match="DFKDE needs at least 2 normal pictures; got 1. Add"):
        trainer.conclude()


def test_pictures_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match="All 6 normal pictures have the very same features"):
        taught(build(), pictures(1).repeat(6, 1, 1, 1))


def test_an_unfitted_detector_says_so():
    with pytest.raises(NotFittedError, match="`DfkdeDetector` has not been fitted"):
        build().detector(pictures(1))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mean", (1,)), ("components", (192,)), ("length", (4,)), ("density.center", (1,)),
        ("density.whitening", (1, 1)), ("density.points", (4,)), ("density.log_norm", (4,)),
    ],
)  # fmt: skip
def test_loaded_tensors_of_another_shape_are_refused(name, shape):
    state = {**taught(build(), pictures(6)).state_dict(), name: torch.ones(shape)}
    with pytest.raises(ModelFileError, match=r"Tensor `.*` of the saved model `elsewhere` is \("):
        load_tensors(build(setup(weights=FROM_MODEL_FILE)).detector, state, "elsewhere")


def test_a_loaded_density_of_other_components_is_refused():
    detector = taught(build(), pictures(6))
    detector.components = detector.components[:, :1]
    with pytest.raises(ModelFileError, match="projects to 1 components and its density knows 5"):
        detector(pictures(1))
