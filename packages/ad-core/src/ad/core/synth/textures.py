"""What synthetic defects are filled with: pictures of a folder, or textures made by code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.core.data.batches import PictureSet, to_device
from ad.core.errors import DataError, SettingError
from ad.core.synth.perlin import perlin_noise, power_of_two
from ad.runtime.pictures.levels import find_white_level
from ad.runtime.pictures.walking import pictures_below


class TextureSource(Protocol):
    """Where textures come from."""

    def draw(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a texture for each picture.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1]: good pictures, whose size and device the
                textures get, and which they may be made from.
            generators: One for each picture, on the CPU.

        Returns:
            ``[B, 3, H, W]``, float32 in [0, 1].
        """
        ...


def texture_source(
    folder: str, typed: str = "option `textures` (`--set textures=DIR`)"
) -> tuple[TextureSource, str | None]:
    """What a user's option `textures` means.

    A trainer that is only loaded to predict (`ad.core.trainer.FROM_MODEL_FILE`) should not ask: the
    folder may be gone.

    Args:
        folder: Of pictures, at any depth; empty for textures made by code.
        typed: How the user gives it, for the note.

    Returns:
        The source, and for textures made by code a note for the user on what they cost.

    Raises:
        SettingError: If it is no folder.
        DataError: If it has no pictures.
    """
    if folder:
        return FolderTextures(Path(folder).expanduser()), None
    note = (
        "No textures: synthetic defects are filled with textures made by code, parts of other good "
        "pictures and plain colours. Against photographs of textures, as in the paper, that may "
        "cost about a point of AUROC (an estimate). Give a folder of pictures as "
        f"{typed}."
    )
    return ProceduralTextures(), note


@final
class FolderTextures:
    """Pictures of a folder, each as likely as any other, resized to the size that is wanted.

    They are decoded when they are first drawn and kept.

    Args:
        folder: Of pictures of anything, at any depth: DTD, or what is at hand.

    Attributes:
        paths: The pictures, which a trainer should count among its `Trainer.inputs`.

    Raises:
        SettingError: If it is no folder.
        DataError: If it has no pictures.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            msg = (
                f"`textures` must be a folder of pictures; `{folder}` is not a folder. Correct "
                "it, or leave it out for textures made by code."
            )
            raise SettingError(msg)
        self.paths = pictures_below(folder)
        if not self.paths:
            msg = (
                f"The folder of textures `{folder}` has no pictures. Put some there, such as "
                "photographs of surfaces, or leave `textures` out for textures made by code."
            )
            raise DataError(msg)
        self._pictures: dict[int, PictureSet] = {}

    def draw(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a picture for each; see `TextureSource.draw`.

        Raises:
            PictureError: If one cannot be read.
        """
        height, width = images.shape[-2:]
        side = max(height, width)
        if side not in self._pictures:
            white = find_white_level(self.paths).value
            self._pictures[side] = PictureSet(self.paths, side, cache=True, white=white)
        return _drawn(self._pictures[side], images.device, generators)[:, :, :height, :width]


@final
class RandomColours:
    """One colour for each picture, any as likely as any other: DSR's filling."""

    def draw(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw a colour for each picture; see `TextureSource.draw`."""
        return random_colours(images, generators)


@final
class ProceduralTextures:
    """Textures made by code, for want of a folder of pictures.

    Six in ten are patterns in equal shares: fractal noise, stripes and checks, cells, blurred
    noise, and a strongly enlarged and bent part of another good picture. A quarter are other good
    pictures, turned, mirrored and bent; the rest are plain colours.

    Args:
        pool: Good pictures to use and to take parts of, each as likely as any other. Without them
            it is the very picture that a texture is made for.
    """

    def __init__(self, pool: PictureSet | None = None) -> None:
        self.pool = pool

    def draw(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Make a texture for each picture; see `TextureSource.draw`."""
        kinds = torch.stack([torch.rand((), generator=g) for g in generators])
        ends = torch.tensor(_SHARES).cumsum(0)
        kinds = torch.bucketize(kinds, ends[:-1], right=True)
        textures = torch.empty_like(images)
        with torch.autocast(images.device.type, enabled=False):
            for number, kind in enumerate(_KINDS):
                rows = (kinds == number).nonzero()[:, 0].tolist()
                if rows:
                    own = [generators[row] for row in rows]
                    shown = images[rows]
                    if kind in _OF_PICTURES:
                        shown = self._others(shown, own)
                    textures[rows] = kind(shown, own)
        return textures

    def _others(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A good picture for each picture."""
        if self.pool is None:
            return images
        others = _drawn(self.pool, images.device, generators)
        size = images.shape[-2:]
        if others.shape[-2:] == size:
            return others
        return F.interpolate(others, size, mode="bilinear", antialias=True)


def let_take_from(source: TextureSource, pictures: PictureSet) -> None:
    """Let textures made by code show parts of good pictures; other sources have their own.

    Args:
        source: What `texture_source` found.
        pictures: All that a trainer learns from.
    """
    if isinstance(source, ProceduralTextures):
        source.pool = pictures


def random_colours(images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one colour for each picture, uniformly.

    Args:
        images: ``[B, 3, H, W]``: size and device that are wanted.
        generators: One for each picture, on the CPU.

    Returns:
        ``[B, 3, H, W]``, float32 in [0, 1]; a view, not to be written to.
    """
    return _rand(generators, 3, 1, 1, like=images).expand(images.shape)


def fractal_noise(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Four octaves of Perlin noise for each channel, then a mix of the channels."""
    size = (others.shape[-2], others.shape[-1])
    start = 1 + (4 * _rand(generators, 1, like=others)).long()  # [B, 1]
    limits = [max(1, power_of_two(side) // 2) for side in size]  # a cell has two pixels or more
    most = torch.tensor(limits, device=others.device)
    noise = others.new_zeros(len(others) * 3, *size)
    for octave in range(4):
        lines = min(2 ** (4 + octave), max(limits)) + 1
        angles = 2 * math.pi * _rand(generators, 3, lines, lines, like=others).flatten(0, 1)
        cells = (2 ** (start + octave)).expand(-1, 2).minimum(most).repeat_interleave(3, dim=0)
        noise += 0.5**octave * perlin_noise(angles, cells, size)
    mix = _rand(generators, 3, 3, like=others)
    mix = mix / mix.sum(dim=2, keepdim=True)
    return torch.einsum("bij,bjhw->bihw", mix, _stretched(noise).view(-1, 3, *size))


def stripes(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Soft or hard waves of 4 to 64 pixels in two colours; in half of the cases two cross."""
    y, x = _pixels(others)
    u = _rand(generators, 2, 3, 1, 1, like=others)  # [B, waves, numbers, 1, 1]
    direction = 2 * math.pi * u[:, :, 0]
    length = 4 * 16 ** u[:, :, 1]
    along = x * direction.cos() + y * direction.sin()
    wave = (2 * math.pi * (along / length + u[:, :, 2])).sin()
    hard, crossed = (_rand(generators, 2, 1, 1, like=others) < 0.5).unbind(dim=1)
    wave = torch.where(hard[:, None], wave.sign(), wave)
    value = torch.where(crossed, wave[:, 0] * wave[:, 1], wave[:, 0])
    return _ramp((value + 1) / 2, generators)


def cells(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Cells about 16 to 256 points: shaded by the distance to the point, or a colour for each."""
    height, width = others.shape[-2:]
    counts = 16 + (241 * _rand(generators, like=others)).long()
    places = _rand(generators, 256, 2, like=others)
    points = (places * places.new_tensor([height, width])).long()
    distances, owners = nearest_points(points, counts, (height, width))
    shaded = _ramp(_stretched(distances), generators)
    colours = _rand(generators, 3, 256, like=others)
    plain = colours.gather(2, owners.flatten(1)[:, None].expand(-1, 3, -1)).view_as(shaded)
    return torch.where(_rand(generators, 1, 1, 1, like=others) < 0.5, plain, shaded)


def blurred_noise(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """White noise under a Gaussian blur of 0.5 to 4 pixels, in a ramp of two colours."""
    height, width = others.shape[-2:]
    noise = _rand(generators, height, width, like=others)
    sigma = 0.5 + 3.5 * _rand(generators, 1, 1, like=others)
    smooth = _blur(height, sigma) @ noise @ _blur(width, sigma).transpose(1, 2)
    return _ramp(_stretched(smooth), generators)


def enlarged_part(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """5 to 50 % of a picture's area, enlarged to all of it, turned and bent, channels exchanged."""
    return _bent(others, generators, (0.05, 0.5))


def other_picture(others: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Most of another picture, turned and bent, channels exchanged."""
    return _bent(others, generators, (0.5, 1.0))


_KINDS: tuple[Callable[[Tensor, Sequence[torch.Generator]], Tensor], ...] = (
    *(fractal_noise, stripes, cells, blurred_noise, enlarged_part),
    *(other_picture, random_colours),
)
_OF_PICTURES = (enlarged_part, other_picture)  # the rest look at the size alone
_SHARES = (0.12, 0.12, 0.12, 0.12, 0.12, 0.25, 0.15)


def nearest_points(points: Tensor, counts: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Find which point is nearest to each pixel; the first of those that are equally near.

    Args:
        points: ``[B, P, 2]``, whole numbers: row and column.
        counts: ``[B]``: how many of the points there are, from 1 to ``P``.
        size: Height and width, in pixels.

    Returns:
        Distances ``[B, H, W]`` in pixels, float32, and numbers of the points ``[B, H, W]``.
    """
    most = points.shape[1]
    y, x = (torch.arange(side, device=points.device, dtype=torch.double) for side in size)
    number = torch.arange(most, device=points.device)
    # The squared distance and, below its unit, which point it is to: one minimum finds both.
    key_y = (y - points[..., :1]).square() * most + number[:, None]  # [B, P, H]
    key_y = key_y.masked_fill((number >= counts[:, None])[..., None], math.inf)
    key_x = (x - points[..., 1:]).square() * most  # [B, P, W]
    nearest = key_y[:, 0, :, None] + key_x[:, 0, None]
    room = torch.empty_like(nearest)  # all points at once would take P times that
    for point in range(1, most):
        torch.add(key_y[:, point, :, None], key_x[:, point, None], out=room)
        torch.minimum(nearest, room, out=nearest)
    return (nearest / most).floor().sqrt().float(), nearest.remainder(most).long()


def _drawn(
    pictures: PictureSet, device: torch.device, generators: Sequence[torch.Generator]
) -> Tensor:
    """A picture for each generator, any as likely as any other; ``[B, 3, side, side]``."""
    order = [int(torch.randint(len(pictures), (), generator=g)) for g in generators]
    (batch,) = pictures.batches(len(order), order=order)
    return to_device(batch.pictures, device)


def _bent(
    others: Tensor, generators: Sequence[torch.Generator], area: tuple[float, float]
) -> Tensor:
    """Parts of pictures, of a share of the area, as whole pictures."""
    u = _rand(generators, 6, like=others)[..., None, None]
    side = (area[0] + (area[1] - area[0]) * u[:, 0]).sqrt()
    height, width = others.shape[-2:]
    y, x = _pixels(others)
    # From -1 to 1, with a smooth displacement of up to a tenth.
    bend = F.interpolate(
        0.2 * _rand(generators, 2, 5, 5, like=others) - 0.1,
        (height, width),
        mode="bicubic",
        align_corners=True,
    )
    x = (2 * x + 1) / width - 1 + bend[:, 0]
    y = (2 * y + 1) / height - 1 + bend[:, 1]
    x = torch.where(u[:, 1] < 0.5, x, -x)  # mirrored
    cos, sin = (2 * math.pi * u[:, 2]).cos(), (2 * math.pi * u[:, 2]).sin()
    stretch = 0.75 * (4 / 3 / 0.75) ** u[:, 3]  # of the aspect, from 3/4 to 4/3
    across = side * stretch * (cos * x - sin * y) + (1 - side) * (2 * u[:, 4] - 1)
    down = side / stretch * (sin * x + cos * y) + (1 - side) * (2 * u[:, 5] - 1)
    grid = torch.stack([across, down], dim=-1)
    bent = F.grid_sample(others, grid, padding_mode="reflection", align_corners=False)
    channels = torch.stack([torch.randperm(3, generator=g) for g in generators]).to(others.device)
    return bent.gather(1, channels[..., None, None].expand_as(bent))


def _ramp(values: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Values ``[B, H, W]`` in [0, 1] as ``[B, 3, H, W]`` from one random colour to another."""
    first, second = _rand(generators, 2, 3, 1, 1, like=values).unbind(dim=1)
    return first + (second - first) * values[:, None]


def _stretched(values: Tensor) -> Tensor:
    """Each map of ``[B, H, W]`` to the range from 0 to 1."""
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def _blur(side: int, sigma: Tensor) -> Tensor:
    """``[B, side, side]``: a Gaussian about each pixel, rows that sum to 1."""
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    weight = torch.exp(-0.5 * ((place - place[:, None]) / sigma) ** 2)
    return weight / weight.sum(dim=2, keepdim=True)


def _pixels(like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows ``[H, 1]`` and columns ``[1, W]`` of the pixels."""
    height, width = like.shape[-2:]
    y = torch.arange(height, device=like.device, dtype=like.dtype)[:, None]
    return y, torch.arange(width, device=like.device, dtype=like.dtype)[None]


def _rand(generators: Sequence[torch.Generator], *shape: int, like: Tensor) -> Tensor:
    """Uniform random numbers ``[B, *shape]`` from 0 to below 1, of each picture's own."""
    numbers = [torch.rand(shape, generator=g) for g in generators]
    return torch.stack(numbers).to(like.device)
