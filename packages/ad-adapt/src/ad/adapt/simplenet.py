"""SimpleNet: tell patches of good parts from the same patches with noise on their features.

A linear layer adapts the patches of a frozen network; noise on what it says stands for defects,
and a small discriminator learns to tell both apart. What it takes for noise is anomalous.

Paper: Liu, Zhou, Xu, Wang, "SimpleNet: A Simple Network for Image Anomaly Detection and
Localization", CVPR 2023, arXiv 2303.15140. Official code: DonaldRR/SimpleNet, MIT. Its figures
are of the epoch that is best on the test pictures; here the last one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
from torch import Tensor, nn

from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    stream,
    trained_flag,
)
from ad.core.networks import (
    ConcatenatedPatches,
    FeatureExtractor,
    GaussianBlur,
    PooledPatches,
    upsample,
)

Embedding = Literal["pooled", "concatenated"]

_FEATURES = 1536  # of a pooled patch, for each layer and in all, in the official code
_HIDDEN = 1024
_SLOPE = 0.2  # of the discriminator below zero
_SIGMA = 4.0  # of the map's smoothing, in pixels
_ADAPTOR_DECAY, _DISCRIMINATOR_DECAY = 1e-2, 1e-5  # of weights, in the official code


@final
class SimplenetDetector(Detector):
    """Scores each patch by how much the discriminator takes it for noise.

    Args:
        extractor: The frozen network.
        patches: How its maps become patches.
        head: The layers that learn.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        patches: PooledPatches | ConcatenatedPatches,
        head: Head,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.patches = patches
        self.head = head
        self.blur = GaussianBlur(_SIGMA)
        trained_flag(self)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed patch scores, around -0.5 where good; an image's score is its largest before
            smoothing.

        Raises:
            NotFittedError: If the detector has not been trained.
        """
        self.require_fitted()
        patches: Tensor = self.patches(self.extractor(images))
        batch, height, width, _ = patches.shape
        with torch.autocast(images.device.type, enabled=False):
            likeness = self.head.discriminator(self.head.adaptor(patches.flatten(0, 2)))
        patch_score = -likeness.view(batch, height, width)
        anomaly_map = self.blur(upsample(patch_score, (images.shape[2], images.shape[3])))
        return Prediction(patch_score.amax(dim=(1, 2)), anomaly_map)


@final
class Head(nn.Module):
    """What learns: the adaptor and the discriminator.

    Args:
        num_features: Of a patch.
        hidden: Of the discriminator.
    """

    def __init__(self, num_features: int, hidden: int = _HIDDEN) -> None:
        super().__init__()
        self.adaptor = nn.Linear(num_features, num_features)
        self.discriminator = nn.Sequential(
            nn.Linear(num_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.LeakyReLU(_SLOPE),
            nn.Linear(hidden, 1, bias=False),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)

    def forward(self, patches: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """How much patches, ``[N, D]``, and patches with noise look like good ones, ``[N]`` each.

        Both go through the discriminator at once: its batch statistics are of both.
        """
        adapted = self.adaptor(patches)
        both = self.discriminator(torch.cat([adapted, adapted + noise]))[:, 0]
        good, broken = both.chunk(2)
        return good, broken


@final
class SimplenetTrainer(GradientTrainer):
    """Trains adaptor and discriminator on patches that are computed once.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; the first one's grid is the map's.
        embedding: ``"pooled"``: PatchCore's pooling to 1536 features, as the authors do.
            ``"concatenated"``: the layers' averages side by side, as many features as they have
            channels.
        noise: Standard deviation of the noise.
        margin: Up to where a patch is pushed to either side.
        adaptor_lr: Learning rate of the adaptor.
        lr: Learning rate of the discriminator.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: SimplenetDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer2", "layer3"),
        embedding: Embedding = "pooled",
        noise: Annotated[float, Field(gt=0, le=100)] = 0.015,
        margin: Annotated[float, Field(gt=0, le=100)] = 0.5,
        adaptor_lr: LearningRate = 1e-4,
        lr: LearningRate = 2e-4,
    ) -> None:
        super().__init__(setup)
        self.noise = noise
        self.margin = margin
        self.adaptor_lr = adaptor_lr
        self.lr = lr
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        patches: PooledPatches | ConcatenatedPatches = (
            PooledPatches(extractor.channels, _FEATURES, per_layer=_FEATURES)
            if embedding == "pooled"
            else ConcatenatedPatches(extractor.channels)
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            head = Head(patches.num_features)
        self.detector = SimplenetDetector(extractor, patches, head).to(setup.device)
        self.detector.eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps, from which patches are made; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How far patches are from their sides of the margin; see `GradientTrainer.losses`."""
        # The noise is as small as what bf16 leaves out of a feature.
        with torch.autocast(batch.images.device.type, enabled=False):
            patches = self.detector.patches(batch.frozen).flatten(0, 2)
            noise = self.noise * torch.randn_like(patches)
            good, broken = self.detector.head(patches, noise)
            return {
                "good": (self.margin - good).relu().mean(),
                "broken": (self.margin + broken).relu().mean(),
            }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """AdamW for the adaptor and Adam for the discriminator; see `GradientTrainer.optimizers`.

        Both are one optimiser of two groups: they minimise the same, and go backward once.
        """
        head = self.detector.head
        adaptor = {
            "params": list(head.adaptor.parameters()),
            "lr": self.adaptor_lr,
            "weight_decay": _ADAPTOR_DECAY,
            "decoupled_weight_decay": True,
        }
        discriminator = {
            "params": list(head.discriminator.parameters()),
            "lr": self.lr,
            "weight_decay": _DISCRIMINATOR_DECAY,
        }
        return [Optimization(optimizer=torch.optim.Adam([adaptor, discriminator]))]
