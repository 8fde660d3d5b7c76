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
from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
from torch import Tensor

from ad.core import (
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Setup,
    stream,
)
from ad.core.networks import (
    FeatureExtractor,
    SubspaceDetector,
    pictures_of_plane,
    principal_components,
)

Solver = Literal["pca", "sgd"]

MAX_PICTURES = 4096
"""Pictures the closed form is computed from; of more, a random choice is taken."""


@final
class FreDetector(SubspaceDetector):
    """Scores each cell by the squared error of its features' reconstruction, a picture by all."""

    title = "FRE"


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
        closed = self.solver == "pca"
        chosen = pictures_of_plane(
            len(data),
            MAX_PICTURES if closed else len(data),
            seed=self.setup.seed,
            title=self.detector.title,
            hint=' `solver="sgd"` takes all.',
        )
        latent = min(self.latent, len(data) - 1)
        if closed:
            batches = data.batches(self.setup.batch_size, order=chosen)
            rows = torch.cat([batch.frozen[0] for batch in batches])
            self.detector.span(principal_components(rows, latent))
            return
        (first,) = next(iter(data.batches(1))).frozen
        bound = math.sqrt(6 / (latent + first.shape[1]))  # Xavier
        generator = torch.Generator().manual_seed(stream(self.setup.seed, 3))
        drawn = torch.rand(latent, first.shape[1], generator=generator)
        self.detector.weight = ((2 * drawn - 1) * bound).to(self.setup.device)
        self.detector.code_bias = torch.zeros(latent, device=self.setup.device)
        self.detector.bias = torch.zeros(first.shape[1], device=self.setup.device)

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

    @classmethod
    def uses_held_out(cls) -> bool:
        """No: `conclude` asks what was learnt from; see `GradientTrainer.uses_held_out`."""
        return False

    def conclude(self, data: LearningData, held_out: LearningData | None) -> None:
        """Let go of the gradients; see `GradientTrainer.conclude`."""
        for name in ("weight", "code_bias", "bias"):
            setattr(self.detector, name, getattr(self.detector, name).detach())
