"""The smallest whole model that learns by gradient: a linear student of a fixed random teacher.

For tests of the loop, and a pattern for one's own. It needs no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import torch
from torch import Tensor, nn

from ad.core.data.learning import LearningBatch
from ad.core.detector import Detector, Prediction, trained_flag
from ad.core.options import Field
from ad.core.trainer import GradientTrainer, Optimization, Setup

_CHANNELS = 4


@final
class LinearStudentDetector(Detector):
    """Scores each pixel by how far a linear student is from a teacher with a bend."""

    def __init__(self, *, dropout: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.teacher = nn.Conv2d(3, _CHANNELS, 3, padding=1)
            self.student = nn.Conv2d(3, _CHANNELS, 1)
        self.teacher.requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        trained_flag(self)

    def taught(self, images: Tensor) -> Tensor:
        """What the teacher says, ``[B, 4, H, W]``."""
        taught: Tensor = self.teacher(images).tanh()
        return taught

    def gap(self, images: Tensor, taught: Tensor) -> Tensor:
        """Squared distance of student and teacher, ``[B, H, W]``, float32."""
        learnt: Tensor = self.dropout(self.student(images))
        return (learnt.float() - taught.float()).square().mean(1)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`."""
        self.require_fitted()
        map_ = self.gap(images, self.taught(images))
        return Prediction(map_.amax((1, 2)), map_)


class LinearStudentTrainer(GradientTrainer):
    """Trains the student.

    Args:
        setup: What the run tells every trainer.
        dropout: Share of the student's outputs that are left out while it learns.
    """

    detector: LinearStudentDetector

    def __init__(self, setup: Setup, *, dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0) -> None:
        super().__init__(setup)
        self.detector = LinearStudentDetector(dropout=dropout, seed=setup.seed).to(setup.device)

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The teacher's maps; see `GradientTrainer.frozen`."""
        return (self.detector.taught(images),)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean gap; see `GradientTrainer.losses`."""
        return {"gap": self.detector.gap(batch.images, batch.frozen[0]).mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam; see `GradientTrainer.optimizers`."""
        return [Optimization(optimizer=torch.optim.Adam(self.detector.student.parameters(), 0.05))]
