"""How EfficientAD's teacher is made: a small network imitates a large one on any pictures.

The small one is a patch description network, the large one's features are `ad.distill.targets`,
brought to mean 0 and deviation 1.

Source: Batzner, Heckler, König, "EfficientAD", WACV 2024, arXiv 2303.14535, section 3.1 and
its appendix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    Advance,
    Detector,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    Side,
    WeightDecay,
    in_precision,
    stream,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, ImagenetNorm, upsample
from ad.distill.pdn import CHANNELS, ChannelScale, Pdn, Size, luminance
from ad.distill.targets import TargetFeatures

STATISTICS = 10_000
"""Pictures that the mean and deviation of the features are taken over, at most."""


@final
class TeacherDetector(Detector):
    """The small network beside the features it imitates; its score is how badly it does.

    Args:
        targets: The large network's features.
        pdn: The small network, with padding.
    """

    def __init__(self, targets: TargetFeatures, pdn: Pdn) -> None:
        super().__init__()
        self.normalize = ImagenetNorm()
        self.targets = targets
        self.scale = ChannelScale(CHANNELS)
        self.pdn = pdn

    def gap(self, images: Tensor) -> Tensor:
        """Squared error at each position, ``[B, 384, h, w]``, float32.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], at the large network's size.
        """
        half = F.interpolate(
            images, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False
        )
        x = self.normalize(half)
        with in_precision(self.targets.extractor.precision, x.device):
            learnt = self.pdn(x)
        with torch.no_grad():
            taught = self.scale(self.targets(images))
        gap: Tensor = (taught - learnt.float()).square()
        return gap

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The mean squared error of each position, and of each image.

        Raises:
            NotFittedError: If nothing has been distilled.
        """
        self.require_fitted()
        error = self.gap(images).mean(1)
        anomaly_map = upsample(error, (images.shape[2], images.shape[3]))
        return Prediction(error.mean(dim=(1, 2)), anomaly_map)


@final
class TeacherTrainer(GradientTrainer):
    """Trains the small network.

    Args:
        setup: What the run sets; ``img_size`` is the large network's.
        backbone: A timm model name.
        model_size: Of the patch description network.
        layers: Of the backbone, from shallow to deep; the first of stride 8.
        crop: Side of the random squares to learn from; None for whole pictures.
        lr: Learning rate of Adam.
        weight_decay: Its weight decay.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: TeacherDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name,
        model_size: Size,
        layers: Layers = ("layer2", "layer3"),
        crop: Side | None = None,
        lr: LearningRate = 1e-4,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        if not setup.img_size.divides(32, 64):
            msg = (
                "The pictures a teacher is distilled from must be a multiple of 32 pixels wide, "
                f"from 64; got {setup.img_size.typed}."
            )
            raise SettingError(msg)
        if crop is not None and (crop % 32 or not 64 <= crop <= min(setup.img_size)):
            msg = (
                "`crop` must be a multiple of 32 from 64 to the side of the pictures, "
                f"{min(setup.img_size)}; got {crop}."
            )
            raise SettingError(msg)
        self.crop = crop
        self.lr = lr
        self.weight_decay = weight_decay
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        if extractor.strides[0] != 8:
            msg = (
                f"The first of `layers` must have stride 8, so that its cells are those of the "
                f"patch description network; `{layers[0]}` of `{extractor.name}` has "
                f"{extractor.strides[0]}."
            )
            raise SettingError(msg)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            pdn = Pdn(model_size, padding=True)
        self.detector = TeacherDetector(TargetFeatures(extractor), pdn)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    def modules(self) -> Mapping[str, nn.Module]:
        """The small network and the scale of the features; the large one never changes."""
        return {"pdn": self.detector.pdn, "scale": self.detector.scale}

    def prepare(self, data: LearningData) -> None:
        """Measure the features' channels; see `GradientTrainer.prepare`."""
        setup = self.setup
        chosen = list(range(len(data)))
        if len(data) > STATISTICS:
            generator = np.random.default_rng((setup.seed, 3))
            chosen = generator.choice(len(data), STATISTICS, replace=False).tolist()
        with (
            torch.no_grad(),
            setup.progress.step("measuring", total=len(chosen), unit="pictures") as advance,
        ):
            self.detector.scale.measure(
                _counted(batch, self.detector.targets(batch.images), advance)
                for batch in data.batches(setup.batch_size, order=chosen)
            )

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean squared error, a tenth of the pictures made grey."""
        images = []
        for row, image in enumerate(batch.images):
            generator = batch.generator(row)
            seen = grey(image) if torch.rand((), generator=generator) < 0.1 else image
            images.append(seen if self.crop is None else random_square(seen, self.crop, generator))
        return {"error": self.detector.gap(torch.stack(images)).mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a constant rate; see `GradientTrainer.optimizers`."""
        parameters = self.detector.pdn.parameters()
        adam = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        return [Optimization(optimizer=adam)]


def grey(image: Tensor) -> Tensor:
    """The luminance of ``[3, H, W]`` in all three channels."""
    return luminance(image).expand_as(image)


def random_square(image: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square part of ``[C, H, W]`` anywhere inside it."""
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator)) for length in image.shape[1:]
    )
    return image[:, top : top + side, left : left + side]


def _counted(batch: LearningBatch, maps: Tensor, advance: Advance) -> Tensor:
    advance(len(batch.indices))
    return maps
