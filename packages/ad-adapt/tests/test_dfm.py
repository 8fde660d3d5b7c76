import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from ad.adapt import dfm
from ad.adapt.dfm import DfmTrainer
from ad.core import PictureSet, Setup, fit
from ad.core.errors import DataError, ModelFileError, NotFittedError, SettingError
from ad.core.saved.loading import load_tensors
from ad.core.testing import make_picture

SIZE = 64


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    options = {"backbone": "resnet18", "pool": 2, **(options or {})}
    return DfmTrainer(Setup(**{**values, **changes}), **options)


def pictures(count=9):
    return PictureSet([make_picture(i, size=SIZE)[0] for i in range(count)], SIZE)


def images_of(pictures):
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures.sources])


def fitted(options=None, **changes):
    one = trainer(options, **changes)
    fit(one, pictures())
    return one.detector


def rows_of(detector, images):
    with torch.inference_mode():
        return detector.features(images).flatten(1).double().numpy()


def score_of(detector, images):
    with torch.inference_mode():
        return detector(images).score.double().numpy()


def unseen():
    return images_of(pictures(5)).flip(3)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.97])
def test_a_score_is_what_the_components_of_scikit_learn_miss(level):
    detector = fitted({"pca_level": level})
    known = PCA(level, svd_solver="full").fit(rows_of(detector, images_of(pictures())))
    rows = rows_of(detector, unseen())
    missed = rows - known.inverse_transform(known.transform(rows))
    np.testing.assert_allclose(score_of(detector, unseen()), (missed**2).sum(1), rtol=1e-3)
    assert len(detector.weight) == known.n_components_


def test_likelihood_is_that_of_a_gaussian_within_the_plane():
    detector = fitted({"score_type": "nll", "pca_level": 0.8})
    learnt = rows_of(detector, images_of(pictures()))
    known = PCA(0.8, svd_solver="full").fit(learnt)
    code = known.transform(learnt)
    gaussian = multivariate_normal(np.zeros(code.shape[1]), np.cov(code.T, bias=True))
    expected = -2 * gaussian.logpdf(known.transform(rows_of(detector, unseen())))
    constant = code.shape[1] * np.log(2 * np.pi)
    np.testing.assert_allclose(score_of(detector, unseen()), expected - constant, rtol=1e-3)


def test_pictures_that_were_learnt_from_have_the_mean_and_spread_of_a_gaussian():
    detector = fitted({"score_type": "nll"})
    images = images_of(pictures())
    code = detector.code(torch.from_numpy(rows_of(detector, images)).float())
    assert code.mean(0).abs().max() < 1e-4 * code.abs().max()
    torch.testing.assert_close(code.var(0, correction=0), detector.variances, rtol=1e-3, atol=0)
    constant = detector.variances.log().sum().item()
    # Squares over variances are as many as there are components, in the mean.
    mean = score_of(detector, images).mean() - constant
    assert mean == pytest.approx(len(detector.variances), rel=1e-3)


def test_both_scores_have_the_same_map_whose_sum_over_cells_is_the_first():
    found = {kind: fitted({"score_type": kind}) for kind in ("fre", "nll")}
    with torch.inference_mode():
        fre, nll = (found[kind](unseen()) for kind in ("fre", "nll"))
    assert torch.equal(fre.map, nll.map)
    assert not torch.equal(fre.score, nll.score)
    # 2 x 2 cells; up-sampling keeps the corners' values.
    corners = fre.map[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum(1)
    torch.testing.assert_close(corners, fre.score)


def test_a_component_without_variance_does_not_blow_likelihood_up():
    detector = fitted({"score_type": "nll"})
    detector.variances = torch.zeros_like(detector.variances)
    assert np.isfinite(score_of(detector, unseen())).all()


def test_more_variance_takes_more_components_up_to_one_less_than_pictures():
    counts = [len(fitted({"pca_level": level}).weight) for level in (0.3, 0.9, 1.0)]
    assert counts == sorted({*counts})
    assert counts[-1] == 8


def test_the_collected_features_are_left_as_they_were():
    one = trainer()
    one.begin(9)
    rows = one.extract(images_of(pictures()))
    before = rows.clone()
    one.observe(rows)
    one.conclude()
    one.detector.error(rows)
    assert torch.equal(rows, before)


def test_of_very_many_pictures_a_random_part_is_collected(monkeypatch):
    monkeypatch.setattr(dfm, "MAX_PICTURES", 4)
    with pytest.warns(UserWarning, match="9 pictures are more than the 4 that DFM's closed form"):
        detector = fitted({"pca_level": 1.0})
    assert len(detector.weight) == 3
    chosen = dfm.pictures_of_plane(9, 9, seed=0, title="DFM")
    assert chosen == list(range(9))


def test_learning_anew_forgets_what_was_collected_before():
    one = trainer()
    for _ in range(2):
        fit(one, pictures())
    assert torch.equal(one.detector.weight, fitted().weight)


def test_an_unfitted_detector_gives_no_scores():
    with pytest.raises(NotFittedError, match="`weight` is empty"):
        trainer().detector(unseen())


def test_one_picture_is_too_few():
    with pytest.raises(DataError, match="DFM needs at least 2 normal pictures; got 1"):
        fit(trainer(), pictures(1))


def test_no_picture_is_none():
    with pytest.raises(SettingError, match="DFM cannot learn from 0 pictures"):
        trainer().conclude()


def test_equal_pictures_have_no_plane():
    same = PictureSet([make_picture(0, size=SIZE)[0]] * 4, SIZE)
    with pytest.raises(DataError, match="All 4 normal pictures have the very same features"):
        fit(trainer(), same)


def test_more_cells_than_there_are_cannot_be_pooled():
    with pytest.raises(SettingError, match="`pool` of DFM must be at most .* 4 x 4 cells .* got 5"):
        fit(trainer({"pool": 5}), pictures())


@pytest.mark.parametrize("size", [(32, 128), (64, 48)])
def test_pictures_of_another_shape_are_refused_though_they_may_have_as_many_features(size):
    with pytest.raises(
        SettingError, match=f"DFM was fitted to 64 x 64 pixels, .*of {size[0]} x {size[1]} "
    ):
        fitted()(torch.rand(1, 3, *size))


def test_a_loaded_plane_of_another_number_of_features_is_refused():
    detector = fitted()
    detector.weight, detector.bias = detector.weight[:, :5].clone(), detector.bias[:5].clone()
    with pytest.raises(ModelFileError, match="DFM's plane is of 5 features a picture; these"):
        detector(unseen())


@pytest.mark.parametrize(("name", "shape"), [("variances", (1,)), ("weight", (5,)), ("bias", ())])
def test_loaded_tensors_of_another_shape_are_refused(name, shape):
    state = {**fitted().state_dict(), name: torch.ones(shape)}
    with pytest.raises(ModelFileError, match="Tensor `.*` of the saved model .* is needed"):
        load_tensors(trainer().detector, state, "elsewhere")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("pool", 0, "greater than or equal to 1"),
        ("pca_level", 0, "greater than 0"),
        ("pca_level", 1.5, "less than or equal to 1"),
        ("score_type", "mse", "'fre' or 'nll'"),
    ],
)
def test_options_that_cannot_work_are_refused(option, value, allowed):
    with pytest.raises(SettingError, match=f"`{option}` of `DfmTrainer`: .*{allowed}"):
        trainer({option: value})


def test_a_picture_may_be_wider_than_high():
    one = trainer(img_size=(64, 96))
    wide = PictureSet([make_picture(i, size=(64, 96))[0] for i in range(4)], (64, 96))
    fit(one, wide)
    score, anomaly_map = one.detector(torch.rand(1, 3, 64, 96))
    assert score.isfinite().all()
    assert anomaly_map.shape == (1, 64, 96)
