import numpy as np
import pytest
import torch

from ad.core import LoadedDetector, PictureSet, Setup, fit
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.framing import Framing
from ad.core.predict import ModelConfig
from ad.core.saved.loading import load_tensors
from ad.core.settings import run_settings
from ad.core.testing import make_picture
from ad.distill import fre
from ad.distill.fre import FreTrainer
from ad.distill.models import FRE, FRE_RESNET18
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.framing.size import size_of

SIZE = 64


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    options = {"backbone": "resnet18", "latent": 3, **(options or {})}
    return FreTrainer(Setup(**{**values, **changes}), **options)


def pictures(count=8):
    return PictureSet([make_picture(i, size=SIZE)[0] for i in range(count)], SIZE)


def images_of(pictures):
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures.sources])


def fitted(options=None, **changes):
    one = trainer(options, **changes)
    fit(one, pictures())
    return one.detector


def test_what_is_left_of_the_features_is_the_distance_to_the_plane():
    detector = fitted()
    images = images_of(pictures(3)).flip(3)
    features = detector.features(images).flatten(1)
    gap = features - detector.bias
    inside = gap @ detector.weight.T
    # Pythagoras: the residual's square is the whole less what lies in the plane.
    expected = gap.square().sum(1) - inside.square().sum(1)
    score, anomaly_map = detector(images)
    torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-5)
    assert anomaly_map.shape == (3, SIZE, SIZE)


def test_pictures_on_the_plane_have_no_error():
    detector = fitted({"latent": 220})  # seven directions hold eight pictures
    assert len(detector.weight) == 7
    scale = detector.features(images_of(pictures())).square().sum((1, 2, 3))
    assert (detector(images_of(pictures())).score / scale).max() < 1e-6


def test_descent_comes_near_the_closed_form_and_not_below():
    exact = fitted()
    descended = fitted({"solver": "sgd", "lr": 0.01}, num_epochs=60)
    images = images_of(pictures())
    best, ours = exact(images).score.mean(), descended(images).score.mean()
    start = trainer({"solver": "sgd"})
    start.prepare(_data(start))
    assert best < ours < 0.2 * start.detector(images).score.mean()
    assert not descended.weight.requires_grad


def _data(one):
    from ad.core import LearningData

    return LearningData(pictures(), torch.device("cpu"), one.frozen)


def test_the_closed_form_takes_no_steps_and_descent_those_of_the_setup():
    assert trainer().num_steps(10) == 0
    assert trainer({"solver": "sgd"}, num_epochs=2).num_steps(10) == 6
    assert "there are no epochs" in trainer().notes[0]
    assert trainer({"solver": "sgd"}).notes == ()


def test_the_budget_of_the_paper_descends():
    for spec in (FRE, FRE_RESNET18):
        settings = run_settings(
            spec, FreTrainer, dataset="mvtec", category="toy", budget="paper", batch_size=8
        )
        assert (settings.num_epochs, settings.batch_size) == (250, 8)  # a user's number counts
        assert settings.options["solver"] == "sgd"


def test_of_very_many_pictures_a_random_part_is_used(monkeypatch):
    monkeypatch.setattr(fre, "MAX_PICTURES", 5)
    with pytest.warns(UserWarning, match="8 pictures are more than the 5 that FRE's closed form"):
        detector = fitted({"latent": 220})
    assert len(detector.weight) == 4


def test_pictures_of_another_size_are_refused():
    detector = fitted()
    with pytest.raises(SettingError, match="FRE was fitted to .* features a picture; pictures of"):
        detector(torch.zeros(1, 3, 96, 96))


@pytest.mark.parametrize("size", [(32, 128), (128, 32), (64, 48)])
def test_pictures_of_another_shape_are_refused_though_they_have_as_many_features(size):
    detector = fitted()
    with pytest.raises(
        SettingError, match=f"fitted to 64 x 64 pixels, .*of {size[0]} x {size[1]} "
    ):
        detector(torch.rand(1, 3, *size))


def test_a_loaded_plane_of_another_number_of_features_is_refused():
    detector = fitted()
    detector.weight, detector.bias = detector.weight[:, :5].clone(), detector.bias[:5].clone()
    with pytest.raises(ModelFileError, match="plane is of 5 features a picture; these .* changed"):
        detector(torch.rand(1, 3, SIZE, SIZE))


def test_more_cells_than_there_are_cannot_be_pooled():
    with pytest.raises(SettingError, match="`pool` of FRE must be at most .* 4 x 4 cells .* got 5"):
        fit(trainer({"pool": 5}), pictures())


def test_one_picture_is_too_few():
    with pytest.raises(DataError, match="FRE needs at least 2 normal pictures; got 1"):
        fit(trainer(), pictures(1))


def test_equal_pictures_have_no_plane():
    same = PictureSet([make_picture(0, size=SIZE)[0]] * 4, SIZE)
    with pytest.raises(DataError, match="All 4 normal pictures have the very same features"):
        fit(trainer(), same)


@pytest.mark.parametrize("option", ["latent", "pool"])
def test_options_below_one_are_refused(option):
    with pytest.raises(SettingError, match=f"`{option}` of `FreTrainer`: .* or equal to 1; got 0"):
        trainer({option: 0})


@pytest.mark.parametrize(
    ("name", "shape"), [("weight", (5,)), ("code_bias", (1,)), ("bias", (1,)), ("bias", ())]
)
def test_loaded_tensors_of_another_shape_are_refused(name, shape):
    state = {**fitted().state_dict(), name: torch.ones(shape)}
    with pytest.raises(ModelFileError, match="Tensor `.*` of the saved model .* is needed"):
        load_tensors(trainer().detector, state, "elsewhere")


def test_pictures_have_the_same_verdict_alone_and_in_batches():
    config = ModelConfig(
        model="fre-resnet18", options={}, framing=Framing(size=size_of(SIZE)), normalize=True,
        precision="fp32", categories=("toy",), calibration=None, calibrated_on=None,
    )  # fmt: skip
    loaded = LoadedDetector(fitted(), config, torch.device("cpu"))
    held_out = np.stack([make_picture(i, size=SIZE)[0] for i in range(20, 33)])
    alone, *others = (
        np.array([finding.score for finding in loaded.predict(held_out, batch_size=size)])
        for size in (1, 2, 5, 8)
    )
    if all((scores == alone).all() for scores in others):
        pytest.skip("this machine computes the same in every batch")
    for rate in np.arange(1, 14) / 14:  # each picture sets the threshold once
        calibration = calibrate(alone, rate=float(rate))
        verdicts = [[calibration.is_anomalous(score) for score in scores]
                    for scores in (alone, *others)]  # fmt: skip
        assert verdicts == [verdicts[0]] * 4
