"""STFPM: a student imitates a teacher's feature pyramid on good pictures; the score is the gap.

The student has the teacher's architecture but learns from good parts alone. On what it never saw
its features, normalised at each position, differ from the teacher's, at any of three scales.

Paper: Wang, Han, Ding, Huang, "Student-Teacher Feature Pyramid Matching for Anomaly Detection",
BMVC 2021, arXiv 2103.04257. Official code: gdwang08/STFPM, GPL-3.0; nothing here comes from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.core import (
    Detector,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    WeightDecay,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, fresh_network, upsample


@final
class StfpmDetector(Detector):
    """Scores each position by how far the student is from the teacher there.

    Args:
        teacher: The frozen network.
        student: The same architecture, to be trained.
    """

    def __init__(self, teacher: FeatureExtractor, student: torch.nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.student = student
        trained_flag(self)

    def imitate(self, images: Tensor) -> list[Tensor]:
        """The student's maps, ``[B, C, h, w]`` each, in the teacher's precision."""
        return self.teacher.show(images, self.student)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The product of the layers' gaps, in 0 to ``4 ** layers``, and the largest of each
            image as its score.

        Raises:
            NotFittedError: If the detector has not been trained.
        """
        self.require_fitted()
        pairs = zip(self.teacher(images), self.imitate(images), strict=True)
        gaps = [gap(taught, learnt) for taught, learnt in pairs]
        grid = (gaps[0].shape[1], gaps[0].shape[2])
        product = torch.stack([upsample(each, grid) for each in gaps]).prod(0)
        anomaly_map = upsample(product, (images.shape[2], images.shape[3]))
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


def gap(taught: Tensor, learnt: Tensor) -> Tensor:
    """Squared distance of two feature maps, each of length 1 at every position.

    Args:
        taught: ``[B, C, h, w]``.
        learnt: Of the same shape.

    Returns:
        ``[B, h, w]``, float32, from 0 to 4.
    """
    difference = F.normalize(taught.float(), dim=1) - F.normalize(learnt.float(), dim=1)
    return difference.square().sum(dim=1)


@final
class StfpmTrainer(GradientTrainer):
    """Trains the student; keeps the epoch that reproduces held-out good pictures best.

    Args:
        setup: What the run sets.
        backbone: A timm model name, of the teacher and the student.
        layers: From shallow to deep; the first one's grid is where maps are multiplied.
        lr: Learning rate of SGD with momentum 0.9.
        weight_decay: Its weight decay.
        zero_init_last: Whether the last batch norm of each of the student's residual blocks starts
            at zero, as timm starts it, so that blocks are their shortcuts at first; at one, as the
            authors have it, if not. The package's README has what either reached. Backbones
            without such blocks start as timm starts them.

    Raises:
        SettingError: If an option has a value that cannot work, or pictures are too small.
        WeightsError: If the teacher has no weights.
    """

    detector: StfpmDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layers: Layers = ("layer1", "layer2", "layer3"),
        lr: LearningRate = 0.4,
        weight_decay: WeightDecay = 1e-4,
        zero_init_last: bool = False,
    ) -> None:
        super().__init__(setup)
        self.lr = lr
        self.weight_decay = weight_decay
        teacher = FeatureExtractor(backbone, layers, setup=setup)
        if max(setup.img_size) <= (stride := max(teacher.strides)):
            msg = (
                f"`img_size` of STFPM must be above {stride}, the pixels of a cell of its deepest "
                "layer: a single cell is all that a batch of one picture would have, and has no "
                f"deviation; got {setup.img_size.typed}. Give larger pictures, or shallower "
                "`layers`."
            )
            raise SettingError(msg)
        student = fresh_network(backbone, layers, seed=setup.seed, zero_init_last=zero_init_last)
        self.detector = StfpmDetector(teacher, student).to(setup.device)
        self.detector.eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The teacher's maps; see `GradientTrainer.frozen`."""
        return self.detector.teacher(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean gap of each layer; see `GradientTrainer.losses`."""
        pairs = zip(batch.frozen, self.detector.imitate(batch.images), strict=True)
        return {
            f"layer{number}": gap(taught, learnt).mean()
            for number, (taught, learnt) in enumerate(pairs, start=1)
        }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """SGD at a constant rate; see `GradientTrainer.optimizers`."""
        parameters = self.detector.student.parameters()
        sgd = torch.optim.SGD(parameters, self.lr, momentum=0.9, weight_decay=self.weight_decay)
        return [Optimization(optimizer=sgd)]

    def monitor(self, images: Tensor) -> Tensor:
        """The mean of each held-out picture's map; see `GradientTrainer.monitor`."""
        anomaly_map = self.detector(images).map
        return anomaly_map.mean(dim=(1, 2))  # type: ignore[no-any-return]  # untyped in torch
