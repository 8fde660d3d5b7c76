"""Textures: the pictures of a folder, and those that are made by code."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from random_pictures import generators, random_images
from scipy import ndimage

from ad.core.data.batches import PictureSet
from ad.core.data.resizing import resize
from ad.core.errors import DataError, PictureError, SettingError
from ad.core.synth import textures as texturing
from ad.core.synth.textures import (
    FolderTextures,
    ProceduralTextures,
    nearest_points,
    texture_source,
)
from ad.runtime.pictures.reading import read_picture


@pytest.fixture
def folder(tmp_path):
    """Three pictures, at different depths, each of one colour."""
    for number, name in enumerate(("a.png", "b/c.png", "b/d/e.png")):
        path = tmp_path / "textures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (100 * number, 50, 7)).save(path)
    return tmp_path / "textures"


def test_every_picture_of_a_folder_is_drawn(folder):
    drawn = FolderTextures(folder).draw(torch.zeros(60, 3, 12, 16), generators(60))
    assert drawn.shape == (60, 3, 12, 16)
    reds, counts = (drawn[:, 0, 0, 0] * 255).round().unique(return_counts=True)
    assert reds.tolist() == [0, 100, 200]
    assert counts.min() > 8


def test_a_texture_is_the_picture_resized(tmp_path):
    pixels = (random_images(40, 50, 3) * 255).byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "one.png")
    textures = FolderTextures(tmp_path)
    expected = resize(read_picture(tmp_path / "one.png"), 16).permute(2, 0, 1) / 255
    for _ in range(2):  # decoded, then kept
        (drawn,) = textures.draw(torch.zeros(1, 3, 16, 16), generators(1))
        assert torch.equal(drawn, expected)
    assert textures.draw(torch.zeros(1, 3, 8, 8), generators(1)).shape == (1, 3, 8, 8)


def test_textures_of_more_than_eight_bits_are_scaled_by_the_largest_of_them(tmp_path):
    values = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "one.png")
    (drawn,) = FolderTextures(tmp_path).draw(torch.zeros(1, 3, 16, 16), generators(1))
    np.testing.assert_allclose(drawn[0].numpy() * 255, values >> 4, atol=1.01)


def test_a_missing_folder_of_textures_is_an_error(tmp_path):
    with pytest.raises(SettingError) as caught:
        texture_source(str(tmp_path / "nowhere"))
    assert str(caught.value) == (
        f"`textures` must be a folder of pictures; `{tmp_path / 'nowhere'}` is not a folder. "
        "Correct it, or leave it out for textures made by code."
    )


def test_a_folder_without_textures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("none yet")
    with pytest.raises(DataError) as caught:
        texture_source(str(tmp_path))
    assert str(caught.value) == (
        f"The folder of textures `{tmp_path}` has no pictures. Put some there, such as photographs "
        "of surfaces, or leave `textures` out for textures made by code."
    )


def test_a_texture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"bad\.png` cannot be read"):
        FolderTextures(tmp_path).draw(torch.zeros(1, 3, 8, 8), generators(1))


def test_without_a_folder_textures_are_made_and_the_user_is_told(folder):
    source, note = texture_source("")
    assert isinstance(source, ProceduralTextures)
    assert "Give a folder of pictures as option `textures`" in note
    source, note = texture_source(str(folder))
    assert isinstance(source, FolderTextures)
    assert note is None


KINDS = {kind.__name__: kind for kind in texturing._KINDS}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (20, 37)])
def test_a_made_texture_is_a_picture_of_its_own_generator(name, size):
    others = random_images(6, 3, *size)
    together = KINDS[name](others, generators(6))
    assert together.shape == others.shape
    assert together.min() >= 0
    assert together.max() <= 1
    for row in range(6):
        alone = KINDS[name](others[row : row + 1], generators(1, first=row))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    assert not torch.equal(together[0], together[1])


def test_kinds_are_drawn_by_their_shares(monkeypatch):
    values = torch.linspace(0, 1, 7)
    kinds = tuple(lambda others, own, v=v: torch.full_like(others, v) for v in values)
    monkeypatch.setattr(texturing, "_KINDS", kinds)
    drawn = ProceduralTextures().draw(torch.zeros(2000, 3, 1, 1), generators(2000))
    shares = [(drawn[:, 0, 0, 0] == value).float().mean().item() for value in values]
    np.testing.assert_allclose(shares, [0.12] * 5 + [0.25, 0.15], atol=0.03)


def test_other_pictures_are_those_of_the_pool_or_else_the_picture_itself(monkeypatch):
    monkeypatch.setattr(texturing, "_KINDS", kinds := (lambda others, own: others,))
    monkeypatch.setattr(texturing, "_OF_PICTURES", kinds)
    monkeypatch.setattr(texturing, "_SHARES", (1.0,))
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 3, 8, 8)
    assert torch.equal(ProceduralTextures().draw(images, generators(4)), images)
    levels = [np.full((6, 6, 3), level, np.uint8) for level in (0, 51, 255)]
    for size in (8, 5):  # as the pictures, or resized to them
        pool = PictureSet(levels, size)
        drawn = ProceduralTextures(pool).draw(images[1:2].expand(60, -1, -1, -1), generators(60))
        assert drawn.shape == (60, 3, 8, 8)
        met, counts = drawn[:, 0, 0, 0].unique(return_counts=True)
        torch.testing.assert_close(met, torch.tensor([0, 0.2, 1]))
        assert counts.min() > 8


def test_the_nearest_points_are_those_of_brute_force():
    source = torch.Generator().manual_seed(0)
    points = torch.stack(
        [torch.randperm(12 * 17, generator=source)[:9] for _ in range(3)]
    )  # all in different places
    points = torch.stack([points // 17, points % 17], dim=2)
    counts = torch.tensor([1, 5, 9])
    distances, owners = nearest_points(points, counts, (12, 17))
    for row in range(3):
        some = points[row, : counts[row]].double()
        pixels = torch.cartesian_prod(torch.arange(12.0), torch.arange(17.0)).double()
        gaps = torch.cdist(pixels, some, compute_mode="donot_use_mm_for_euclid_dist")
        expected, first = gaps.min(dim=1)
        torch.testing.assert_close(distances[row].double().flatten(), expected, atol=1e-5, rtol=0)
        assert torch.equal(gaps.gather(1, owners[row].view(-1, 1))[:, 0], expected)
        assert (gaps.argmin(dim=1) == first).all()


def test_a_blur_of_noise_is_a_gaussian():
    noise = random_images(2, 40, 40).double()
    sigma = torch.tensor([0.7, 3.5], dtype=torch.double)[:, None, None]
    smooth = texturing._blur(40, sigma) @ noise
    for one, plain, width in zip(smooth, noise, (0.7, 3.5), strict=True):
        expected = ndimage.gaussian_filter1d(plain.numpy(), width, axis=0, truncate=10)
        np.testing.assert_allclose(one[15:25], expected[15:25], atol=2e-3)


def test_noise_is_blurred_by_half_a_pixel_to_four():
    """Neighbours of blurred white noise have the correlation exp(-1 / (2 sigma)^2)."""
    drawn = texturing.blurred_noise(torch.zeros(60, 3, 64, 64), generators(60))
    values = drawn[:, 0] - drawn[:, 0].mean(dim=(1, 2), keepdim=True)
    together = (values[:, 1:] * values[:, :-1]).mean(dim=(1, 2)) / values.square().mean(dim=(1, 2))
    assert math.exp(-1) - 0.05 < together.min() < 0.7
    assert 0.95 < together.max() < math.exp(-1 / 64) + 0.005


def test_fractal_noise_has_four_octaves(monkeypatch):
    seen = []

    def recording(angles, cells, size):
        seen.append(cells)
        assert (cells < angles.shape[1]).all()
        return torch.rand(len(angles), *size)

    monkeypatch.setattr(texturing, "perlin_noise", recording)
    texturing.fractal_noise(torch.zeros(30, 3, 256, 32), generators(30))
    first = seen[0][:, 0]
    assert set(first.tolist()) == {2, 4, 8, 16}
    for octave, cells in enumerate(seen):
        assert torch.equal(cells[:, 0], first * 2**octave)
        assert torch.equal(cells[:, 1], (first * 2**octave).clamp_max(16))  # 32 pixels across


def test_stripes_are_of_two_colours_and_4_to_64_pixels():
    drawn = texturing.stripes(torch.zeros(60, 3, 96, 96), generators(60))
    lengths, tones = [], []
    for one in drawn:
        spread = torch.linalg.eigvalsh(torch.cov(one.flatten(1).double()))
        assert spread[1] < 1e-9  # all on a line between two colours
        tones.append(len(one[0].unique()))
        strength = np.abs(np.fft.fft2((one - one.mean(dim=(1, 2), keepdim=True)).sum(0).numpy()))
        y, x = np.unravel_index(strength.argmax(), strength.shape)
        lengths.append(1 / np.hypot(np.fft.fftfreq(96)[y], np.fft.fftfreq(96)[x]))
    assert 15 < np.sum(np.array(tones) <= 3) < 45  # hard in half of the cases
    assert min(lengths) > 2.5  # two that cross have the sum of their frequencies
    assert max(lengths) > 40
    assert 7 < np.median(lengths) < 24


def test_parts_of_pictures_have_their_share_of_the_area():
    """The area that a pixel covers in the other picture, from where its corners come from."""
    place = torch.arange(64.0) / 64
    kinds = ((texturing.enlarged_part, 0.05, 0.5), (texturing.other_picture, 0.5, 1))
    for kind, least, most in kinds:
        x, y = (
            64 * kind(plane.expand(40, 3, 64, 64), generators(40))[:, 0]
            for plane in (place, place[:, None])
        )
        (x_down, x_across), (y_down, y_across) = (torch.gradient(c, dim=(1, 2)) for c in (x, y))
        area = (x_across * y_down - x_down * y_across).abs().flatten(1).median(dim=1).values
        assert 0.7 * least < area.min() < least + (most - least) / 3
        assert most - (most - least) / 3 < area.max() < 1.4 * most


def test_enlarged_parts_show_what_is_there():
    """One colour stays that colour, its channels exchanged."""
    others = torch.tensor([0.2, 0.5, 0.9])[None, :, None, None].expand(8, -1, 16, 16)
    bent = texturing.enlarged_part(others, generators(8))
    assert torch.allclose(bent, bent[:, :, :1, :1].expand_as(bent), atol=1e-6)
    colours = bent[:, :, 0, 0]
    torch.testing.assert_close(colours.sort(dim=1).values, others[:, :, 0, 0])
    assert len({tuple(colour) for colour in colours.tolist()}) > 2
