"""EfficientAD's detector: teacher, student and auto-encoder, and the scale of their maps."""

from __future__ import annotations

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import Detector, Prediction, Sides, Size, in_precision, learned_buffer, size_of
from ad.core.errors import SettingError
from ad.core.networks import ImagenetNorm, upsample
from ad.distill.pdn import CHANNELS, ChannelScale, Pdn, Teacher, by_pictures

MIN_SIZE = 64
"""Side of the smallest pictures: below it the maps have no cell whose patch fits."""

QUANTILES = 0.9, 0.995
"""Of the values of good maps; the scaled map is 0 at the first and 0.1 at the second."""

_CODE = 64
_BORDER = 4  # cells that the unpadded convolutions lose on each side


class RawMaps(NamedTuple):
    """Squared differences, the mean over channels: ``[B, h, w]``, float32."""

    student: Tensor
    """Of the student and the teacher: local defects."""
    autoencoder: Tensor
    """Of the student and the auto-encoder: logical ones."""


@final
class EfficientadDetector(Detector):
    """Scores each cell by where the student is wrong about the teacher and the auto-encoder.

    Pictures are normalised with ImageNet's mean and deviation whatever the run says: it is a
    constant of the method, whose teacher was taught so.

    Args:
        teacher: The frozen network.
        student: Of the teacher's architecture, with twice the outputs: the first half imitates
            the teacher, the second half the auto-encoder.
        autoencoder: Imitates the teacher.
    """

    quantiles: Tensor
    """``[2, 2]``: of the student's and the auto-encoder's maps, each at `QUANTILES`."""

    def __init__(self, teacher: Teacher, student: Pdn, autoencoder: AutoEncoder) -> None:
        super().__init__()
        self.normalize = ImagenetNorm()
        self.teacher = teacher
        self.scale = ChannelScale(CHANNELS)
        self.student = student
        self.autoencoder = autoencoder
        learned_buffer(self, "quantiles", shape=(2, 2))

    def teach(self, images: Tensor) -> Tensor:
        """The teacher's own outputs, ``[B, 384, h, w]``, in its precision."""
        features: Tensor = self.teacher(self.normalize(images))
        return features

    def maps(self, images: Tensor, taught: Tensor) -> RawMaps:
        """Where the student is wrong, not yet scaled.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1].
            taught: What `teach` says of them.
        """
        x = self.normalize(images)
        with in_precision(self.teacher.precision, x.device):
            learnt, rebuilt = self.student(x), self.autoencoder(x)
        local, whole = learnt[:, :CHANNELS], learnt[:, CHANNELS:]
        return RawMaps(
            by_pictures(lambda own, other: gap(self.scale(own), other), taught, local),
            by_pictures(gap, rebuilt, whole),
        )

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The mean of both maps, each scaled so that of the values on good pictures 90 % are
            below 0 and 99.5 % below 0.1; and the largest of each image inside the border as its
            score. That is the paper's where it is above 0. Its score is never below: it counts
            the border too, of which nothing is known and which is 0, so that most good pictures
            score 0 and none is better than another.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are smaller than it can take.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        smallest = Size(*(max(MIN_SIZE, 32 * side) for side in self.autoencoder.kernel))
        if height < smallest.height or width < smallest.width:
            msg = (
                f"This EfficientAD takes pictures from {smallest} pixels; got {height} x {width}. "
                "Resize them to the size it was trained at."
            )
            raise SettingError(msg)
        total = images.new_zeros(())
        for raw, (low, high) in zip(
            self.maps(images, self.teach(images)), self.quantiles, strict=True
        ):
            total = total + 0.05 * (raw - low) / (high - low)
        # After scaling, so that the border, of which nothing is known, is 0: neither good nor bad.
        anomaly_map = upsample(F.pad(total, (_BORDER,) * 4), (height, width))
        # With the edge's own values out there, the largest is one from inside, of any sign; both
        # agree on the sign.
        edges = F.pad(total[:, None], (_BORDER,) * 4, mode="replicate")[:, 0]
        inside = upsample(edges, (height, width))
        largest = anomaly_map.amax(dim=(1, 2))
        score = torch.where(largest > 0, largest, inside.amax(dim=(1, 2)))
        return Prediction(score, anomaly_map)


def gap(one: Tensor, other: Tensor) -> Tensor:
    """Squared differences of two maps ``[B, C, h, w]``, the mean over channels, float32."""
    return (one.float() - other.float()).square().mean(1)


@final
class AutoEncoder(nn.Module):
    """Squeezes a picture through one code and rebuilds the teacher's map from it, coarsely.

    Args:
        img_size: Side of the pictures it learns from, or height and width; below 256 pixels the
            code's kernel is smaller than the paper's 8 x 8, so that there still is one code.
    """

    def __init__(self, img_size: Sides) -> None:
        super().__init__()
        height, width = size_of(img_size)
        self.kernel = (min(8, height // 32), min(8, width // 32))
        widths = (3, 32, 32, 64, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(64, _CODE, self.kernel))
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(_CODE, 64, 4, padding=2), nn.ReLU(), nn.Dropout(0.2))
            for _ in range(6)
        )
        self.last = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, CHANNELS, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Rebuild.

        Args:
            x: ``[B, 3, H, W]``, normalised.

        Returns:
            ``[B, 384, h, w]``, on the teacher's grid.
        """
        sizes = zip(_decoder_sizes(x.shape[2]), _decoder_sizes(x.shape[3]), strict=True)
        *grids, cells = sizes
        x = self.encoder(x)
        for layer, grid in zip(self.decoder, grids, strict=True):
            x = layer(F.interpolate(x, grid, mode="bilinear", align_corners=False))
        rebuilt: Tensor = self.last(F.interpolate(x, cells, mode="bilinear", align_corners=False))
        return rebuilt


def cells(pixels: int) -> int:
    """How many cells a side of so many pixels has in the teacher's map."""
    return -(-pixels // 4) - 2 * _BORDER


def _decoder_sizes(pixels: int) -> tuple[int, ...]:
    """Sides the decoder's maps are resized to before each of its convolutions; 3 to 127 at 256."""
    odd = (max(1, pixels // part - 1) for part in (64, 16, 4, 2))
    first, third, fifth, sixth = odd
    return first, pixels // 32, third, pixels // 8, fifth, sixth, cells(pixels)
