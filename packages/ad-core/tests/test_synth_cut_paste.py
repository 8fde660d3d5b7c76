"""CutPaste: where its parts come from, their shapes, and their jitter against Pillow."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import ImageEnhance
from random_pictures import generators, random_images, with_pillow

from ad.core.errors import SettingError
from ad.core.synth.cut_paste import CutPaste, jitter


def test_a_rectangle_comes_from_elsewhere_in_the_picture():
    images = random_images(12, 3, 40, 60)
    recipe = CutPaste(probability=1, scar_prob=0, jitter=0)
    broken = recipe(images, generators(12))
    assert broken.labels.all()
    assert torch.equal(broken.clean, images)
    moves = []
    for image, changed, mask in zip(images, broken.images, broken.masks[:, 0], strict=True):
        (rows,), (columns,) = mask.any(1).nonzero(as_tuple=True), mask.any(0).nonzero(as_tuple=True)
        height, width = len(rows), len(columns)
        top, left = int(rows[0]), int(columns[0])
        assert mask.sum() == height * width  # a full rectangle
        assert 0.02 * 0.85 <= height * width / 2400 <= 0.15 * 1.1
        assert 0.25 <= height / width <= 3.9  # rounded to pixels, cut to the picture
        assert torch.equal(changed[:, mask == 0], image[:, mask == 0])
        part = changed[:, top : top + height, left : left + width]
        windows = image.unfold(1, height, 1).unfold(2, width, 1)  # [3, y, x, height, width]
        gaps = (windows - part[:, None, None]).abs().amax(dim=(0, 3, 4))
        assert gaps.min() < 1e-6
        y, x = divmod(int(gaps.argmin()), gaps.shape[1])
        moves.append((y - top, x - left))
    assert (np.abs(moves).mean(axis=0) > 3).all()  # in both directions


def test_scars_are_thin_short_and_turned():
    images = torch.zeros(40, 3, 128, 128)
    broken = CutPaste(probability=1, scar_prob=1)(images, generators(40))
    areas = broken.masks.sum(dim=(1, 2, 3))
    assert areas.min() > 0
    assert areas.max() <= 13 * 8 * 1.1  # 25 x 16 on 256 pixels
    angles = []
    for mask in broken.masks[:, 0]:
        assert max(mask.any(1).sum(), mask.any(0).sum()) <= math.hypot(13, 8) + 1
        spread, axes = np.linalg.eigh(np.cov(mask.nonzero().T.numpy()))
        if spread[1] > 3 * spread[0]:  # clearly longer than wide
            angles.append(math.degrees(math.atan(axes[1, 1] / axes[0, 1])))
    assert len(angles) >= 8
    assert max(np.abs(angles)) < 52  # from upright
    assert min(angles) < -10 < 10 < max(angles)


def test_half_of_the_pictures_stay_and_half_of_the_parts_are_scars():
    images = random_images(200, 3, 64, 64)
    broken = CutPaste()(images, generators(200))
    assert broken.labels.float().mean() == pytest.approx(0.5, abs=0.1)
    share = broken.masks[broken.labels].mean(dim=(1, 2, 3))
    assert (share < 0.016).float().mean() == pytest.approx(0.5, abs=0.15)
    good = ~broken.labels
    assert torch.equal(broken.images[good], images[good])


@pytest.mark.parametrize(
    ("which", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Contrast), (2, ImageEnhance.Color)],
)
@pytest.mark.parametrize("u", [-1.0, 0.6])
def test_jitter_is_pillows(levels, which, enhance, u):
    amounts = torch.zeros(2, 4)
    amounts[:, which] = u
    changed = 255 * jitter(levels / 255, torch.ones(2, 1, *levels.shape[2:]), amounts, 0.3)
    expected = with_pillow(levels, lambda p: enhance(p).enhance(1 + 0.3 * u))
    assert (changed - expected).abs().max() <= 1.5  # levels: Pillow rounds at every step


def test_jitter_of_the_hue_is_that_of_colorsys(levels):
    amounts = torch.tensor([0.0, 0, 0, 1]).expand(2, 4)
    changed = jitter(levels / 255, torch.ones(2, 1, *levels.shape[2:]), amounts, 0.1)
    h, s, v = colorsys.rgb_to_hsv(*(levels[0, :, 3, 4].double() / 255).tolist())
    np.testing.assert_allclose(
        changed[0, :, 3, 4], colorsys.hsv_to_rgb((h + 0.1) % 1, s, v), atol=1e-5
    )


def test_parts_become_lighter_or_darker_by_up_to_the_jitter():
    images = torch.full((20, 3, 16, 16), 0.5)
    broken = CutPaste(probability=1, scar_prob=0)(images, generators(20))
    values = broken.images[broken.masks.expand_as(images) > 0]
    assert 0.45 - 1e-6 <= values.min() < 0.47
    assert 0.53 < values.max() <= 0.55 + 1e-6


def test_contrast_is_about_the_mean_of_the_part():
    images = torch.zeros(1, 3, 2, 2)
    images[..., 0] = torch.tensor([0.4, 0.6])  # the part; beside it all is black
    masks = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    changed = jitter(images, masks, torch.tensor([[0.0, 1.0, 0.0, 0.0]]), 0.5)
    torch.testing.assert_close(changed[0, 0, :, 0], torch.tensor([0.35, 0.65]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probability": 2}, "`probability` must be a probability from 0 to 1; got 2"),
        ({"scar_prob": -0.1}, r"`scar_prob` must be a probability from 0 to 1; got -0\.1"),
        ({"jitter": 0.7}, r"`jitter` must be a share from 0 to 0\.5; got 0\.7"),
    ],
)
def test_options_of_cut_paste_are_checked(options, words):
    with pytest.raises(SettingError, match=words):
        CutPaste(**options)
