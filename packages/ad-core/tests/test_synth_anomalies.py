"""DRAEM's recipe, and what holds for every recipe of synthetic anomalies."""

import pytest
import torch
from random_pictures import generators, random_images

from ad.core.data.batches import PictureSet
from ad.core.errors import SettingError
from ad.core.synth.anomalies import PerlinAnomalies, blend
from ad.core.synth.cut_paste import CutPaste
from ad.core.synth.textures import ProceduralTextures, RandomColours

POOL = PictureSet((random_images(3, 20, 20, 3, seed=5) * 255).byte().numpy(), 24)


class Plain:
    """One value everywhere."""

    def __init__(self, value):
        self.value = value

    def draw(self, images, generators):
        return torch.full_like(images, self.value)


def test_blending_keeps_beta_of_the_original():
    images, textures = torch.full((2, 3, 4, 4), 0.8), torch.full((2, 3, 4, 4), 0.1)
    masks = torch.zeros(2, 1, 4, 4)
    masks[:, :, 1:3, 1:3] = 1
    mixed = blend(images, textures, masks, torch.tensor([0.0, 0.75]))
    assert torch.equal(mixed[:, :, 0], images[:, :, 0])
    torch.testing.assert_close(mixed[0, :, 1, 1], torch.full((3,), 0.1))
    torch.testing.assert_close(mixed[1, :, 1, 1], torch.full((3,), 0.25 * 0.1 + 0.75 * 0.8))


def test_a_broken_picture_differs_inside_of_its_mask_alone():
    images = random_images(40, 3, 32, 32)
    before = images.clone()
    recipe = PerlinAnomalies(Plain(2.0), beta=(0.25, 0.5), rotate_prob=0, augment_textures=False)
    broken = recipe(images, generators(40))
    assert torch.equal(images, before)
    assert torch.equal(broken.clean, images)
    inside = (broken.masks > 0).expand_as(images)
    assert torch.equal(broken.images[~inside], images[~inside])
    # (1 - beta) texture + beta picture, solved for beta, which is one for each picture.
    beta = (2 - broken.images) / (2 - images)
    for row in range(40):
        if broken.labels[row]:
            own = beta[row][inside[row]]
            assert own.max() - own.min() < 1e-5
            assert 0.25 <= own.mean() <= 0.5
    assert torch.equal(broken.labels, broken.masks.flatten(1).any(1))
    assert 10 < broken.labels.sum() < 30


def test_a_picture_whose_mask_is_empty_counts_as_good():
    images = random_images(60, 3, 32, 32)
    broken = PerlinAnomalies(Plain(0.0), probability=1.0, rotate_prob=0)(images, generators(60))
    empty = ~broken.masks.flatten(1).any(1)
    assert 0 < empty.sum() < 30
    assert torch.equal(broken.labels, ~empty)
    assert torch.equal(broken.images[empty], images[empty])


def test_nothing_is_broken_with_probability_zero():
    images = random_images(4, 3, 16, 16)
    broken = PerlinAnomalies(Plain(0.0), probability=0, rotate_prob=0)(images, generators(4))
    assert torch.equal(broken.images, images)
    assert not broken.masks.any()
    assert not broken.labels.any()


def test_turned_pictures_are_what_is_to_be_rebuilt():
    images = torch.ones(200, 3, 16, 16)
    broken = PerlinAnomalies(Plain(0.0), probability=0, rotate_prob=0.3)(images, generators(200))
    turned = (broken.clean != images).flatten(1).any(1)
    assert turned.float().mean() == pytest.approx(0.3, abs=0.1)
    assert torch.equal(broken.images, broken.clean)
    # Corners become black, the centre stays.
    corners = broken.clean[turned][:, 0, 0, 0]
    assert (corners == 0).float().mean() > 0.5
    assert (broken.clean[:, :, 8, 8] > 0.99).all()


def test_pictures_are_turned_by_up_to_90_degrees_whether_they_are_broken_or_not():
    images = torch.zeros(200, 3, 16, 16)
    images[:, :, 2:5, 7:9] = 1  # above the centre: never turned to below it
    broken = PerlinAnomalies(Plain(0.0), rotate_prob=0.5)(images, generators(200))
    turned = (broken.clean != images).flatten(1).any(1)
    assert broken.clean[:, :, 9:].sum() < 0.01 * broken.clean.sum()
    left, right = broken.clean[:, :, :, :6].sum(), broken.clean[:, :, :, 10:].sum()
    assert 0.5 < left / right < 2
    assert broken.labels[turned].float().mean() == pytest.approx(0.48, abs=0.15)
    assert broken.labels[~turned].float().mean() == pytest.approx(0.48, abs=0.15)


def test_textures_are_augmented_unless_that_is_turned_off():
    images = torch.zeros(30, 3, 16, 16)
    for augmented in (True, False):
        recipe = PerlinAnomalies(Plain(0.5), beta=(0, 0), augment_textures=augmented)
        broken = recipe(images, generators(30))
        inside = broken.images[broken.masks.expand_as(images) > 0]
        assert (inside != 0.5).any() == augmented


@pytest.mark.parametrize(
    "recipe",
    [
        PerlinAnomalies(RandomColours(), rotate_prob=0.5),
        PerlinAnomalies(ProceduralTextures()),
        PerlinAnomalies(ProceduralTextures(POOL)),
        CutPaste(),
    ],
    ids=["colours", "made", "made from others", "cut-paste"],
)
def test_what_happens_to_a_picture_depends_on_it_and_its_generator_alone(recipe):
    images = random_images(8, 3, 24, 24)
    together = recipe(images, generators(8))
    again = recipe(images, generators(8))
    assert together.labels.any()
    for name in ("images", "clean", "masks", "labels"):
        assert torch.equal(getattr(together, name), getattr(again, name))
    assert together.images.dtype == together.clean.dtype == together.masks.dtype == torch.float32
    assert together.masks.shape == (8, 1, 24, 24)
    assert together.images.min() >= 0
    assert together.images.max() <= 1
    for row in range(8):
        alone = recipe(images[row : row + 1], generators(1, first=row))
        assert torch.equal(alone.masks[0], together.masks[row])
        # A texture's levels are rounded, which may turn a last bit into a level.
        assert (alone.images[0] - together.images[row]).abs().mean() < 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", [PerlinAnomalies(ProceduralTextures()), CutPaste()])
def test_defects_are_the_same_on_a_gpu(recipe):
    """But for pixels at the very edge of a mask, and levels that are rounded the other way."""
    images = random_images(16, 3, 48, 48)
    expected = recipe(images, generators(16))
    found = recipe(images.cuda(), generators(16))
    assert found.images.is_cuda
    assert found.clean.is_cuda
    assert torch.equal(found.labels.cpu(), expected.labels)
    assert (found.masks.cpu() != expected.masks).float().mean() < 1e-3
    assert (found.images.cpu() - expected.images).abs().mean() < 1e-2


def test_defects_are_the_same_in_autocast():
    images = random_images(6, 3, 24, 24)
    recipe = PerlinAnomalies(ProceduralTextures())
    expected = recipe(images, generators(6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(recipe(images, generators(6)).images, expected.images)


def test_defects_are_of_the_memory_layout_that_networks_like():
    images = random_images(4, 3, 16, 16).to(memory_format=torch.channels_last)
    for recipe in (PerlinAnomalies(ProceduralTextures(), probability=1), CutPaste(probability=1)):
        assert recipe(images, generators(4)).images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probability": 1.5}, r"`probability` must be a probability from 0 to 1; got 1\.5\."),
        ({"rotate_prob": -1}, r"`rotate_prob` must be a probability from 0 to 1; got -1\."),
        ({"beta": (0.8, 0.1)}, r"`beta` must be two numbers from 0 to 1, the smaller first; got"),
    ],
)
def test_options_of_the_recipe_are_checked(options, words):
    with pytest.raises(SettingError, match=words):
        PerlinAnomalies(Plain(0.0), **options)
