"""SuperSimpleNet: two small heads learn to tell features of good parts from noisy ones.

Feature maps of a frozen network are enlarged, averaged over their neighbours and adapted. Noise is
laid over blotches of them; one head learns where it lies, the other one whether there is any. True
defects, where there are some to learn from, take the place of the noise beside it, with masks or
without.

Papers: Rolih, Fučka, Skočaj, "SuperSimpleNet: Unifying Unsupervised and Supervised Learning for
Fast and Reliable Surface Defect Detection", ICPR 2024, arXiv 2408.03143; and "No Label Left Behind:
A Unified Surface Defect Detection Model for all Supervision Regimes", JIMS 2025, arXiv 2508.19060.
Official code: blaz-r/SuperSimpleNet, MIT.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
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
    Truth,
    in_precision,
    stream,
    trained_flag,
)
from ad.core.networks import FeatureExtractor, GaussianBlur, upsample
from ad.core.synth import perlin_noise

_HIDDEN = 1024  # channels in the segmenting head
_CLASSIFYING = 128  # channels in the classifying head
_MARGIN = 0.5
_GUESSING = 0.8  # of both gaps together; a map that is the same everywhere has 1
_FOCUS = 4  # exponent of the focal losses
_COPIES = 2  # of each picture in a batch, each with noise of its own
_MOST_CELLS, _LEAST_CELL = 5, 2  # of Perlin noise: exponent of 2; feature cells

Threshold = Annotated[float, Field(ge=-1, le=1)]
Deviation = Annotated[float, Field(gt=0, le=10)]


class Judgement(NamedTuple):
    """What both heads say of features."""

    maps: Tensor
    """``[B, 1, h, w]``: above 0.5 where defective, below -0.5 where good, as it is taught."""
    logits: Tensor
    """``[B]``: of being defective."""


@final
class SupersimplenetDetector(Detector):
    """Scores a picture by the classifying head, and its pixels by the segmenting one.

    Args:
        extractor: The frozen network.
        classify_adapted: Whether the classifying head sees adapted features, or those of the
            frozen network.
        hidden: Channels in the segmenting head.
    """

    def __init__(
        self, extractor: FeatureExtractor, *, classify_adapted: bool, hidden: int = _HIDDEN
    ) -> None:
        super().__init__()
        channels = sum(extractor.channels)
        self.extractor = extractor
        self.classify_adapted = classify_adapted
        self.adapt = nn.Conv2d(channels, channels, 1)
        self.segment = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, 1, 1, bias=False),
        )
        self.classify = ClassifyingHead(channels)
        self.blur = GaussianBlur(4.0, radius=12, border="reflect")  # torchvision's 25 x 25
        trained_flag(self)

    def judge(self, features: Tensor, adapted: Tensor, *, apart: bool = False) -> Judgement:
        """Ask both heads.

        Args:
            features: ``[B, C, h, w]``, of the frozen network.
            adapted: The same, adapted.
            apart: Whether no gradient of the classifying head reaches the segmenting one.
        """
        maps = self.segment(adapted)
        seen = adapted if self.classify_adapted else features
        return Judgement(maps, self.classify(seen, maps.detach() if apart else maps))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The segmenting head's map, smoothed, and the logit of being defective as the score: the
            paper's score is its sigmoid, which is 1 for all that are clearly defective.

        Raises:
            NotFittedError: If the detector has not been trained.
        """
        self.require_fitted()
        with in_precision(self.extractor.precision, images.device):
            features = fused(self.extractor(images))
            maps, logits = self.judge(features, self.adapt(features))
        large = upsample(maps[:, 0].float(), (images.shape[2], images.shape[3]))
        return Prediction(logits.float(), self.blur(large))


@final
class ClassifyingHead(nn.Module):
    """One number for each picture from its features and its map.

    Args:
        channels: Of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 1, _CLASSIFYING, 5, padding=2)
        self.norm = nn.BatchNorm2d(_CLASSIFYING)
        self.linear = nn.Linear(2 * _CLASSIFYING + 2, 1)

    def forward(self, features: Tensor, maps: Tensor) -> Tensor:
        """``[B, C, h, w]`` and ``[B, 1, h, w]`` to logits ``[B]``."""
        x = F.relu(self.norm(self.conv(torch.cat([features, maps.to(features.dtype)], dim=1))))
        pooled = [
            pool for one in (x, maps) for pool in (one.amax(dim=(2, 3)), one.mean(dim=(2, 3)))
        ]
        logits: Tensor = self.linear(torch.cat([one.float() for one in pooled], dim=1))
        return logits[:, 0]


def fused(maps: Sequence[Tensor]) -> Tensor:
    """Maps of several layers on one grid, twice as fine as the first one's, averaged over 3 x 3.

    Args:
        maps: ``[B, C, h, w]`` each, from fine to coarse.

    Returns:
        ``[B, sum of C, 2 h, 2 w]``.
    """
    size = (2 * maps[0].shape[2], 2 * maps[0].shape[3])
    # Corners aligned, as the authors resize.
    large = [F.interpolate(one, size=size, mode="bilinear", align_corners=True) for one in maps]
    return F.avg_pool2d(torch.cat(large, dim=1), 3, stride=1, padding=1)


def blotches(
    size: tuple[int, int],
    generators: Sequence[torch.Generator],
    *,
    threshold: float,
    device: torch.device,
) -> Tensor:
    """Draw where noise goes: Perlin noise above a threshold, or nowhere, one as often as the other.

    The lattice has a power of two cells along each side, from 1 to 32, each at least two feature
    cells wide.

    Args:
        size: Height and width in feature cells.
        generators: One for each mask, on the CPU.
        threshold: Of the noise, which reaches from -1 to 1.
        device: Where the masks are wanted.

    Returns:
        ``[B, 1, h, w]``, float32, 0 or 1.
    """
    whole = tuple(1 << (side - 1).bit_length() for side in size)
    most = [min(_MOST_CELLS, (side // _LEAST_CELL).bit_length() - 1) for side in whole]
    lines = 2**_MOST_CELLS + 1
    numbers = torch.stack([torch.rand(3 + lines**2, generator=g) for g in generators]).to(device)
    limits = torch.tensor([max(0, one) + 1 for one in most], device=device)
    cells = 2 ** (numbers[:, :2] * limits).long()
    angles = 2 * math.pi * numbers[:, 3:].reshape(-1, lines, lines)
    noise = perlin_noise(angles, cells, (whole[0], whole[1]))[:, None]
    noise = F.interpolate(noise, size=size, mode="bilinear", align_corners=False)
    return (noise > threshold).float() * (numbers[:, 2] < 0.5).float()[:, None, None, None]


class Questions(NamedTuple):
    """Where noise is laid over features, and what the right answers are."""

    noisy: Tensor
    """``[B, 1, h, w]``: 1 where noise goes."""
    masks: Tensor
    """``[B, 1, h, w]``: 1 where there is noise or a true defect."""
    labels: Tensor
    """``[B]``: 1 for pictures with either."""


def questions(masks: Tensor, truth: Truth | None) -> Questions:
    """Keep noise off true defects.

    A defective picture without a mask is good everywhere as far as the map is taught, and
    defective as a whole, as the authors have it.

    Args:
        masks: ``[k B, 1, h, w]``: where noise would go, for copies of ``B`` pictures.
        truth: What is known of the pictures; None if all are good.
    """
    labels, noisy = masks.new_zeros(masks.shape[0]), masks
    if truth is not None:
        copies = masks.shape[0] // truth.labels.shape[0]
        true = masks_at(truth.masks, (masks.shape[2], masks.shape[3])).repeat(copies, 1, 1, 1)
        noisy = masks * (1 - true)
        masks = torch.maximum(noisy, true)
        labels = truth.labels.repeat(copies)
    return Questions(noisy, masks, torch.maximum(labels, masks.amax(dim=(1, 2, 3))))


def masks_at(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks ``[B, H, W]`` at the size of features, ``[B, 1, h, w]``: 1 where half is defective."""
    return (upsample(masks, size) >= 0.5).float()[:, None]


def truncated_gaps(maps: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How far pixels are on the wrong side of a margin: the mean over good, over defective ones.

    Args:
        maps: ``[B, 1, h, w]``.
        masks: Of the same shape, 1 where defective.

    Returns:
        Two scalars; 0 where there is no such pixel.
    """
    good, bad = 1 - masks, masks
    above = ((maps + _MARGIN).clamp_min(0) * good).sum() / good.sum().clamp_min(1)
    below = ((_MARGIN - maps).clamp_min(0) * bad).sum() / bad.sum().clamp_min(1)
    return above, below


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy that counts the less, the surer a logit is; the mean.

    Args:
        logits: Of any shape.
        targets: Of the same shape, 0 or 1.

    Source:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, without weights of classes.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wrong = torch.sigmoid((1 - 2 * targets) * logits)  # 1 minus the true class's probability
    return (entropy * wrong**_FOCUS).mean()


@final
class SupersimplenetTrainer(GradientTrainer):
    """Trains the adaptor and both heads.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From fine to coarse; features are twice as fine as the first one's.
        supervised: Whether defective pictures are learnt from, too, beside noise.
        classify_adapted: Whether the classifying head sees adapted features, as in the first paper,
            or those of the frozen network, as in the second one.
        threshold: Of the Perlin noise: how much of a picture noise is laid over. The authors take
            0.2 for MVTec AD, and 0.6 for VisA and wherever they learn from defects.
        noise_std: Deviation of the noise. The authors' 0.015 is for Wide ResNet-50. Beside features
            of ResNet-18 it is too faint: after 2,000 steps nothing was learnt from it, and from
            0.15 everything after 160.
        lr: Learning rate of AdamW for both heads; 0.4 times it after 80 % of the steps, 0.4 times
            that after 90.
        adaptor_lr: The same for the adaptor.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: SupersimplenetDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer2", "layer3"),
        supervised: bool = False,
        classify_adapted: bool = True,
        threshold: Threshold = 0.2,
        noise_std: Deviation = 0.015,
        lr: LearningRate = 2e-4,
        adaptor_lr: LearningRate = 1e-4,
    ) -> None:
        super().__init__(setup)
        self.supervised = supervised
        self.threshold = threshold
        self.noise_std = noise_std
        self.lr = lr
        self.adaptor_lr = adaptor_lr
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            self.detector = SupersimplenetDetector(extractor, classify_adapted=classify_adapted)
            for part in (self.detector.adapt, self.detector.segment, self.detector.classify):
                for module in part.modules():
                    if isinstance(module, nn.Conv2d | nn.Linear):
                        nn.init.xavier_normal_(module.weight)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()
        self.wrong: Tensor | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """That noise was not told from features at the last step; see `Trainer.notes`."""
        wrong = 0.0 if self.wrong is None else float(self.wrong)
        if wrong < _GUESSING:
            return ()
        return (
            f"SuperSimpleNet has not learnt to find noise in features: at the last step cells were "
            f"{wrong:.2f} on the wrong side of its margins, and 1 takes no knowledge. Figures say "
            f"little. Train longer (`--epochs`), or with louder noise, such as "
            f"`--set noise_std={10 * self.noise_std:.3g}`.",
        )

    @property
    def learns_from_defects(self) -> bool:
        """If it is supervised; see `Trainer.learns_from_defects`."""
        return self.supervised

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The frozen network's maps; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Lay noise over both copies of each picture, then judge them.

        Returns:
            See `compare`.
        """
        features = fused(batch.frozen)
        generators = [batch.generator(row) for row in range(features.shape[0])]
        masks = blotches(
            (features.shape[2], features.shape[3]),
            generators * _COPIES,
            threshold=self.threshold,
            device=features.device,
        )
        # From the global generator, which is on the device: these are hundreds of millions.
        noise = self.noise_std * torch.randn(
            features.shape[0] * _COPIES, *features.shape[1:], device=features.device
        )
        return self.compare(features, noise, masks, batch.truth)

    def compare(
        self, features: Tensor, noise: Tensor, masks: Tensor, truth: Truth | None
    ) -> dict[str, Tensor]:
        """Judge features with noise over some of their cells.

        Args:
            features: ``[B, C, h, w]``.
            noise: ``[2 B, C, h, w]``, for the pictures and then once more for all of them.
            masks: ``[2 B, 1, h, w]``: where the noise goes, but for true defects.
            truth: What is known of the pictures; None if all are good.

        Returns:
            ``good`` and ``defective``: how far cells are on the wrong side of the margin;
            ``place`` and ``picture``: focal losses of the map and of the logit.
        """
        asked = questions(masks, truth)
        adapted = self.detector.adapt(features)
        with torch.autocast(features.device.type, enabled=False):
            noise = noise * asked.noisy
            adapted = torch.cat([adapted] * _COPIES).float() + noise
            if not self.detector.classify_adapted:
                features = torch.cat([features] * _COPIES).float() + noise
        maps, logits = self.detector.judge(features, adapted, apart=not self.supervised)
        with torch.autocast(features.device.type, enabled=False):
            maps, logits = maps.float(), logits.float()
            good, defective = truncated_gaps(maps, asked.masks)
            self.wrong = (good + defective).detach()
            return {
                "good": good,
                "defective": defective,
                "place": focal_loss(maps, asked.masks),
                "picture": focal_loss(logits, asked.labels),
            }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """AdamW, slower in the last fifth of the steps; see `GradientTrainer.optimizers`."""
        detector = self.detector
        heads = [*detector.segment.parameters(), *detector.classify.parameters()]
        adamw = torch.optim.AdamW(
            [
                {"params": detector.adapt.parameters(), "lr": self.adaptor_lr},
                {"params": heads, "lr": self.lr, "weight_decay": 1e-5},
            ]
        )

        def schedule(step: int) -> float:
            return 0.4 ** ((10 * step >= 8 * total_steps) + (10 * step >= 9 * total_steps))

        clip_norm = 1.0 if self.supervised else None
        return [Optimization(optimizer=adamw, schedule=schedule, clip_norm=clip_norm)]
