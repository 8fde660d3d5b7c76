"""Perlin noise against a scalar reference and known statistics, and the masks made of it."""

import math

import numpy as np
import pytest
import torch
from random_pictures import CPU, generators

from ad.core.synth import perlin
from ad.core.synth.perlin import perlin_masks, perlin_noise


def random_lattices(count, lines=33, seed=0):
    source = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi * torch.rand(count, lines, lines, generator=source)
    return angles, 2 ** torch.randint(0, 6, (count, 2), generator=source)


def scalar_noise(angles, cells, size):
    """Step by step for each pixel, in float64, on sides that are powers of two."""
    rows, columns = cells
    noise = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v, u = y * rows / size[0], x * columns / size[1]
            i, j = math.floor(v), math.floor(u)
            fv, fu = v - i, u - j

            def corner(di, dj, i=i, j=j, fv=fv, fu=fu):
                angle = float(angles[i + di, j + dj])
                return math.cos(angle) * (fv - di) + math.sin(angle) * (fu - dj)

            down, across = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (fv, fu))
            left = corner(0, 0) + down * (corner(1, 0) - corner(0, 0))
            right = corner(0, 1) + down * (corner(1, 1) - corner(0, 1))
            noise[y, x] = math.sqrt(2) * (left + across * (right - left))
    return noise


@pytest.mark.parametrize("cells", [(1, 1), (4, 2), (2, 16), (8, 8)])
def test_noise_is_that_of_a_scalar_reference_in_float64(cells):
    angles, _ = random_lattices(2)
    noise = perlin_noise(angles, torch.tensor([cells, (4, 4)]), (16, 32))
    assert noise.dtype == torch.float32
    expected = [scalar_noise(angles[0], cells, (16, 32)), scalar_noise(angles[1], (4, 4), (16, 32))]
    np.testing.assert_allclose(noise, np.stack(expected), atol=1e-6)


def test_noise_is_zero_at_the_lattice_points():
    angles, cells = random_lattices(20)
    noise = perlin_noise(angles, cells, (64, 128))
    for one, (down, across) in zip(noise, cells.tolist(), strict=True):
        assert (one[:: 64 // down, :: 128 // across] == 0).all()
        assert (one != 0).any()


def test_noise_has_the_known_statistics():
    """Measured on another implementation, 400 draws of 256 pixels."""
    noise = torch.cat(
        [perlin_noise(*random_lattices(50, seed=seed), (256, 256)) for seed in range(4)]
    )
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.30, abs=0.01)
    assert (noise > 0.5).float().mean() == pytest.approx(0.054, abs=0.005)
    assert (noise > 0.2).float().mean() == pytest.approx(0.26, abs=0.015)
    assert (noise > 0.5).flatten(1).any(1).float().mean() == pytest.approx(0.95, abs=0.03)
    assert 0.9 < noise.abs().max() <= 1


def test_noise_of_odd_sides_is_cut_out_of_the_next_power_of_two():
    angles, cells = random_lattices(3)
    whole = perlin_noise(angles, cells, (64, 128))
    torch.testing.assert_close(perlin_noise(angles, cells, (40, 100)), whole[:, :40, :100])


def test_noise_is_not_rounded_in_autocast():
    angles, cells = random_lattices(3)
    expected = perlin_noise(angles, cells, (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(perlin_noise(angles, cells, (32, 32)), expected)


def test_masks_are_zero_and_one_and_have_the_known_share():
    masks = perlin_masks((128, 128), generators(300), device=CPU)
    assert masks.shape == (300, 1, 128, 128)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    # Less than that of the noise, 5.4 %, since its corners are turned out of the picture.
    assert masks.mean() == pytest.approx(0.048, abs=0.006)
    assert masks.flatten(1).any(1).float().mean() == pytest.approx(0.94, abs=0.04)


def test_masks_are_turned():
    """Most angles turn a corner of the noise out of the picture, but not all."""
    masks = perlin_masks((64, 64), generators(300), device=CPU)
    corner, centre = masks[..., :6, :6].mean(), masks[..., 16:48, 16:48].mean()
    assert 0 < corner < centre / 4


def test_cells_of_masks_are_as_large_as_is_asked(monkeypatch):
    finer, coarse = (
        perlin_masks((64, 96), generators(60), device=CPU, least_cell=side) for side in (2, 8)
    )
    assert not torch.equal(finer, coarse)
    # Of 8 pixels there are at most 2^3 in 64 and 2^4 in 128, the side that 96 is cut out of.
    monkeypatch.setattr(perlin, "MAX_EXPONENT", 4)
    assert torch.equal(perlin_masks((64, 96), generators(60), device=CPU, least_cell=8), coarse)
    narrow = perlin_masks((64, 64), generators(60), device=CPU, least_cell=8)
    monkeypatch.setattr(perlin, "MAX_EXPONENT", 3)
    assert torch.equal(perlin_masks((64, 64), generators(60), device=CPU), narrow)


def test_a_mask_depends_on_its_generator_alone():
    together = perlin_masks((48, 64), generators(5), device=CPU)
    for row in range(5):
        alone = perlin_masks((48, 64), generators(1, first=row), device=CPU)
        assert torch.equal(alone[0], together[row])
    assert not torch.equal(together[0], together[1])


def test_masks_that_would_be_empty_can_be_filled():
    bare = perlin_masks((32, 32), generators(40), device=CPU, threshold=0.7)
    full = perlin_masks((32, 32), generators(40), device=CPU, threshold=0.7, ensure_nonempty=True)
    empty = ~bare.flatten(1).any(1)
    assert 0 < empty.sum() < 40
    assert full.flatten(1).any(1).all()
    assert torch.equal(full[~empty], bare[~empty])


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 8)])
def test_tiny_masks_are_no_lattice_of_zeros(size):
    masks = perlin_masks(size, generators(30), device=CPU, ensure_nonempty=True)
    assert masks.flatten(1).any(1).all()
    assert not masks.flatten(1).all(1).any()
