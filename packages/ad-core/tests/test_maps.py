from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ad.core.errors import SettingError
from ad.core.networks.maps import GaussianBlur, upsample


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(40, 56), (16, 17), (5, 3), (1, 1)])
@pytest.mark.parametrize("sigma", [0.6, 1.0, 4.0])
def test_blur_equals_scipy_at_every_size(size: tuple[int, int], sigma: float) -> None:
    maps = noise(3, *size)

    blurred = GaussianBlur(sigma)(maps)

    expected = np.stack([gaussian_filter(m, sigma) for m in maps.double().numpy()])
    np.testing.assert_allclose(blurred.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("size", [(40, 56), (13, 14), (5, 3), (1, 1), (1, 2)])
def test_blur_with_a_reflected_border_equals_scipys_mirror(size: tuple[int, int]) -> None:
    maps = noise(3, *size)

    blurred = GaussianBlur(4.0, radius=12, border="reflect")(maps)

    flat = maps.double().numpy()
    expected = np.stack([gaussian_filter(m, 4.0, mode="mirror", radius=12) for m in flat])
    np.testing.assert_allclose(blurred.numpy(), expected, atol=2e-6)


def test_blur_of_one_map_does_not_depend_on_the_batch() -> None:
    maps = noise(8, 32, 32)
    blur = GaussianBlur(4.0)

    alone = torch.cat([blur(m[None]) for m in maps])

    torch.testing.assert_close(blur(maps), alone)


@pytest.mark.parametrize("border", ["symmetric", "reflect"])
@pytest.mark.parametrize("size", [(24, 31), (5, 1)])
def test_blur_is_exported_as_numbers_and_matmuls_and_adds_nothing_to_a_saved_model(
    size: tuple[int, int], border: Literal["symmetric", "reflect"]
) -> None:
    blur = GaussianBlur(2.0, border=border)
    maps = noise(2, *size)

    program = torch.export.export(blur, (maps,))

    torch.testing.assert_close(program.module()(maps), blur(maps))
    assert not blur.state_dict()
    computed = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not {name for name in computed if "scatter" in name or "remainder" in name}


def test_blur_can_be_exported_for_maps_of_other_heights() -> None:
    blur = GaussianBlur(1.0)
    height = torch.export.Dim("height", min=17, max=64)

    program = torch.export.export(blur, (noise(2, 24, 16),), dynamic_shapes=({1: height},))

    torch.testing.assert_close(program.module()(noise(2, 40, 16)), blur(noise(2, 40, 16)))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_blur_refuses_a_sigma_that_is_not_positive(sigma: float) -> None:
    with pytest.raises(SettingError, match=r"`sigma` must be a positive number of pixels; got"):
        GaussianBlur(sigma)


@pytest.mark.parametrize("sigma", [1e-320, 9e-4, 256.5, 1e12])
def test_blur_refuses_a_sigma_whose_kernel_is_no_kernel_or_takes_the_memory(sigma: float) -> None:
    with pytest.raises(SettingError, match=r"got .* It may be from 0.001 to 256\."):
        GaussianBlur(sigma)


@pytest.mark.parametrize("sigma", [1e-3, 256.0])
def test_blur_at_its_limits_keeps_a_constant_map(sigma: float) -> None:
    flat = torch.full((1, 20, 9), 3.0)
    torch.testing.assert_close(GaussianBlur(sigma)(flat), flat)


def test_upsampling_interpolates_between_cell_centres() -> None:
    # Cells of two pixels have their centres at 0.5 and 2.5; pixels outside keep the edge's value.
    cells = torch.tensor([[[0.0, 4.0]]])

    assert upsample(cells, (1, 4)).tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_upsampling_keeps_a_constant_map() -> None:
    up = upsample(torch.full((2, 3, 5), 7.0), (20, 31))

    assert up.shape == (2, 20, 31)
    torch.testing.assert_close(up, torch.full((2, 20, 31), 7.0))
