"""Rotation against exact quarter turns and Pillow."""

import numpy as np
import pytest
import torch
from PIL import Image
from random_pictures import random_images
from scipy import ndimage

from ad.core.synth.rotation import rotate


def test_quarter_turns_are_exact():
    images = random_images(3, 2, 9, 9)
    turned = rotate(images, torch.tensor([90.0, 180.0, -90.0]))
    for one, image, quarters in zip(turned, images, (1, 2, -1), strict=True):
        torch.testing.assert_close(one, torch.rot90(image, quarters, (1, 2)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(40, 40), (30, 50)])
def test_rotation_is_pillows_and_fills_with_zero(size):
    image = ndimage.gaussian_filter(random_images(*size).double().numpy(), 2).astype(np.float32) + 1
    turned = rotate(torch.from_numpy(image)[None, None], torch.tensor([33.0]))[0, 0].numpy()
    expected = np.asarray(Image.fromarray(image).rotate(33, Image.Resampling.BILINEAR))
    inside = ndimage.binary_erosion(expected > 0, iterations=2)
    assert inside.sum() > 0.4 * image.size
    np.testing.assert_allclose(turned[inside], expected[inside], atol=1e-4)
    assert (turned[0, 0], turned[-1, -1]) == (0, 0)


def test_rotation_is_not_rounded_in_autocast():
    images = random_images(2, 3, 32, 32)
    degrees = torch.tensor([10.0, -60.0])
    expected = rotate(images, degrees)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate(images, degrees), expected)
