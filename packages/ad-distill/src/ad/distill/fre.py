"""FRE: rebuild a feature map from few numbers; the score is what could not be rebuilt.

The maps of one layer of a frozen network, pooled and flattened, lie near a low-dimensional plane
for good parts. A linear auto-encoder with tied weights finds it; what is left of a picture's
features beside the plane is the anomaly, position by position.

Paper: Ndiour, Ahuja, Genc, Tickoo, "FRE: A Fast Method For Anomaly Detection And Segmentation",
BMVC 2023, arXiv 2211.12650. Official code: IntelLabs/dfm, MIT.

The best tied linear auto-encoder is known in closed form, the principal components of the
features: ``solver="pca"`` computes it at once, exactly, from the pictures' Gram matrix.
``solver="sgd"`` descends to it as the paper does; it ends above it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    Sides,
    learned_buffer,
    size_of,
    stream,
)
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.networks import FeatureExtractor, principal_components, upsample

Solver = Literal["pca", "sgd"]

MAX_PICTURES = 4096
"""Pictures the closed form is computed from; of more, a random choice is taken."""


@final
class FreDetector(Detector):
    """Scores each cell by the squared error of its features' reconstruction.

    Args:
        extractor: The frozen network, with one layer.
        pool: Side of the square of cells that are averaged before flattening.
        img_size: Side of the pictures in pixels, or height and width: each feature has its place.
    """

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

    def features(self, images: Tensor) -> Tensor:
        """Pooled maps, ``[B, C, h, w]``, float32.

        Raises:
            SettingError: If the maps are smaller than what is pooled.
        """
        (maps,) = self.extractor(images)
        height, width = maps.shape[2], maps.shape[3]
        if min(height, width) < self.pool:
            msg = (
                f"`pool` of FRE must be at most the side of the layer's map, {height} x {width} "
                f"cells for pictures of {images.shape[2]} x {images.shape[3]} pixels; got "
                f"{self.pool}."
            )
            raise SettingError(msg)
        return F.avg_pool2d(maps.float(), self.pool)

    def error(self, features: Tensor) -> Tensor:
        """What the reconstruction misses of flattened features, ``[B, D]``."""
        code = F.linear(features, self.weight, self.code_bias)
        return features - torch.addmm(self.bias, code, self.weight)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Squared errors summed over channels, and their sum over all cells as the score.

        Raises:
            NotFittedError: If the detector has not been fitted.
            SettingError: If the images are not of the size it was fitted at.
            ModelFileError: If what was loaded is not of their features.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        if (height, width) != self.img_size:
            msg = (
                f"FRE was fitted to {self.img_size} pixels, {self.weight.shape[1]} features a "
                f"picture; pictures of {height} x {width} pixels have others, or elsewhere. "
                "Resize the pictures, or train at their size."
            )
            raise SettingError(msg)
        features = self.features(images)
        own = features.shape[1:].numel()
        if own != self.weight.shape[1]:
            msg = (
                f"FRE's plane is of {self.weight.shape[1]} features a picture; these pictures have "
                f"{own}. The saved model was changed; take it from the original again."
            )
            raise ModelFileError(msg)
        with torch.autocast(images.device.type, enabled=False):  # small differences are the signal
            square = self.error(features.flatten(1)).square().view_as(features).sum(1)
        anomaly_map = upsample(square, (height, width))
        return Prediction(square.sum(dim=(1, 2)), anomaly_map)


@final
class FreTrainer(GradientTrainer):
    """Finds the plane, in closed form or by descent.

    Args:
        setup: What the run sets; the closed form needs no epochs.
        backbone: A timm model name.
        layer: Whose map is rebuilt.
        solver: ``"pca"`` or ``"sgd"``.
        latent: Numbers a picture is rebuilt from, at most one less than there are pictures.
        pool: Side of the square of cells that are averaged.
        lr: Learning rate of Adam, for ``solver="sgd"``.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: FreDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layer: Name = "layer3",
        solver: Solver = "pca",
        latent: Annotated[int, Field(ge=1, le=MAX_PICTURES)] = 220,
        pool: Annotated[int, Field(ge=1, le=256)] = 2,
        lr: LearningRate = 1e-3,
    ) -> None:
        super().__init__(setup)
        self.solver: Solver = solver
        self.latent = latent
        self.lr = lr
        extractor = FeatureExtractor(backbone, (layer,), setup=setup)
        self.detector = FreDetector(extractor, pool=pool, img_size=setup.img_size)
        self.detector.to(setup.device)
        self.detector.eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """That the closed form has no epochs; see `Trainer.notes`."""
        if self.solver == "sgd":
            return ()
        return ("FRE's closed form was computed from all pictures at once: there are no epochs.",)

    def num_steps(self, num_images: int) -> int:
        """None for the closed form; see `GradientTrainer.num_steps`."""
        return 0 if self.solver == "pca" else super().num_steps(num_images)

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The pooled features, flattened; see `GradientTrainer.frozen`."""
        return (self.detector.features(images).flatten(1),)

    def prepare(self, data: LearningData) -> None:
        """Compute the plane, or draw where the descent starts.

        Raises:
            DataError: If there are fewer than two pictures, or all look the same.
        """
        if len(data) < 2:
            msg = f"FRE needs at least 2 normal pictures; got {len(data)}. Add good ones."
            raise DataError(msg)
        latent = min(self.latent, len(data) - 1)
        if self.solver == "pca":
            plane = principal_components(self._matrix(data), latent)
            weight, mean = plane.directions, plane.mean.float()
            self.detector.weight, self.detector.bias = weight, mean
            self.detector.code_bias = -(weight @ mean)
            return
        (first,) = next(iter(data.batches(1))).frozen
        bound = math.sqrt(6 / (latent + first.shape[1]))  # Xavier
        generator = torch.Generator().manual_seed(stream(self.setup.seed, 3))
        drawn = torch.rand(latent, first.shape[1], generator=generator)
        self.detector.weight = ((2 * drawn - 1) * bound).to(self.setup.device)
        self.detector.code_bias = torch.zeros(latent, device=self.setup.device)
        self.detector.bias = torch.zeros(first.shape[1], device=self.setup.device)

    def _matrix(self, data: LearningData) -> Tensor:
        chosen = list(range(len(data)))
        if len(data) > MAX_PICTURES:
            generator = torch.Generator().manual_seed(stream(self.setup.seed, 3))
            chosen = torch.randperm(len(data), generator=generator)[:MAX_PICTURES].tolist()
            warnings.warn(
                f"{len(data):,} pictures are more than the {MAX_PICTURES:,} that FRE's closed form "
                'is computed from; a random part of that size is used. `solver="sgd"` takes all.',
                stacklevel=2,
            )
        batches = data.batches(self.setup.batch_size, order=chosen)
        return torch.cat([batch.frozen[0] for batch in batches])

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean squared error; see `GradientTrainer.losses`."""
        with torch.autocast(batch.images.device.type, enabled=False):
            return {"error": self.detector.error(batch.frozen[0]).square().mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam; none for the closed form; see `GradientTrainer.optimizers`."""
        if self.solver == "pca":
            return []
        detector = self.detector
        plane = [detector.weight, detector.code_bias, detector.bias]
        return [
            Optimization(optimizer=torch.optim.Adam([t.requires_grad_() for t in plane], self.lr))
        ]

    def conclude(self, data: LearningData, held_out: LearningData | None) -> None:
        """Let go of the gradients; see `GradientTrainer.conclude`."""
        for name in ("weight", "code_bias", "bias"):
            setattr(self.detector, name, getattr(self.detector, name).detach())
