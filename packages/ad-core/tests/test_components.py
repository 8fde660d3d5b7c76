import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from ad.core.errors import DataError
from ad.core.networks import components
from ad.core.networks.components import leading_directions, principal_components

SHAPES = [(12, 40), (40, 12), (20, 20)]


def vectors(n, features, rank=None):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, rank or features)) * np.linspace(1, 3, rank or features)
    return torch.from_numpy(rows @ rng.normal(size=(rows.shape[1], features)) + 5)


@pytest.mark.parametrize(("n", "features"), SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_they_are_those_of_scikit_learn(n, features, dtype, tolerance):
    rows = vectors(n, features).to(dtype)
    before = rows.clone()
    found = principal_components(rows, 5)
    expected = PCA(5, svd_solver="full").fit(rows.double().numpy())
    assert found.directions.dtype == dtype
    assert torch.equal(rows, before)
    np.testing.assert_allclose(found.mean, expected.mean_, rtol=1e-6)
    np.testing.assert_allclose(found.variances, expected.explained_variance_, rtol=1e-6)
    overlap = np.abs(found.directions.double().numpy() @ expected.components_.T)
    np.testing.assert_allclose(overlap, np.eye(5), atol=tolerance)


@pytest.mark.parametrize(("n", "features"), SHAPES)
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.97, 0.999])
def test_a_share_of_the_variance_takes_as_many_as_with_scikit_learn(n, features, share):
    rows = vectors(n, features)
    expected = PCA(share, svd_solver="full").fit(rows.numpy()).n_components_
    assert len(principal_components(rows, share=share).directions) == expected
    assert len(principal_components(rows, 2, share=share).variances) == min(2, expected)


@pytest.mark.parametrize(("n", "features"), SHAPES)
def test_directions_without_variance_are_left_out(n, features):
    found = principal_components(vectors(n, features, rank=3))
    assert found.directions.shape == (3, features)
    assert found.variances.shape == (3,)
    torch.testing.assert_close(
        found.directions @ found.directions.T, torch.eye(3, dtype=torch.float64)
    )


@pytest.mark.parametrize(("n", "features"), SHAPES)
def test_pieces_give_the_same(n, features, monkeypatch):
    rows = vectors(n, features)
    whole = principal_components(rows, 3)
    monkeypatch.setattr(components, "_CHUNK", 7)
    pieces = principal_components(rows, 3)
    for name in ("mean", "directions", "variances"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))


@pytest.mark.parametrize(("n", "features"), SHAPES)
def test_the_largest_entry_of_each_direction_is_positive(n, features):
    rows = vectors(n, features)
    for directions in (
        principal_components(rows).directions,
        leading_directions(torch.from_numpy(np.cov(rows.numpy().T)), 4),
    ):
        largest = directions.abs().argmax(1, keepdim=True)
        assert (directions.gather(1, largest) > 0).all()


def test_a_covariance_gives_as_many_as_are_asked_for():
    rows = vectors(40, 6, rank=2)
    found = leading_directions(torch.from_numpy(np.cov(rows.numpy().T)), 4)
    expected = PCA(2, svd_solver="full").fit(rows.numpy())
    np.testing.assert_allclose(
        np.abs(found[:2].numpy() @ expected.components_.T), np.eye(2), atol=1e-8
    )
    torch.testing.assert_close(found @ found.T, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [2, 9])
def test_vectors_that_differ_by_rounding_alone_are_refused(dtype, features):
    rows = vectors(1, features).repeat(5, 1).to(dtype)
    rows[2] *= 1 + 3e-7
    with pytest.raises(DataError, match="All 5 normal pictures have the very same features"):
        principal_components(rows)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("features", [2, 9])
def test_what_is_no_finite_number_is_refused(value, features):
    rows = vectors(5, features)
    rows[2, 1] = value
    with pytest.raises(DataError, match="Features of the pictures are no finite numbers"):
        principal_components(rows)
