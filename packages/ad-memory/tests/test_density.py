from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import gaussian_kde

from ad.core.errors import DataError
from ad.memory.density import GaussianKde


def points(n=50, k=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(k, k, generator=generator)
    return torch.randn(n, k, generator=generator) @ mixing + 3


def fitted(data):
    density = GaussianKde()
    density.fit(data)
    return density


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_log_densities_are_scipys(scale):
    data, queries = points() * scale, points(9, seed=1) * scale
    expected = gaussian_kde(data.double().numpy().T).logpdf(queries.double().numpy().T)
    np.testing.assert_allclose(fitted(data)(queries).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_a_density_of_one_dimension_integrates_to_one():
    density = fitted(points(30, 1))
    line = torch.linspace(-40, 40, 8001)[:, None]
    assert torch.trapezoid(density(line).exp(), line[:, 0]).item() == pytest.approx(1, abs=1e-4)


def test_far_points_stay_finite_and_distinct():
    density = fitted(points())
    far = torch.tensor([1e2, 1e3, 1e4, 1e6, 1e8])[:, None] * torch.ones(4)
    values = density(far)
    assert torch.isfinite(values).all()
    assert (values.diff() < 0).all()


def test_points_in_a_plane_get_a_density_that_falls_off_beside_it():
    data = points()
    data[:, 3] = data[:, 0] + data[:, 1]  # singular covariance
    density = fitted(data)
    beside = data.clone()
    beside[:, 3] += 0.5
    assert torch.isfinite(density(data)).all()
    assert (density(beside) < density(data) - 100).all()


def test_two_points_are_enough_for_a_line():
    data = torch.tensor([[0.0], [2.0]])
    expected = gaussian_kde(data.numpy().T).logpdf([0.3, 5.0])
    np.testing.assert_allclose(
        fitted(data)(torch.tensor([[0.3], [5.0]])).numpy(), expected, rtol=1e-5
    )


def test_the_points_given_are_left_as_they_are():
    data = points()
    before = data.clone()
    fitted(data)(data)
    assert torch.equal(data, before)


def test_one_point_is_too_few():
    with pytest.raises(DataError, match="at least 2 points; got 1"):
        fitted(points(1))


def test_points_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match="All points are the same; a density needs points that"):
        fitted(torch.ones(5, 3))
