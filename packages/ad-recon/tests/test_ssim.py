import numpy as np
import pytest
import torch

from ad.recon.ssim import ssim


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def definition(x, y, data_range):
    """The map of two planes in float64, window by window; 0 beyond the border."""
    offset = np.arange(-5, 6)
    window = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    x, y = (np.pad(plane.astype(np.float64), 5) for plane in (x, y))
    found = np.empty((x.shape[0] - 10, x.shape[1] - 10))
    for row, column in np.ndindex(*found.shape):
        a, b = (plane[row : row + 11, column : column + 11] for plane in (x, y))
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * a**2).sum() - mean_a**2, (window * b**2).sum() - mean_b**2
        cov = (window * a * b).sum() - mean_a * mean_b
        found[row, column] = ((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / (
            (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
        )
    return found


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_it_is_the_definition(data_range):
    x, y = noise(2, 3, 14, 23), noise(2, 3, 14, 23, seed=1)
    x, y = data_range * x, data_range * (0.7 * x + 0.3 * y)
    expected = [
        np.mean([definition(a, b, data_range) for a, b in zip(*pair, strict=True)], axis=0)
        for pair in zip(x.numpy(), y.numpy(), strict=True)
    ]
    found = ssim(x, y, data_range=data_range)
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=2e-5)


def test_a_picture_is_like_itself_and_less_like_others():
    x, y = noise(1, 3, 32, 32), noise(1, 3, 32, 32, seed=1)
    torch.testing.assert_close(ssim(x, x), torch.ones(1, 32, 32))
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    assert ssim(x, y).mean() < ssim(x, 0.9 * x + 0.1 * y).mean() < 1


def test_autocast_changes_nothing():
    x, y = noise(1, 3, 16, 16), noise(1, 3, 16, 16, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = ssim(x, y)
    assert found.dtype == torch.float32
    assert torch.equal(found, ssim(x, y))
    assert ssim(x.bfloat16(), y).dtype == torch.float32


def test_the_gradient_of_flat_pictures_is_finite():
    y = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    (1 - ssim(torch.full_like(y, 0.5), y).mean()).backward()
    assert y.grad.isfinite().all()
    assert y.grad.abs().max() < 1e-4  # they agree: there is nothing to gain
