"""DSR's detector: the quantiser, and the networks that know the one product.

Knows tensors only.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import Detector, Precision, Prediction, Size, in_precision, trained_flag
from ad.core.errors import SettingError
from ad.recon.dsr.vq import Codes, VqModel, picture_decoder

STRIDE = 32
"""Sides of pictures must be multiples of it: an eighth is halved twice more."""

MIN_SIZE = 64
"""Side of the smallest pictures: below it the coarsest map has one cell and no deviation."""

_SCORE_SIDE = 21  # pixels along the side of the square whose mean is the score


class Restored(NamedTuple):
    """What the product's own networks make of codes."""

    features: Codes
    """Before they are quantised: where the normal codes should be."""
    codes: Codes
    """Quantised; gradients pass to the features."""
    images: Tensor
    """``[B, 3, H, W]``, float32: rebuilt by the product's own decoder."""


class Comparison(NamedTuple):
    """A picture as it should be and as it is, both rebuilt from codes."""

    own: Tensor
    """``[B, 3, H, W]``, float32: from restored codes, by the product's own decoder."""
    general: Tensor
    """``[B, 3, H, W]``, float32: from the codes as they are, by the general decoder."""
    masks: Tensor
    """``[B, 2, H, W]``, float32: probabilities of good and broken, coarse."""


@final
class DsrDetector(Detector):
    """Scores each pixel by how the restored picture differs from the picture.

    Args:
        embedding_dim: Numbers in a code.
        num_embeddings: Codes in each codebook.
        width: Channels of the first map of the quantiser and of the segmenting modules.
        precision: In which convolutions are computed; codes are looked up in float32.
    """

    map_jumps = True  # where two codes are equally near

    def __init__(
        self, *, embedding_dim: int, num_embeddings: int, width: int, precision: Precision
    ) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.vq = VqModel(embedding_dim, num_embeddings, width)
        self.restrict_lo = restriction(embedding_dim)
        self.restrict_hi = restriction(embedding_dim)
        self.decoder = own_decoder(2 * embedding_dim, width)
        self.detection = UNet(6, width)
        self.refinement = UNet(8, width)
        for module in (*self.decoder.modules(), *self.detection.modules()):
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, 0, 0.02)
        trained_flag(self)

    def restore(self, codes: Codes) -> Restored:
        """Bring codes back to normal and rebuild the picture from them."""
        features = Codes(self.restrict_lo(codes.lo).float(), self.restrict_hi(codes.hi).float())
        restored = Codes(self.vq.quantizer_lo(features.lo), self.vq.quantizer_hi(features.hi))
        return Restored(features, restored, self.decoder(self.vq.join(restored)).float())

    def detect(self, own: Tensor, general: Tensor) -> Tensor:
        """Where two pictures differ as good and broken ones do: `Comparison.masks`."""
        logits: Tensor = self.detection(torch.cat([own, general], dim=1))
        return logits.float().softmax(dim=1)

    def compare(self, images: Tensor) -> Comparison:
        """Rebuild pictures ``[B, 3, H, W]`` in both ways and compare."""
        codes = self.vq.encode(images)
        own, general = self.restore(codes).images, self.vq.decode(codes)
        return Comparison(own, general, self.detect(own, general))

    def refine(self, comparison: Comparison) -> Tensor:
        """Probabilities of good and broken in the picture's resolution, ``[B, 2, H, W]``."""
        logits: Tensor = self.refinement(torch.cat(comparison, dim=1))
        return logits.float().softmax(dim=1)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The probability of being broken as refined, and as score the largest mean over 21 x 21
            pixels of that before.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are of a size that its networks cannot take.
        """
        self.require_fitted()
        check_size(images.shape[2], images.shape[3])
        with in_precision(self.precision, images.device):
            comparison = self.compare(images)
            refined = self.refine(comparison)
        means = F.avg_pool2d(comparison.masks[:, 1:], _SCORE_SIDE, 1, _SCORE_SIDE // 2)
        return Prediction(means.amax(dim=(1, 2, 3)), refined[:, 1])


def check_size(height: int, width: int) -> None:
    """Check that pictures can be halved as often as the networks do.

    Raises:
        SettingError: If a side is no multiple of 32, or below 64.
    """
    size = Size(height, width)
    if not size.divides(STRIDE, MIN_SIZE):
        msg = (
            f"DSR takes pictures whose sides are multiples of {STRIDE} pixels from {MIN_SIZE}, so "
            f"that five halvings come out even; got {height} x {width}. The paper's size is 256. "
            f"Near it are {size.near(STRIDE, MIN_SIZE)}."
        )
        raise SettingError(msg)


def restriction(channels: int) -> nn.Sequential:
    """A subspace restriction module: codes ``[B, channels, h, w]`` to where normal ones should be.

    Without skip connections: what is abnormal must not find a way around the bottom.
    """
    w = channels
    return nn.Sequential(
        *(two_convs(channels, w, w), nn.MaxPool2d(2), two_convs(w, 2 * w, 2 * w), nn.MaxPool2d(2)),
        two_convs(2 * w, 4 * w, 4 * w),
        *(doubled(4 * w, 2 * w), two_convs(2 * w, 2 * w, 2 * w)),
        *(doubled(2 * w, w), two_convs(w, w, w)),
        nn.Conv2d(w, channels, 3, padding=1),
    )


def own_decoder(channels: int, width: int) -> nn.Sequential:
    """The object-specific decoder: joined codes ``[B, channels, H/4, W/4]`` to ``[B, 3, H, W]``."""
    w = channels
    return nn.Sequential(
        *(two_convs(w, w, 2 * w), nn.MaxPool2d(2), two_convs(2 * w, 2 * w, 4 * w), nn.MaxPool2d(2)),
        nn.Conv2d(4 * w, width, 1),
        *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU()),
        *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.ReLU()),
        *picture_decoder(width, width),
    )


@final
class UNet(nn.Module):
    """Segments what it is shown; the detection and the refinement module.

    Args:
        channels: Of what it is shown.
        width: Channels of its first map.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        w = width
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList(
            [
                two_convs(channels, w, w),
                two_convs(w, 2 * w, 2 * w),
                two_convs(2 * w, 4 * w, 4 * w),
                two_convs(4 * w, 4 * w, 4 * w),
            ]
        )
        self.ups = nn.ModuleList([doubled(4 * w, 4 * w), doubled(4 * w, 2 * w), doubled(2 * w, w)])
        self.decoder = nn.ModuleList(
            [
                two_convs(8 * w, 4 * w, 4 * w),
                two_convs(4 * w, 2 * w, 2 * w),
                two_convs(2 * w, w, w),
            ]
        )
        self.last = nn.Conv2d(w, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Segment.

        Args:
            x: ``[B, channels, H, W]``, sides that divide by 8.

        Returns:
            Logits of good and broken, ``[B, 2, H, W]``.
        """
        skipped = []
        for number, block in enumerate(self.encoder):
            x = block(self.pool(x) if number else x)
            skipped.append(x)
        for up, block, skip in zip(self.ups, self.decoder, skipped[-2::-1], strict=True):
            x = block(torch.cat([up(x), skip], dim=1))
        logits: Tensor = self.last(x)
        return logits


def two_convs(inputs: int, middle: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3 x 3, each map normalised by itself."""
    return nn.Sequential(*_conv(inputs, middle), *_conv(middle, outputs))


def doubled(inputs: int, outputs: int) -> nn.Sequential:
    """A map of twice the sides, corners on corners, and a convolution."""
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(up, *_conv(inputs, outputs))


def _conv(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.InstanceNorm2d(outputs), nn.ReLU()
