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
from ad.core.networks import FeatureExtractor, GaussianBlur

STRIDE = 32
"""Pixels along the side of a cell of the code."""

_SIGMA = 4.0  # of the map's smoothing, in pixels

# What the decoder mirrors: blocks of each stage from deep to shallow, and the width of the inner
# convolution of a bottleneck against ResNet-50's; None where blocks have two 3 x 3 convolutions.
_STAGES: dict[str, tuple[tuple[int, int, int], int | None]] = {
    "resnet18": ((2, 2, 2), None),
    "resnet34": ((3, 4, 6), None),
    "resnet50": ((3, 4, 6), 1),
    "wide_resnet50_2": ((3, 4, 6), 2),
}


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
        total = images.new_zeros(len(images), *size)
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
        if plain not in _STAGES:
            allowed = ", ".join(f"`{name}`" for name in _STAGES)
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
        stages, width = _STAGES[plain]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            bottleneck, decoder = Bottleneck(width, stages[0]), Decoder(width, stages)
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
        self.from_first = nn.Sequential(*_halving(c1, c2), *_halving(c2, c3))
        self.from_second = nn.Sequential(*_halving(c2, c3))
        stage = [Block(3 * c3, 512, width, resize="halve")]
        stage += [Block(512 * expansion, 512, width) for _ in range(num_blocks - 1)]
        self.stage = nn.Sequential(*stage)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Squeeze ``[B, C, h, w]`` of strides 4, 8 and 16 into ``[B, 512 E, h / 8, w / 8]``."""
        fused = torch.cat([self.from_first(maps[0]), self.from_second(maps[1]), maps[2]], 1)
        code: Tensor = self.stage(fused)
        return code


@final
class Decoder(nn.Module):
    """Rebuilds the maps from the code, deepest first.

    Args:
        width: As in `Bottleneck`.
        stages: Blocks of each stage, from deep to shallow.
    """

    def __init__(self, width: int | None, stages: Sequence[int]) -> None:
        super().__init__()
        expansion = 1 if width is None else 4
        channels = 512 * expansion
        self.stages = nn.ModuleList()
        for planes, count in zip((256, 128, 64), stages, strict=True):
            blocks = [Block(channels, planes, width, resize="double")]
            channels = planes * expansion
            blocks += [Block(channels, planes, width) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, code: Tensor) -> list[Tensor]:
        """Rebuild the maps, shallow to deep, from ``[B, 512 E, h, w]``."""
        maps = []
        for stage in self.stages:
            code = stage(code)
            maps.append(code)
        return maps[::-1]


@final
class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions, or 1 x 1, 3 x 3, 1 x 1.

    Args:
        channels: Of what comes in.
        planes: Of what goes out, times 4 for three convolutions.
        width: Of the inner convolution against ``planes``; None for two convolutions.
        resize: Whether the map's sides are halved, doubled or kept.
    """

    def __init__(
        self, channels: int, planes: int, width: int | None, resize: str | None = None
    ) -> None:
        super().__init__()
        out = planes if width is None else planes * 4
        if width is None:
            layers = [
                *_resizing(channels, planes, 3, resize), nn.ReLU(),
                *_resizing(planes, planes, 3, None),
            ]  # fmt: skip
        else:
            inner = planes * width
            layers = [
                *_resizing(channels, inner, 1, None), nn.ReLU(),
                *_resizing(inner, inner, 3, resize), nn.ReLU(),
                *_resizing(inner, out, 1, None),
            ]  # fmt: skip
        self.main = nn.Sequential(*layers)
        same = resize is None and channels == out
        self.side = nn.Identity() if same else nn.Sequential(*_resizing(channels, out, 1, resize))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to ``[B, out, h', w']``."""
        return F.relu(self.main(x) + self.side(x))


def _resizing(channels: int, out: int, kernel: int, resize: str | None) -> list[nn.Module]:
    if resize == "double":
        return [nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False), nn.BatchNorm2d(out)]
    stride = 2 if resize == "halve" else 1
    conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(out)]


def _halving(channels: int, out: int) -> list[nn.Module]:
    return [*_resizing(channels, out, 3, "halve"), nn.ReLU()]
