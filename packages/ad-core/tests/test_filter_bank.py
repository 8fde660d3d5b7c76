import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from ad.core.errors import SettingError
from ad.core.networks.filter_bank import LAYERS, FilterBank

ENERGIES = 20  # of one scale: 6 edges, 6 lines, 2 colour edges, 3 dark and 3 bright blots


@pytest.fixture
def bank():
    return FilterBank()


def _noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _grating(degrees, *, period=8.0, size=64):
    """Stripes whose brightness changes in a direction, 0 along the columns' axis."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    way = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    wave = 0.5 + 0.3 * np.sin(2 * np.pi * way / period)
    return torch.from_numpy(wave.astype(np.float32)).expand(1, 3, size, size)


def test_every_layer_has_the_promised_channels_and_one_cell_per_stride(bank):
    for height, width in ((64, 64), (61, 100), (8, 9)):
        maps = bank(_noise(2, 3, height, width))
        assert len(maps) == len(LAYERS)
        for found, channels, stride in zip(maps, bank.channels, bank.strides, strict=True):
            cells = (math.ceil(height / stride), math.ceil(width / stride))
            assert found.shape == (2, channels, *cells)
            assert found.dtype == torch.float32


def test_one_layer_alone_equals_the_same_layer_beside_the_other(bank):
    images = _noise(1, 3, 48, 40)
    fine, coarse = bank(images)
    torch.testing.assert_close(FilterBank(("fine",))(images)[0], fine)
    torch.testing.assert_close(FilterBank(("coarse",))(images)[0], coarse)


@pytest.mark.parametrize("layers", [("middle",), ("coarse", "fine"), ()])
def test_unknown_or_unordered_layers_are_refused_by_name(layers):
    given = ", ".join(f"`{name}`" for name in layers) or "none"
    with pytest.raises(SettingError) as caught:
        FilterBank(layers)
    assert str(caught.value) == (
        "`layers` of backbone `filter_bank` must be some of `coarse`, `fine`, fine before coarse; "
        f"got {given}."
    )


def test_nothing_is_learnt_drawn_or_saved(bank):
    assert not list(bank.parameters())
    assert not bank.state_dict()
    torch.manual_seed(1)
    other = FilterBank()
    for (name, ours), (_, theirs) in zip(bank.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_image_does_not_depend_on_its_batch(bank):
    images = _noise(3, 3, 48, 48)
    together = bank(images)
    alone = [torch.cat(maps) for maps in zip(*(bank(one[None]) for one in images), strict=True)]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_filters_equal_gaussian_derivatives_of_scipy(bank):
    brightness = _noise(40, 40).double().numpy()
    image = torch.from_numpy(brightness).expand(1, 3, 40, 40)
    found = torch.nn.functional.conv2d(image, bank.derivatives.double())[0, :5].numpy()
    orders = [(1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
    for response, order in zip(found, orders, strict=True):
        expected = ndimage.gaussian_filter(brightness, 1.0, order=order, radius=4)[4:-4, 4:-4]
        # Ours correlates, which turns odd derivatives round; its kernels' sums are made exactly 0.
        np.testing.assert_allclose((-1) ** sum(order) * response, expected, atol=1e-4)


def test_flat_ground_has_the_least_energy_whatever_its_brightness(bank):
    dark, bright = (bank(torch.full((1, 3, 64, 64), level)) for level in (0.2, 0.8))
    grains = [_noise(1, 3, 64 >> k, 64 >> k, seed=k) for k in range(4)]  # structure of every size
    textured = bank(sum(torch.nn.functional.interpolate(g, (64, 64)) for g in grains) / 4)
    for low, high, busy in zip(dark, bright, textured, strict=True):
        torch.testing.assert_close(low, high, rtol=0, atol=1e-3)
        low, busy = low[:, : 2 * ENERGIES], busy[:, : 2 * ENERGIES]
        assert (busy >= low).all()
        assert (busy.mean((2, 3)) > 1.5 * low.mean((2, 3))).all()


@pytest.mark.parametrize("k", range(6))
def test_the_strongest_edge_and_line_energy_points_across_the_stripes(bank, k):
    fine = bank(_grating(30 * k))[0][0, :ENERGIES, 2:-2, 2:-2].mean((1, 2))
    assert int(fine[:6].argmax()) == k
    assert int(fine[6:12].argmax()) == k


def test_steered_energies_equal_those_of_filters_turned_one_by_one(bank):
    pooled = _pooled_products(bank, image := _noise(1, 3, 64, 64))
    energies = torch.nn.functional.conv2d(pooled, bank.energies)[0]
    responses = _responses(bank, image)[0]
    y, x, yy, xy, xx = responses[:5]
    for k in range(6):
        c, s = math.cos(math.pi * k / 6), math.sin(math.pi * k / 6)
        edge, line = c * x + s * y, c * c * xx + 2 * c * s * xy + s * s * yy
        for row, response in ((k, edge), (6 + k, line)):
            expected = _mean_over_windows(response.square())
            torch.testing.assert_close(energies[row, 1:-1, 1:-1], expected, rtol=1e-4, atol=1e-6)


def test_bright_and_dark_blots_are_told_apart(bank):
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 12:15, 12:15], image[..., 44:47, 44:47] = 0.9, 0.1
    fine = bank(image)[0][0]
    dark, bright = fine[14], fine[17]
    # A spot answers with its own sign in its middle and with the other, fainter, around it.
    assert bright[1, 1] > 1.2 * dark[1, 1]
    assert dark[5, 5] > 1.2 * bright[5, 5]


def test_a_coloured_spot_of_equal_brightness_is_seen_like_a_grey_one(bank):
    image = torch.full((1, 3, 64, 64), 0.5)
    coloured, grey = image.clone(), image.clone()
    coloured[:, 0, 28:36, 28:36] += 0.1
    coloured[:, 1, 28:36, 28:36] -= 0.1
    grey[..., 28:36, 28:36] += 0.1
    for plain, in_colour, in_grey in zip(bank(image), bank(coloured), bank(grey), strict=True):
        change = (in_colour - plain).abs().amax(1)[0]
        assert change[3:5, 3:5].min() > (in_grey - plain)[..., 3:5, 3:5].abs().amax(1).min()
        assert change[0, 0] < 0.03 * change[3:5, 3:5].min()


def test_exposure_changes_less_than_a_scratch_does(bank):
    image = 0.3 + 0.3 * _noise(1, 3, 64, 64)
    scratched = image.clone()
    scratched[..., 31:33, 8:56] = 0.9
    for before, brighter, after in zip(
        bank(image), bank(image * 1.1), bank(scratched), strict=True
    ):
        exposure = (brighter - before).square().sum(1).sqrt().max()
        scratch = (after - before).square().sum(1).sqrt().max()
        assert scratch > 3 * exposure


def test_autocast_does_not_coarsen_the_features(bank):
    images = _noise(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = bank(images)
    for found, expected in zip(cast, bank(images), strict=True):
        assert torch.equal(found, expected)


def _responses(bank, image):
    padded = torch.nn.functional.pad(image, (4, 4, 4, 4), mode="replicate")
    return torch.nn.functional.conv2d(padded, bank.derivatives)


def _pooled_products(bank, image):
    """The 20 mean products of the finest scale, in the order that the bank's forms expect."""
    r = _responses(bank, image)[0]
    y, x, yy, xy, xx = r[:5]
    products = [*r.square(), y * x, x * yy, yy * xy, xy * xx, yy * xx]
    products += list(r[-3:].clamp(min=0).square())
    cells = torch.zeros(1, len(products), 8, 8)
    for k, product in enumerate(products):
        cells[0, k, 1:-1, 1:-1] = _mean_over_windows(product)
    return cells


def _mean_over_windows(product):
    """Means over 16 by 16 windows around the inner cells of 8 by 8 pixels."""
    means = [
        [product[8 * i - 4 : 8 * i + 12, 8 * j - 4 : 8 * j + 12].mean() for j in range(1, 7)]
        for i in range(1, 7)
    ]
    return torch.tensor(means)
