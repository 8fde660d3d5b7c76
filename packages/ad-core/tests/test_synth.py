"""Synthetic anomalies against scalar references, Pillow, SciPy and closed forms."""

import colorsys
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from ad.core.data.pictures import read_picture, resize
from ad.core.errors import DataError, OutputError, PictureError, SettingError
from ad.core.synth import augment as augmenting
from ad.core.synth import textures as texturing
from ad.core.synth.anomalies import PerlinAnomalies, blend
from ad.core.synth.augment import CHANGES, augment, from_hsv, to_hsv
from ad.core.synth.cut_paste import CutPaste, jitter
from ad.core.synth.perlin import perlin_masks, perlin_noise
from ad.core.synth.preview import preview
from ad.core.synth.rotation import rotate
from ad.core.synth.textures import (
    FolderTextures,
    ProceduralTextures,
    RandomColours,
    nearest_points,
    texture_source,
)

CPU = torch.device("cpu")


def generators(count, first=0):
    return [torch.Generator().manual_seed(1000 + first + number) for number in range(count)]


def random_images(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


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


class Plain:
    """One value everywhere."""

    def __init__(self, value):
        self.value = value

    def draw(self, images, generators):
        return torch.full_like(images, self.value)


# Perlin noise


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


# Rotation


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


# The ten changes of a texture


@pytest.fixture
def levels():
    """Two pictures of whole levels, one of them in few of them."""
    coarse = (random_images(2, 3, 7, 6, seed=1) * 255).numpy()
    large = np.stack([ndimage.zoom(one, (1, 6, 6), order=1) for one in coarse])
    large[1] = large[1] * 0.4 + 60
    return torch.from_numpy(large).round().clamp(0, 255).float()


def numbers(*values):
    """The same random numbers for both pictures."""
    return torch.tensor([*values, *[0.0] * (4 - len(values))]).expand(2, 4)


def with_pillow(levels, change):
    pictures = [Image.fromarray(one) for one in levels.permute(0, 2, 3, 1).byte().numpy()]
    changed = np.stack([np.asarray(change(picture)) for picture in pictures])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float()


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


# Textures


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


def test_other_pictures_are_of_the_pool_or_else_of_the_batch(monkeypatch):
    """The picture itself is used when it is alone."""
    monkeypatch.setattr(texturing, "_KINDS", (lambda others, own: others,))
    monkeypatch.setattr(texturing, "_SHARES", (1.0,))
    images = torch.arange(4.0)[:, None, None, None].expand(-1, 3, 8, 8)
    met = {row: set() for row in range(4)}
    for first in range(0, 200, 4):
        drawn = ProceduralTextures().draw(images, generators(4, first))
        for row in range(4):
            met[row].add(int(drawn[row, 0, 0, 0]))
    assert met == {row: {0, 1, 2, 3} - {row} for row in range(4)}
    assert torch.equal(ProceduralTextures().draw(images[2:3], generators(1)), images[2:3])
    pool = torch.tensor([7.0, 8.0])[:, None, None, None].expand(-1, 3, 5, 9)
    drawn = ProceduralTextures(pool).draw(images[:1].expand(40, -1, -1, -1), generators(40))
    assert drawn.shape == (40, 3, 8, 8)
    assert set(drawn[:, 0, 0, 0].tolist()) == {7.0, 8.0}


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


# DRAEM's recipe


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
        PerlinAnomalies(ProceduralTextures(random_images(3, 3, 20, 20, seed=5))),
        CutPaste(),
    ],
    ids=["colours", "made", "cut-paste"],
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


# CutPaste


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


# The sheet


def test_a_sheet_shows_normal_picture_mask_and_broken_one(toy_root, tmp_path):
    result = preview(
        "mvtec", "toy", data_root=toy_root, output=tmp_path / "out", count=3, img_size=32
    )
    assert result.sheet == tmp_path / "out/synth.png"
    assert len(result.paths) == len(set(result.paths)) == 3
    assert min(result.shares) > 0
    assert all(path.parent == toy_root / "toy/train/good" for path in result.paths)
    with Image.open(result.sheet) as sheet:
        pixels = np.asarray(sheet)
    # Two examples in a row, pictures enlarged five times to 160 pixels, 2 apart.
    assert pixels.shape == (2 * (160 + 22), 2 * (3 * 160 + 24) + 8, 3)
    good, mask, broken = (
        pixels[2:160:5, left + 2 : left + 160 : 5].astype(int) for left in (8, 170, 332)
    )
    assert set(np.unique(mask)) <= {0, 255}
    assert (mask > 0).mean() == pytest.approx(result.shares[0], abs=1e-6)
    assert np.array_equal(good[mask == 0], broken[mask == 0])
    assert (good != broken).any()


def test_a_sheet_is_the_same_for_the_same_seed(toy_root, tmp_path):
    def sheet(name, **settings):
        where = tmp_path / name
        settings = {"count": 2, "img_size": 16, **settings}
        made = preview("mvtec", "toy", data_root=toy_root, output=where, **settings)
        return made.sheet.read_bytes()

    assert sheet("a") == sheet("b")
    assert sheet("c", seed=1) != sheet("d", recipe="cut-paste") != sheet("a2", count=1)


def test_what_cannot_be_shown_is_refused_before_anything_is_written(toy_root, tmp_path):
    def refused(kind, words, **settings):
        with pytest.raises(kind, match=words):
            preview("mvtec", "toy", data_root=toy_root, output=tmp_path / "out", **settings)
        assert not (tmp_path / "out").exists()

    refused(SettingError, "`count` must be a whole number from 1; got 0", count=0)
    refused(SettingError, "`img_size` must be at least 16 pixels; got 8", img_size=8)
    refused(SettingError, "is not a folder", textures=str(tmp_path / "nowhere"))
    words = "`textures` is of no use to `cut-paste`, .* Leave it out, or use the recipe `draem`"
    refused(SettingError, words, textures=str(tmp_path), recipe="cut-paste")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match="is not empty"):
        preview("mvtec", "toy", data_root=toy_root, output=tmp_path / "full")
