"""The ten changes of a texture against Pillow, colorsys and closed forms."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from random_pictures import generators, random_images, with_pillow
from scipy import ndimage

from ad.core.synth import changes as augmenting
from ad.core.synth.changes import CHANGES, augment, from_hsv, to_hsv


def numbers(*values):
    """The same random numbers for both pictures."""
    return torch.tensor([*values, *[0.0] * (4 - len(values))]).expand(2, 4)


def test_gamma_has_a_power_for_each_channel(levels):
    changed = augmenting.gamma(levels, numbers(0.0, 0.5, 1.0))
    for channel, power in enumerate((0.5, 1.25, 2.0)):
        expected = 255 * (levels[:, channel].double() / 255) ** power
        torch.testing.assert_close(changed[:, channel].double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("u", "factor", "shift"), [((0, 0), 0.8, -30), ((1, 0.75), 1.2, 15)])
def test_brightness_changes_the_luminance_alone(levels, u, factor, shift):
    """Over to Y, Cb and Cr of JPEG and back, in float64."""
    r, g, b = levels.double().unbind(1)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    cb, cr = (b - y) / 1.772, (r - y) / 1.402
    y = (factor * y + shift).clamp(0, 255)
    g = y - 0.344136 * cb - 0.714136 * cr
    expected = torch.stack([y + 1.402 * cr, g, y + 1.772 * cb], dim=1)
    changed = augmenting.brightness(levels, numbers(*map(float, u)))
    torch.testing.assert_close(changed.double(), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize(("u", "factor"), [(0.0, 0.1), (0.5, 1.0), (1.0, 1.9)])
def test_sharpness_is_pillows(levels, u, factor):
    levels = (random_images(2, 3, 20, 24) * 255).round()
    changed = augmenting.sharpness(levels, numbers(u)).round().clamp(0, 255)
    expected = with_pillow(levels, lambda p: ImageEnhance.Sharpness(p).enhance(factor))
    assert (changed - expected).abs().max() <= 1
    assert (changed != levels).any() == (factor != 1.0)


def test_sharpness_leaves_what_is_all_border():
    tiny = torch.rand(2, 3, 2, 9)
    assert torch.equal(augmenting.sharpness(tiny, numbers(1.0)), tiny)


@pytest.mark.parametrize("u", [(0.0, 1.0), (1.0, 0.2), (0.7, 0.5)])
def test_hue_and_saturation_are_those_of_colorsys(levels, u):
    changed = augmenting.hue_and_saturation(levels, numbers(*u))
    for picture, row in zip(changed, levels, strict=True):
        for y, x in ((0, 0), (5, 7), (20, 13), (41, 35)):
            h, s, v = colorsys.rgb_to_hsv(*(row[:, y, x].double() / 255).tolist())
            s = min(1, max(0, s + (100 * u[1] - 50) / 255))
            expected = colorsys.hsv_to_rgb((h + (100 * u[0] - 50) / 255) % 1, s, v)
            np.testing.assert_allclose(picture[:, y, x] / 255, expected, atol=1e-5)


@pytest.mark.parametrize(("u", "threshold"), [(0.0, 32), (0.5, 80), (0.999, 128)])
def test_solarize_is_pillows_in_half_of_the_cases(levels, u, threshold):
    expected = with_pillow(levels, lambda p: ImageOps.solarize(p, threshold))
    assert torch.equal(augmenting.solarize(levels, numbers(0.49, u)), expected)
    assert torch.equal(augmenting.solarize(levels, numbers(0.5, u)), levels)


@pytest.mark.parametrize("bits", range(1, 9))
def test_posterize_is_pillows(levels, bits):
    expected = with_pillow(levels, lambda p: ImageOps.posterize(p, bits))
    assert torch.equal(augmenting.posterize(levels, numbers((bits - 0.5) / 8)), expected)


def test_invert_is_pillows(levels):
    assert torch.equal(augmenting.invert(levels, numbers()), with_pillow(levels, ImageOps.invert))


@pytest.mark.parametrize("cutoff", [0, 1, 7, 20])
def test_autocontrast_is_pillows(levels, cutoff):
    expected = with_pillow(levels, lambda p: ImageOps.autocontrast(p, cutoff))
    assert torch.equal(augmenting.autocontrast(levels, numbers((cutoff + 0.5) / 21)), expected)


def test_equalize_is_pillows(levels):
    for some in (levels, (levels / 100).floor() * 100):
        expected = with_pillow(some, ImageOps.equalize)
        assert torch.equal(augmenting.equalize(some, numbers()), expected)


def test_flat_channels_stay_as_they_are():
    flat = torch.full((2, 3, 5, 5), 77.0)
    assert torch.equal(augmenting.equalize(flat, numbers()), flat)
    assert torch.equal(augmenting.autocontrast(flat, numbers(0.9)), flat)


@pytest.mark.parametrize(("u", "degrees"), [(0.0, -45), (0.8, 27)])
def test_turning_is_pillows_by_up_to_45_degrees(levels, u, degrees):
    changed = augmenting.turn(levels, numbers(u)).round()
    expected = with_pillow(levels, lambda p: p.rotate(degrees, Image.Resampling.BILINEAR))
    inside = torch.from_numpy(ndimage.binary_erosion(expected[0, 0] > 0, iterations=2))
    assert (changed - expected)[..., inside].abs().max() <= 1


def test_colours_survive_the_way_to_hsv_and_back():
    images = torch.cat([random_images(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.4)])
    images[0, :, 0, 0] = 0
    hue, saturation, value = to_hsv(images)
    torch.testing.assert_close(from_hsv(hue, saturation, value), images, atol=1e-6, rtol=0)
    assert (hue[1] == 0).all()
    assert saturation[0, 0, 0] == 0
    for y, x in ((1, 2), (7, 7)):
        expected = colorsys.rgb_to_hsv(*images[0, :, y, x].double().tolist())
        found = [part[0, y, x] for part in (hue, saturation, value)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_texture_undergoes_three_different_changes_in_an_order_of_its_own(monkeypatch):
    undergone = {}

    def recording(name):
        def change(levels, u):
            assert ((u >= 0) & (u < 1)).all()
            for level in levels[:, 0, 0, 0].tolist():  # tells the pictures apart
                undergone.setdefault(int(level), []).append(name)
            return levels

        return change

    monkeypatch.setattr(augmenting, "CHANGES", tuple(map(recording, range(10))))
    images = (torch.arange(250.0) / 255)[:, None, None, None].expand(-1, 3, 2, 2)
    augment(images, generators(250))
    orders = [tuple(undergone[number]) for number in range(250)]
    assert all(len(set(order)) == 3 for order in orders)
    assert len(set(orders)) > 150  # of 720
    first = np.bincount([order[0] for order in orders], minlength=10)
    assert first.min() > 10


def test_augmenting_depends_on_the_picture_and_its_generator_alone():
    images = random_images(12, 3, 16, 16)
    before = images.clone()
    together = augment(images, generators(12))
    assert torch.equal(images, before)
    assert together.min() >= 0
    assert together.max() <= 1
    for row in range(12):
        (alone,) = augment(images[row : row + 1], generators(1, first=row))
        assert torch.equal(alone, together[row])
    assert torch.equal(augment(images, generators(12), count=0), (images * 255).round() / 255)


def test_all_ten_can_be_applied_to_one_picture():
    assert len(CHANGES) == 10
    assert torch.isfinite(augment(random_images(4, 3, 9, 9), generators(4), count=10)).all()
