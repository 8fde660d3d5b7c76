"""Reverse Distillation: a decoder rebuilds a teacher's features from a narrow code of them.

The teacher's feature maps are fused and squeezed into one small code, and a student decoder turns
that back into the maps, deepest first. The code has room for what good parts look like and no
more, so features of a defect do not come back.

Paper: Deng, Li, "Anomaly Detection via Reverse Distillation from One-Class Embedding", CVPR 2022,
arXiv 2201.10703. Official code: hq-deng/RD4AD, MIT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    in_precision,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import (
    RESNETS,
    FeatureExtractor,
    FusedSequential,
    GaussianBlur,
    ResidualBlock,
    ResidualDecoder,
    halving,
)

STRIDE = 32
"""Pixels along the side of a cell of the code."""

_SIGMA = 4.0  # of the map's smoothing, in pixels


@final
class ReverseDistillationDetector(Detector):
    """Scores each position by the angle between the teacher's and the rebuilt features.

    Args:
        teacher: The frozen network, with layers 1 to 3.
        bottleneck: Maps to code.
        decoder: Code to maps.
    """

    def __init__(
        self, teacher: FeatureExtractor, bottleneck: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.blur = GaussianBlur(_SIGMA)
        trained_flag(self)

    def rebuild(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's maps from their code, shallow to deep, in the teacher's precision."""
        with in_precision(self.teacher.precision, maps[0].device):
            rebuilt: list[Tensor] = self.decoder(self.bottleneck(maps))
        return rebuilt

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed sums over the layers of 1 minus the cosine, each from 0 to 2, and the largest
            of each image as its score.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If a side of the images is not a multiple of 32.
        """
        self.require_fitted()
        size = (images.shape[2], images.shape[3])
        if size[0] % STRIDE or size[1] % STRIDE:
            msg = (
                f"Reverse Distillation takes pictures whose sides are multiples of {STRIDE} "
                f"pixels; got {size[0]} x {size[1]}. Resize them."
            )
            raise SettingError(msg)
        taught = self.teacher(images)
        total = images.new_zeros(images.shape[0], *size)
        for theirs, ours in zip(taught, self.rebuild(taught), strict=True):
            angle = 1 - F.cosine_similarity(theirs.float(), ours.float(), dim=1)
            # Corners aligned, as the authors resize.
            total = (
                total
                + F.interpolate(angle[:, None], size=size, mode="bilinear", align_corners=True)[
                    :, 0
                ]
            )
        anomaly_map = self.blur(total)
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


@final
class ReverseDistillationTrainer(GradientTrainer):
    """Trains the bottleneck and the decoder.

    Args:
        setup: What the run sets.
        backbone: One of resnet18, resnet34, resnet50, wide_resnet50_2.
        layers: The three that the decoder mirrors; no others.
        lr: Learning rate of Adam. The authors use 0.005 with batches of 16; half of it goes with
            batches of 8.
        per_pixel: Whether the loss takes the cosine at each position, as in the paper's equation,
            or of each map as one vector, as in the authors' code.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: ReverseDistillationDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer1", "layer2", "layer3"),
        lr: LearningRate = 0.0025,
        per_pixel: bool = False,
    ) -> None:
        super().__init__(setup)
        plain = backbone.partition(".")[0]
        if plain not in RESNETS:
            allowed = ", ".join(f"`{name}`" for name in RESNETS)
            msg = f"`backbone` of Reverse Distillation must be one of {allowed}; got `{backbone}`."
            raise SettingError(msg)
        if layers != ("layer1", "layer2", "layer3"):
            msg = (
                "`layers` of Reverse Distillation must be layer1, layer2, layer3: its decoder "
                f"mirrors these; got {', '.join(layers)}."
            )
            raise SettingError(msg)
        if not setup.img_size.divides(STRIDE, 2 * STRIDE):
            msg = (
                f"`img_size` of Reverse Distillation must be a multiple of {STRIDE}, so that the "
                f"decoder meets the teacher's maps, from {2 * STRIDE}: at {STRIDE} the code is a "
                f"single cell, which a batch of one picture has no deviation for; got "
                f"{setup.img_size.typed}. Near it are {setup.img_size.near(STRIDE, 2 * STRIDE)}."
            )
            raise SettingError(msg)
        self.lr = lr
        self.per_pixel = per_pixel
        teacher = FeatureExtractor(backbone, layers, setup=setup)
        stages, width = RESNETS[plain]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            bottleneck = Bottleneck(width, stages[0])
            decoder = ResidualDecoder(width, stages)
            for module in (*bottleneck.modules(), *decoder.modules()):
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.detector = ReverseDistillationDetector(teacher, bottleneck, decoder)
        self.detector.to(setup.device).to(memory_format=torch.channels_last)
        self.detector.eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The teacher's maps; see `GradientTrainer.frozen`."""
        return self.detector.teacher(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """One minus the cosine of each layer; see `GradientTrainer.losses`."""
        losses = {}
        pairs = zip(batch.frozen, self.detector.rebuild(batch.frozen), strict=True)
        for number, (taught, learnt) in enumerate(pairs, start=1):
            theirs, ours = taught.float(), learnt.float()
            if not self.per_pixel:  # reshape, since maps are channels-last in memory
                theirs, ours = theirs.flatten(1), ours.flatten(1)
            losses[f"layer{number}"] = (1 - F.cosine_similarity(theirs, ours, dim=1)).mean()
        return losses

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a constant rate; see `GradientTrainer.optimizers`."""
        student = [*self.detector.bottleneck.parameters(), *self.detector.decoder.parameters()]
        return [Optimization(optimizer=torch.optim.Adam(student, self.lr, betas=(0.5, 0.999)))]


@final
class Bottleneck(nn.Module):
    """Fuses three maps and squeezes them into one code: the paper's MFF and OCE.

    Args:
        width: Of the inner convolution of a bottleneck; None for basic blocks.
        num_blocks: Blocks of the last stage.
    """

    def __init__(self, width: int | None, num_blocks: int) -> None:
        super().__init__()
        expansion = 1 if width is None else 4
        c1, c2, c3 = (channels * expansion for channels in (64, 128, 256))
        self.from_first = FusedSequential(*halving(c1, c2), *halving(c2, c3))
        self.from_second = FusedSequential(*halving(c2, c3))
        stage = [ResidualBlock(3 * c3, 512, width, resize="halve")]
        stage += [ResidualBlock(512 * expansion, 512, width) for _ in range(num_blocks - 1)]
        self.stage = nn.Sequential(*stage)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Squeeze ``[B, C, h, w]`` of strides 4, 8 and 16 into ``[B, 512 E, h / 8, w / 8]``."""
        fused = torch.cat([self.from_first(maps[0]), self.from_second(maps[1]), maps[2]], 1)
        code: Tensor = self.stage(fused)
        return code
