import pytest
import torch

from ad.adapt import centroids
from ad.adapt.centroids import nearest_of, squared_distances


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=[(7, 5, 2), (64, 48, 4), (1024, 1024, 16)])
def tiles(request, monkeypatch):
    """Tiles smaller than the rows and centroids, with a rest in both, and larger ones."""
    for name, value in zip(("_ROWS", "_COLUMNS", "_MEMBERS"), request.param, strict=True):
        monkeypatch.setattr(centroids, name, value)


@pytest.mark.parametrize("count", [6, 50, 96, 200])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_nearest_are_those_of_all_distances(tiles, count, k):
    rows, bank = noise(100, 8), noise(count, 8, seed=1)
    everything = torch.cdist(rows.double(), bank.double())
    expected = everything.topk(k, dim=1, largest=False)
    which = nearest_of(rows, bank, k)
    assert which.shape == (100, k)
    assert torch.equal(which.sort(1).values, expected.indices.sort(1).values)
    squares = squared_distances(rows, bank, which)
    torch.testing.assert_close(
        squares.double().sort(1).values, expected.values.square(), rtol=1e-5, atol=1e-6
    )


def test_far_from_the_origin_the_nearest_are_found_all_the_same():
    rows, bank = noise(40, 8, dtype=torch.float64), noise(60, 8, seed=1, dtype=torch.float64)
    expected = torch.cdist(rows, bank).topk(4, dim=1, largest=False)
    far = (rows + 1000).float(), (bank + 1000).float()
    which = nearest_of(*far, 4)
    assert torch.equal(which.sort(1).values, expected.indices.sort(1).values)
    squares = squared_distances(*far, which).double()
    torch.testing.assert_close(squares, expected.values.square(), rtol=2e-2, atol=0)


def test_a_row_has_no_distance_to_itself():
    bank = 100 + noise(30, 8)
    which = nearest_of(bank, bank, 1)
    assert which[:, 0].tolist() == list(range(30))
    assert squared_distances(bank, bank, which).abs().max() == 0


def test_the_gradient_of_distances_is_the_numerical_one_and_leaves_centroids_alone():
    rows, bank = noise(5, 3, dtype=torch.float64), noise(9, 3, seed=1, dtype=torch.float64)
    which = nearest_of(rows, bank, 4)
    rows.requires_grad_()
    bank.requires_grad_()
    torch.autograd.gradcheck(lambda some: squared_distances(some, bank.detach(), which), rows)
    squared_distances(rows, bank, which).sum().backward()
    assert bank.grad is None
    expected = 2 * (rows.detach()[:, None] - bank.detach()[which]).sum(1)
    torch.testing.assert_close(rows.grad, expected)


def test_all_distances_never_stand_in_memory_at_once(monkeypatch):
    monkeypatch.setattr(centroids, "_ROWS", 32)
    monkeypatch.setattr(centroids, "_COLUMNS", 16)
    seen = []
    plain = torch.addmm

    def noted(*arguments, **more):
        seen.append(plain(*arguments, **more))
        return seen[-1]

    monkeypatch.setattr(torch, "addmm", noted)
    nearest_of(noise(100, 4), noise(70, 4, seed=1), 3)
    assert max(one.numel() for one in seen) <= 32 * 16
    assert sum(one.numel() for one in seen) == 100 * 70
