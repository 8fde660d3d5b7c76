"""CFA: adapt features so that patches of good parts lie in small spheres around few centroids.

A 1 x 1 convolution over the maps of a frozen network describes each patch. The mean description
of each position over the good pictures, before any learning, is a centroid. Learning draws each
patch into the spheres around its nearest centroids, and keeps those a little farther outside. How
far a patch is from its nearest centroids is how anomalous it is.

Paper: Lee, Lee, Song, "CFA: Coupled-hypersphere-based Feature Adaptation for Target-Oriented
Anomaly Localization", IEEE Access 2022, arXiv 2206.04325. Official code:
sungwool/CFA_for_anomaly_localization, without a licence; nothing here comes from it. There,
centroids are means over the batches of a shuffled epoch that leaves the last, smaller one out;
here, over all pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ad.adapt.centroids import nearest_of, squared_distances
from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    WeightDecay,
    learned_buffer,
    stream,
)
from ad.core.errors import ModelFileError, SettingError
from ad.core.networks import FeatureExtractor, GaussianBlur, upsample

Count = Annotated[int, Field(ge=1, le=64)]

_COORDINATES = 2  # of a patch: row and column
_BLOCK = 2**25  # bytes: the C library gives larger ones back when they are freed. Smaller ones stay
# in its heap, where what lives longer comes to lie between them: several times the memory.
_SIGMA = 4.0  # of the map's smoothing, in pixels


@final
class Descriptor(nn.Module):
    """Describes each patch by all layers around it and by where it is.

    Each layer is averaged over 3 x 3 cells (padding counts as zeros) and brought to the first
    one's grid; a 1 x 1 convolution over all of them, row and column in [-1, 1] mixes the channels.
    Averaging and resizing work on each channel and mixing on each cell, so they may change
    places: each layer is mixed on its own grid, at a fraction of the cost.

    Args:
        channels: Channels of each layer.
        shrink: By how much fewer numbers a description has than the layers have channels.
    """

    def __init__(self, channels: Sequence[int], shrink: int = 1) -> None:
        super().__init__()
        self.channels = tuple(channels)
        total = sum(channels)
        self.mix = nn.Conv2d(total + _COORDINATES, max(1, total // shrink), 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Describe feature maps, ``[B, C, h, w]`` each.

        Returns:
            ``[B, h * w, D]``, float32, of the first map's grid, row by row.
        """
        height, width = maps[0].shape[2], maps[0].shape[3]
        mix = self.mix.weight.flatten(1)
        weights = torch.split(mix, [*self.channels, _COORDINATES], dim=1)
        # Channels last throughout: a row is a description, and rows are what is compared.
        described = F.linear(_coordinates(height, width, like=mix), weights[-1], self.mix.bias)
        for features, weight in zip(maps, weights, strict=False):
            average = F.avg_pool2d(features.float(), 3, stride=1, padding=1)
            mixed = F.linear(average.permute(0, 2, 3, 1), weight)
            if mixed.shape[1:3] != (height, width):
                mixed = F.interpolate(
                    mixed.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False
                ).permute(0, 2, 3, 1)
            described = described + mixed
        return described.flatten(1, 2)


def _coordinates(height: int, width: int, *, like: Tensor) -> Tensor:
    """Row and column of each cell in [-1, 1], ``[h, w, 2]``."""
    rows = torch.linspace(-1, 1, height, dtype=like.dtype, device=like.device)
    columns = torch.linspace(-1, 1, width, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=2)


def in_blocks(maps: Sequence[Tensor], width: int) -> Iterator[tuple[Tensor, ...]]:
    """Maps of a few pictures at a time: as few as have a large block of descriptions.

    Args:
        maps: ``[B, C, h, w]`` each.
        width: Numbers in a description, of four bytes each.
    """
    of_a_picture = 4 * width * maps[0].shape[2] * maps[0].shape[3]
    some = math.ceil(_BLOCK / of_a_picture)
    return zip(*(torch.split(one, some) for one in maps), strict=True)


@final
class CfaDetector(Detector):
    """Scores each patch by its distance to the nearest centroids.

    Args:
        extractor: The frozen network.
        descriptor: Its maps to descriptions.
        neighbors: How many centroids a score looks at.
        radius: Of the spheres, before learning.
    """

    centroids: Tensor
    """``[M, D]``"""

    def __init__(
        self, extractor: FeatureExtractor, descriptor: Descriptor, *, neighbors: int, radius: float
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.descriptor = descriptor
        self.neighbors = neighbors
        self.radius = nn.Parameter(torch.tensor([radius]))
        self.blur = GaussianBlur(_SIGMA)
        learned_buffer(self, "centroids", shape=("M", descriptor.mix.out_channels))

    def patch_score(self, descriptions: Tensor) -> Tensor:
        """Distance to the nearest centroid times its share of softmin, ``[N]``, of ``[N, D]``."""
        which = nearest_of(descriptions, self.centroids, self.neighbors)
        distance = squared_distances(descriptions, self.centroids, which).sqrt()
        least = distance.amin(1)
        return least / (least[:, None] - distance).exp().sum(1)

    def _scores(self, maps: Sequence[Tensor]) -> Tensor:
        return self.patch_score(self.descriptor(maps).flatten(0, 1))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed patch scores, and the largest of each image as its score.

        Raises:
            NotFittedError: If the detector has not been trained.
            ModelFileError: If a loaded model has fewer centroids than are looked at.
        """
        self.require_fitted()
        count = self.centroids.shape[0]
        if count < self.neighbors:
            msg = (
                f"CFA looks at {self.neighbors} centroids; the saved model has {count}. It was "
                "changed; take it from the original again."
            )
            raise ModelFileError(msg)
        maps = self.extractor(images)
        height, width = maps[0].shape[2], maps[0].shape[3]
        with torch.autocast(images.device.type, enabled=False):  # distances are always fp32
            if torch.compiler.is_exporting():  # the number of pictures is not known there
                score = self._scores(maps)
            else:
                parts = in_blocks(maps, self.centroids.shape[1])
                score = torch.cat([self._scores(part) for part in parts])
        cells = score.view(-1, height, width)
        anomaly_map = self.blur(upsample(cells, (images.shape[2], images.shape[3])))
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


@final
class CfaTrainer(GradientTrainer):
    """Computes the centroids, then trains the descriptor and the radius.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; the first one's grid is the map's.
        gamma_d: By how much fewer numbers a patch is described with than the layers have channels.
        neighbors: Nearest centroids that a patch is drawn to, and that a score looks at: K.
        repelled: Centroids after those that it is kept away from: J.
        radius: Of the spheres at first; it is learnt.
        alpha: How much deeper than the sphere a centroid has to be that a patch is kept away from.
        nu: What both losses are divided by.
        lr: Learning rate of AdamW.
        weight_decay: Its weight decay, of the radius, too.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: CfaDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer1", "layer2", "layer3"),
        gamma_d: Annotated[int, Field(ge=1, le=1024)] = 1,
        neighbors: Count = 3,
        repelled: Count = 3,
        radius: Annotated[float, Field(gt=0, le=1000)] = 1e-5,
        alpha: Annotated[float, Field(ge=0, le=1000)] = 0.1,
        nu: Annotated[float, Field(gt=0, le=1)] = 1e-3,
        lr: LearningRate = 1e-3,
        weight_decay: WeightDecay = 5e-4,
    ) -> None:
        super().__init__(setup)
        self.neighbors = neighbors
        self.repelled = repelled
        self.alpha = alpha
        self.nu = nu
        self.lr = lr
        self.weight_decay = weight_decay
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            descriptor = Descriptor(extractor.channels, gamma_d)
        self.detector = CfaDetector(extractor, descriptor, neighbors=neighbors, radius=radius)
        self.detector.to(setup.device)
        self.detector.eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def prepare(self, data: LearningData) -> None:
        """Compute the centroids: the mean description of each position.

        Descriptions are linear in the maps, so that it is the description of the mean maps.

        Raises:
            SettingError: If pictures have fewer patches than centroids are looked at.
        """
        sums: list[Tensor] = []
        for batch in data.batches(self.setup.batch_size):
            parts = [maps.double().sum(0, keepdim=True) for maps in batch.frozen]
            sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        with torch.no_grad():
            centroids = self.detector.descriptor([(one / len(data)).float() for one in sums])[0]
        wanted = self.neighbors + self.repelled
        if len(centroids) < wanted:
            msg = (
                f"`neighbors` and `repelled` of CFA are {wanted} centroids together, and pictures "
                f"of {self.setup.img_size} pixels give {len(centroids)}, one for each patch. Give "
                "larger pictures, or fewer of both."
            )
            raise SettingError(msg)
        self.detector.centroids = centroids

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How far patches are from their spheres, and in others; see `GradientTrainer.losses`."""
        # What a search keeps for later cannot be traced. Not its decorator, which imports what
        # compiles at once.
        return torch.compiler.disable(self._losses)(batch)  # type: ignore[no-untyped-call, no-any-return]

    def _losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        with torch.autocast(batch.images.device.type, enabled=False):
            parts = in_blocks(batch.frozen, self.detector.descriptor.mix.out_channels)
            square = torch.cat([self._distances(maps) for maps in parts])
            within = self.detector.radius.square()
            near, far = square[:, : self.neighbors], square[:, self.neighbors :]
            return {
                "attraction": (near - within).relu().mean() / self.nu,
                "repulsion": (within - far - self.alpha).relu().mean() / self.nu,
            }

    def _distances(self, maps: Sequence[Tensor]) -> Tensor:
        """Squared distances of the patches of some pictures to their nearest centroids.

        Descriptions are computed once more in the backward pass, so that those of a whole batch
        never stand in memory; the nearest are looked for once.

        Args:
            maps: Of these pictures, ``[B, C, h, w]`` each.

        Returns:
            ``[B * h * w, K + J]``.
        """
        found: list[Tensor] = []

        def compute(*maps: Tensor) -> Tensor:
            descriptions = self.detector.descriptor(maps).flatten(0, 1)
            centroids = self.detector.centroids
            if not found:
                wanted = self.neighbors + self.repelled
                found.append(nearest_of(descriptions.detach(), centroids, wanted))
            return squared_distances(descriptions, centroids, found[0])

        distances: Tensor = checkpoint(
            compute, *maps, use_reentrant=False, preserve_rng_state=False
        )
        return distances

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """AdamW at a constant rate; see `GradientTrainer.optimizers`."""
        parameters = [*self.detector.descriptor.parameters(), self.detector.radius]
        adam = torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay, amsgrad=True)
        return [Optimization(optimizer=adam)]
