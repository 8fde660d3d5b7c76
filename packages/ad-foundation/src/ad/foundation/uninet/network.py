"""UniNet's networks, its map and its score."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import Detector, Prediction, in_precision, trained_flag
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, FusedSequential, GaussianBlur, halving

STRIDE = 32
"""Pixels along the side of a cell of the code."""

_SIGMA = 4.0  # of the map's smoothing before it is scored, in pixels


@final
class UninetDetector(Detector):
    """Scores each position by the angles between the teachers' and the student's features.

    Args:
        source: The frozen teacher, with layers 1 to 3.
        bottleneck: Maps to code.
        student: Code to maps.
        alpha: Share of the pixels that a picture's score is the mean of, for each unit of the
            angles that stand out.
        beta: The least share.
        smooth_map: Whether the map is smoothed, as it is for the score in any case.
    """

    def __init__(
        self,
        source: FeatureExtractor,
        bottleneck: nn.Module,
        student: nn.Module,
        *,
        alpha: float,
        beta: float,
        smooth_map: bool,
    ) -> None:
        super().__init__()
        self.source = source
        self.target = copy.deepcopy(source.net).requires_grad_(True)
        self.bottleneck = bottleneck
        self.student = student
        self.alpha = alpha
        self.beta = beta
        self.smooth_map = smooth_map
        self.blur = GaussianBlur(_SIGMA)
        trained_flag(self)

    def pairs(self, images: Tensor, source: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the teachers say, and what the student makes of what the other one says.

        Args:
            images: ``[B, 3, H, W]`` in [0, 1].
            source: The frozen teacher's maps of them.

        Returns:
            The frozen teacher's maps, then the other one's, each with the student's, float32.
        """
        target = self.source.show(images, self.target)
        with in_precision(self.source.precision, images.device):
            both = [torch.cat(pair) for pair in zip(target, source, strict=True)]
            rebuilt = self.student(self.bottleneck(both))
        count = images.shape[0]  # and no `chunk`, which an export would fix to its example's
        learnt = [
            *(maps[:count].float() for maps in rebuilt),
            *(maps[count:].float() for maps in rebuilt),
        ]
        taught = [maps.float() for maps in (*source, *target)]
        return list(zip(taught, learnt, strict=True))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Sums over the pairs of 1 minus the cosine, each from 0 to 2, and the mean over the
            largest of each image, smoothed, as its score: the more of them, the larger the angles
            that stand out among the pairs.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If a side of the images is not a multiple of 32.
        """
        self.require_fitted()
        size = (images.shape[2], images.shape[3])
        if size[0] % STRIDE or size[1] % STRIDE:
            msg = (
                f"UniNet takes pictures whose sides are multiples of {STRIDE} pixels; got "
                f"{size[0]} x {size[1]}. Resize them."
            )
            raise SettingError(msg)
        pairs = self.pairs(images, self.source(images))
        angles = [1 - F.cosine_similarity(taught, learnt, dim=1) for taught, learnt in pairs]
        summed = sum_of_maps(angles, size)
        smooth = self.blur(summed)
        largest = torch.stack([angle.amax(dim=(1, 2)) for angle in angles], dim=1)
        score = weighted_decision(smooth, largest, alpha=self.alpha, beta=self.beta)
        return Prediction(score, smooth if self.smooth_map else summed)


def sum_of_maps(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Maps ``[B, h, w]`` of any sizes, enlarged and summed: ``[B, H, W]``."""
    # Corners aligned, as the authors resize.
    return torch.stack(
        [
            F.interpolate(one[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
            for one in maps
        ]
    ).sum(dim=0)


def weighted_decision(maps: Tensor, largest: Tensor, *, alpha: float, beta: float) -> Tensor:
    """The mean over the largest pixels of each map: how many depends on which maxima stand out.

    Of the maxima of one picture's pairs those count whose softmax is above its mean; their own
    mean times ``alpha`` is the share of the pixels, ``beta`` the least. Where all maxima are equal
    none stands out, and the share is ``beta``.

    Args:
        maps: ``[B, H, W]``.
        largest: ``[B, pairs]``, from 0 to 2.
        alpha: Share for each unit of the maxima.
        beta: Least share.

    Returns:
        ``[B]``.
    """
    pixels = maps.flatten(1)
    total = pixels.shape[1]
    odds = (largest - largest.amax(dim=1, keepdim=True)).exp()  # all 1 where all are equal
    out = (odds > odds.mean(dim=1, keepdim=True)).float()
    mean = (largest * out).sum(dim=1) / out.sum(dim=1).clamp_min(1)
    share = (alpha * mean).clamp_min(beta)
    most = min(total, max(1, int(total * max(2 * alpha, beta))))
    count = (share * total).long().clamp(1, most)
    top = pixels.topk(most, dim=1).values
    counted = torch.arange(most, device=maps.device) < count[:, None]
    return torch.where(counted, top, 0.0).sum(dim=1) / count


@final
class Bottleneck(nn.Module):
    """Fuses three maps and squeezes them into one code.

    Args:
        width: Of the inner convolutions against ResNet-50's; None for basic blocks.
        num_blocks: How many blocks squeeze.
    """

    def __init__(self, width: int | None, num_blocks: int) -> None:
        super().__init__()
        expansion = 1 if width is None else 4
        c1, c2, c3, out = (channels * expansion for channels in (64, 128, 256, 512))
        inner = 256 * (width or 1)
        self.from_first = FusedSequential(*halving(c1, c2), *halving(c2, c3))
        self.from_second = FusedSequential(*halving(c2, c3))
        self.stage = nn.Sequential(
            TwoBranchBlock(3 * c3, inner, out, stride=2),
            *(TwoBranchBlock(out, inner, out) for _ in range(num_blocks - 1)),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Squeeze ``[B, C, h, w]`` of strides 4, 8 and 16 into ``[B, 512 E, h / 8, w / 8]``."""
        fused = torch.cat([self.from_first(maps[0]), self.from_second(maps[1]), maps[2]], 1)
        code: Tensor = self.stage(fused)
        return code


@final
class TwoBranchBlock(nn.Module):
    """A residual block that sends each half of the channels through convolutions of its own.

    In the authors' code the second branch starts with kernels of 7 x 7 that are folded into 3 x 3
    ones when it is built, which leaves it their biases and nothing else.

    Args:
        channels: Of what comes in.
        inner: Of each branch.
        out: Of what goes out.
        stride: Of the first convolution of each branch.
    """

    def __init__(self, channels: int, inner: int, out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.first = FusedSequential(*_branch(channels // 2, inner, stride, bias=False))
        self.second = FusedSequential(*_branch(channels // 2, inner, stride, bias=True))
        self.merge = FusedSequential(nn.Conv2d(2 * inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.side: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.side = FusedSequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to ``[B, out, h', w']``."""
        first, second = x.chunk(2, dim=1)
        merged = self.merge(torch.cat([self.first(first), self.second(second)], dim=1))
        return F.relu(merged + self.side(x))


def _branch(channels: int, inner: int, stride: int, *, bias: bool) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, inner, 3, stride, padding=1, bias=bias),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        nn.Conv2d(inner, inner, 3, padding=1, bias=bias),
        nn.BatchNorm2d(inner),
    ]
