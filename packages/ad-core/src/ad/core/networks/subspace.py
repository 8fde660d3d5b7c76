"""A plane through the features of good pictures; what lies beside it is anomalous.

The maps of one layer of a frozen network, pooled and flattened, lie near a low-dimensional plane
for good parts. FRE and DFM look for it, each in its own way, and say what of a picture's features
lies beside it, position by position.

Source: Ndiour, Ahuja, Genc, Tickoo, "FRE: A Fast Method For Anomaly Detection And Segmentation",
BMVC 2023, arXiv 2211.12650.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.core.data.learning import stream
from ad.core.detector import Detector, Prediction, learned_buffer
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.networks.components import PrincipalComponents
from ad.core.networks.maps import upsample
from ad.runtime.framing.size import Sides, size_of

if TYPE_CHECKING:
    from ad.core.networks.backbones import FeatureExtractor


class SubspaceDetector(Detector):
    """Scores each cell by the squares of its features' distance to the plane.

    A model derives its own from it, which says its name, and its own score if it has one.

    Args:
        extractor: The frozen network, with one layer.
        pool: Side of the square of cells that are averaged before flattening.
        img_size: Side of the pictures in pixels, or height and width: each feature has its place.
    """

    title: ClassVar[str]
    """What the model is called in errors."""

    weight: Tensor
    """``[h, D]``: encodes, and transposed decodes."""
    code_bias: Tensor
    """``[h]``"""
    bias: Tensor
    """``[D]``"""

    def __init__(self, extractor: FeatureExtractor, *, pool: int, img_size: Sides) -> None:
        super().__init__()
        self.extractor = extractor
        self.pool = pool
        self.img_size = size_of(img_size)
        learned_buffer(self, "weight", shape=("h", "D"))
        learned_buffer(self, "code_bias", shape=("h",))
        learned_buffer(self, "bias", shape=("D",))

    def span(self, plane: PrincipalComponents) -> None:
        """Take over a plane of principal components."""
        weight, mean = plane.directions, plane.mean.to(plane.directions.dtype)
        self.weight, self.bias = weight, mean
        self.code_bias = -(weight @ mean)

    def features(self, images: Tensor) -> Tensor:
        """Pooled maps, ``[B, C, h, w]``, float32.

        Raises:
            SettingError: If the maps are smaller than what is pooled.
        """
        (maps,) = self.extractor(images)
        height, width = maps.shape[2], maps.shape[3]
        if min(height, width) < self.pool:
            msg = (
                f"`pool` of {self.title} must be at most the side of the layer's map, {height} x "
                f"{width} cells for pictures of {images.shape[2]} x {images.shape[3]} pixels; got "
                f"{self.pool}."
            )
            raise SettingError(msg)
        return F.avg_pool2d(maps.float(), self.pool)

    def code(self, features: Tensor) -> Tensor:
        """Where in the plane flattened features, ``[B, D]``, lie: ``[B, h]``."""
        return F.linear(features, self.weight, self.code_bias)

    def error(self, features: Tensor) -> Tensor:
        """What the plane misses of flattened features, ``[B, D]``."""
        return features - torch.addmm(self.bias, self.code(features), self.weight)

    def score(self, features: Tensor, cells: Tensor) -> Tensor:
        """One score for each picture, ``[B]``: the sum over its cells, unless a model has another.

        Args:
            features: ``[B, D]``.
            cells: ``[B, h, w]``: squared errors, summed over channels.
        """
        return cells.sum(dim=(1, 2))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Squared errors summed over channels as the map.

        Raises:
            NotFittedError: If the detector has not been fitted.
            SettingError: If the images are not of the size it was fitted at.
            ModelFileError: If what was loaded is not of their features.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        if (height, width) != self.img_size:
            msg = (
                f"{self.title} was fitted to {self.img_size} pixels, {self.weight.shape[1]} "
                f"features a picture; pictures of {height} x {width} pixels have others, or "
                "elsewhere. Resize the pictures, or train at their size."
            )
            raise SettingError(msg)
        maps = self.features(images)
        own = maps.shape[1:].numel()
        if own != self.weight.shape[1]:
            msg = (
                f"{self.title}'s plane is of {self.weight.shape[1]} features a picture; these "
                f"pictures have {own}. The saved model was changed; take it from the original "
                "again."
            )
            raise ModelFileError(msg)
        features = maps.flatten(1)
        with torch.autocast(images.device.type, enabled=False):  # small differences are the signal
            cells = self.error(features).square().view_as(maps).sum(1)
            score = self.score(features, cells)
        return Prediction(score, upsample(cells, (height, width)))


def pictures_of_plane(count: int, most: int, *, seed: int, title: str, hint: str = "") -> list[int]:
    """Which pictures a plane is computed from: all, or of very many a random part, with a warning.

    Args:
        count: How many there are.
        most: How many may be used.
        seed: Of the run.
        title: What the model is called.
        hint: What else can be done, for the warning.

    Raises:
        DataError: If there are fewer than two: one picture has no plane.
    """
    if count < 2:
        msg = f"{title} needs at least 2 normal pictures; got {count}. Add good ones."
        raise DataError(msg)
    if count <= most:
        return list(range(count))
    warnings.warn(
        f"{count:,} pictures are more than the {most:,} that {title}'s closed form is computed "
        f"from; a random part of that size is used.{hint}",
        stacklevel=3,
    )
    generator = torch.Generator().manual_seed(stream(seed, 3))
    return torch.randperm(count, generator=generator)[:most].tolist()
