"""U-Flow: a U-shaped flow makes deep features of several scales standard normal numbers, together.

From the coarsest features up, a flow transforms each scale; half of what comes out is that scale's
latents, the other half goes on, spread out, to the next finer one. So each scale's latents are
independent of the others', which a test of significance can use: see `ad.flow.a_contrario`.

Paper: Tailanian, Pardo, Musé, "U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
Unsupervised Threshold", Journal of Mathematical Imaging and Vision 2024, arXiv 2211.12353.
Official code: mtailanian/uflow, AGPL-3.0; nothing here comes from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    FROM_MODEL_FILE,
    Detector,
    Field,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningRate,
    Name,
    Optimization,
    Precision,
    Prediction,
    Setup,
    Sides,
    Size,
    WeightDecay,
    in_precision,
    size_of,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, upsample
from ad.flow.a_contrario import Variant, minus_log10_nfa
from ad.flow.coupling import convolutional_flow
from ad.flow.sizes import require_multiple, require_size

_CLAMP = 2.0  # largest logarithm of a coupling's scale
_LAYERS = ("layer1", "layer2", "layer3")
_LEAST_CHANNELS = 8  # of which four go on, as one channel of four times the cells
_LEAST_CELLS = 2  # a side, of the coarsest map: one has no other beside it to mirror


class _Pair(NamedTuple):
    """Two transformers, of which one sees pictures at half the size."""

    large: str
    large_layer: str
    small: str
    small_layer: str


_PAIRS = {
    "mcait": _Pair("cait_m48_448", "blocks.40", "cait_s24_224", "blocks.20"),
    "mcait-xxs": _Pair("cait_xxs24_224", "blocks.20", "cait_xxs24_224", "blocks.20"),
}
"""Backbones that are two: the paper's, and a small one to try things out."""


@final
class TransformerPair(nn.Module):
    """Maps of two transformers, of which one sees pictures at half the size.

    Args:
        backbone: Which pair.
        setup: As `FeatureExtractor` takes it.

    Raises:
        SettingError: If ``setup.weights`` is a file, or the size does not suit both.
        WeightsError: If no weights can be had.
    """

    def __init__(self, backbone: str, setup: Setup) -> None:
        super().__init__()
        pair = _PAIRS[backbone]
        if setup.weights not in ("auto", "random", FROM_MODEL_FILE):
            msg = (
                f"`weights` must be `auto` or `random` with the backbone `{backbone}`, which is "
                f"two networks, and a file holds one; got `{setup.weights}`. Put "
                f"`{pair.large}.safetensors` and `{pair.small}.safetensors` into a folder and set "
                "AD_WEIGHTS to it."
            )
            raise SettingError(msg)
        half = replace(setup, img_size=Size(*(side // 2 for side in setup.img_size)))
        self.large = FeatureExtractor(pair.large, [pair.large_layer], setup=setup, norm=True)
        self.small = FeatureExtractor(pair.small, [pair.small_layer], setup=half, norm=True)
        self.channels = self.large.channels + self.small.channels
        self.strides = (*self.large.strides, *(2 * stride for stride in self.small.strides))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Two maps ``[B, D, h, w]``, the finer first, as `FeatureExtractor.forward` gives them."""
        half = (images.shape[2] // 2, images.shape[3] // 2)
        smaller = F.interpolate(images, size=half, mode="bicubic", align_corners=True)
        return [*self.large(images), *self.small(smaller)]


@final
class UShapedFlow(nn.Module):
    """Features of several scales to latents, and how much that stretches space.

    Args:
        shapes: Channels, height and width of each scale, the finest first; each has twice the
            height and width of the next.
        flow_steps: Coupling blocks of a scale, with kernels of 3 and 1 by turns.
        seed: Of weights and permutations.
        precision: Of the coupling blocks' subnets.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int, int]],
        flow_steps: int,
        *,
        seed: int,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__()
        self.onward: list[int] = []
        stages: list[Any] = []
        handed = 0  # channels that the next coarser scale hands on
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for scale in reversed(range(len(shapes))):
                own, height, width = shapes[scale]
                channels = own + handed
                stage = convolutional_flow(
                    (channels, height, width),
                    steps=flow_steps,
                    kernels=(3, 1),
                    hidden_ratio=1.0,
                    affine_clamping=_CLAMP,
                    seed=stream(seed, scale),
                    precision=precision,
                )
                onward = channels // 8 * 4 if scale else 0
                handed = onward // 4
                stages.insert(0, stage)
                self.onward.insert(0, onward)
        self.stages = nn.ModuleList(stages)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Transform a batch.

        Args:
            features: ``[B, C, h, w]`` of each scale, the finest first.

        Returns:
            Latents ``[B, C', h, w]`` of each scale, as many numbers as came in, and ``[B]``: the
            logarithm of the Jacobian's determinant.
        """
        latents: list[Tensor] = []
        log_det = features[0].new_zeros(features[0].shape[0])
        coarser: list[Tensor] = []
        scales = zip(features, self.stages, self.onward, strict=True)
        for own, stage, onward in reversed(list(scales)):
            z, stretched = stage(torch.cat([own, *coarser], 1))
            coarser = [F.pixel_shuffle(z[:, :onward], 2)]
            latents.insert(0, z[:, onward:])
            log_det = log_det + stretched
        return latents, log_det


@final
class UflowDetector(Detector):
    """Scores each position by how unlikely its latents are, on the mean over the scales.

    Args:
        extractor: The frozen network: pictures to maps, the finest first.
        norms: Of each map, learnt.
        flow: Maps to latents.
        img_size: Of all pictures, in pixels.
        nfa: Which regions the test of significance tries.
    """

    outlines = "NFA below 1"

    def __init__(
        self,
        extractor: nn.Module,
        norms: Sequence[nn.Module],
        flow: UShapedFlow,
        img_size: Sides,
        nfa: Variant,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.norms = nn.ModuleList(norms)
        self.flow = flow
        self.img_size = size_of(img_size)
        self.nfa: Variant = nfa
        trained_flag(self)

    def latents(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The frozen network's maps as `UShapedFlow.forward` says, float32."""
        pairs = zip(self.norms, features, strict=True)
        latents, log_det = self.flow([norm(own.float().contiguous()) for norm, own in pairs])
        return latents, log_det

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            1 minus the mean over the scales of the latents' density, as a share of the highest
            that there is, to the power of ``1 / C``: from 0 to 1. The largest of each image is its
            score.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        size = require_size(images, self.img_size, "U-Flow")
        latents, _ = self.latents(self.extractor(images))
        likely = [upsample((-0.5 * z.square().mean(dim=1)).exp(), size) for z in latents]
        anomaly_map = 1 - torch.stack(likely).mean(dim=0)
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)

    def outline(self, images: Tensor) -> Tensor:
        """Where fewer than one false alarm is expected in a good picture; see `Detector.outline`.

        Returns:
            ``-log10 NFA``, on the CPU: see `ad.flow.a_contrario.minus_log10_nfa`.
        """
        self.require_fitted()
        size = require_size(images, self.img_size, "U-Flow")
        latents, _ = self.latents(self.extractor(images))
        return minus_log10_nfa(latents, size, self.nfa)


@final
class UflowTrainer(GradientTrainer):
    """Trains the flow by likelihood; keeps the epoch in which held-out good pictures are likeliest.

    Args:
        setup: What the run sets.
        backbone: A timm model name; ``mcait``, the paper's two CaiTs, of which one sees pictures
            at half the size; or ``mcait-xxs``, two small ones.
        layers: Its layers from shallow to deep, each with cells of twice the side of the one
            before; without any, layer1 to layer3, as of a ResNet. The CaiTs' are the paper's.
        flow_steps: Coupling blocks of a scale.
        lr: Learning rate of Adam at the first step.
        lr_end_factor: Share of it at the last step, to which it falls linearly; 1 keeps it. The
            authors mean 0.4, and their code keeps it.
        weight_decay: Its weight decay.
        nfa: Which regions the test of significance tries: connected ones of any shape, ``tree``,
            or squares, ``block``.

    Raises:
        SettingError: If an option has a value that cannot work, or the size does not suit it.
        WeightsError: If the backbone has no weights.
    """

    detector: UflowDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layers: Layers = (),
        flow_steps: Annotated[int, Field(ge=1, le=64)] = 4,
        lr: LearningRate = 1e-3,
        lr_end_factor: Annotated[float, Field(gt=0, le=1)] = 0.4,
        weight_decay: WeightDecay = 1e-5,
        nfa: Variant = "tree",
    ) -> None:
        super().__init__(setup)
        self.lr, self.lr_end_factor, self.weight_decay = lr, lr_end_factor, weight_decay
        extractor: FeatureExtractor | TransformerPair
        if backbone in _PAIRS:
            if layers:
                msg = (
                    f"`layers` is for other backbones than `{backbone}`, whose blocks are the "
                    f"paper's; got {', '.join(layers)}. Leave it out."
                )
                raise SettingError(msg)
            require_multiple(setup, 32, "U-Flow", backbone, least=64)
            extractor = TransformerPair(backbone, setup)
        else:
            extractor = FeatureExtractor(backbone, layers or _LAYERS, setup=setup, norm=True)
            _check_layers(extractor)
            stride = extractor.strides[-1]
            require_multiple(setup, stride, "U-Flow", backbone, least=_LEAST_CELLS * stride)
        height, width = setup.img_size
        shapes = [
            (channels, height // stride, width // stride)
            for channels, stride in zip(extractor.channels, extractor.strides, strict=True)
        ]
        flow = UShapedFlow(
            shapes, flow_steps, seed=stream(setup.seed, 3), precision=setup.precision
        )
        transformer = backbone in _PAIRS
        norms = [nn.Identity() if transformer else nn.LayerNorm(shape) for shape in shapes]
        self.detector = UflowDetector(extractor, norms, flow, setup.img_size, nfa)
        self.detector.to(setup.device).eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The backbone's maps; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean over the pictures of how unlikely they are; see `GradientTrainer.losses`."""
        return {"nll": self._unlikeliness(batch.frozen).mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a falling rate; see `GradientTrainer.optimizers`."""
        learnt = [*self.detector.norms.parameters(), *self.detector.flow.parameters()]
        adam = torch.optim.Adam(learnt, self.lr, weight_decay=self.weight_decay)
        fall = (1 - self.lr_end_factor) / max(total_steps - 1, 1)
        return [Optimization(optimizer=adam, schedule=lambda step: 1 - fall * step)]

    def monitor(self, images: Tensor) -> Tensor:
        """How unlikely each held-out picture is; see `GradientTrainer.monitor`."""
        return self._unlikeliness(self.frozen(images))

    def _unlikeliness(self, features: Sequence[Tensor]) -> Tensor:
        """Negative log-likelihood of each picture up to a constant, ``[B]``, in nats."""
        with in_precision("fp32", features[0].device):
            latents, log_det = self.detector.latents(features)
            energy = torch.stack([z.square().flatten(1).sum(dim=1) for z in latents]).sum(dim=0)
            return energy / 2 - log_det


def _check_layers(extractor: FeatureExtractor) -> None:
    """See that each layer's map can take what the next deeper one hands on.

    Raises:
        SettingError: If one cannot.
    """
    strides, channels = extractor.strides, extractor.channels
    if len(strides) < 2 or any(b != 2 * a for a, b in itertools.pairwise(strides)):
        msg = (
            "`layers` of U-Flow must be two or more, each with cells of twice the side of the one "
            f"before; those of `{extractor.name}` have cells of {', '.join(map(str, strides))} "
            "pixels."
        )
        raise SettingError(msg)
    if min(channels[1:]) < _LEAST_CHANNELS:
        msg = (
            f"`layers` of U-Flow must have {_LEAST_CHANNELS} channels or more, but for the first, "
            f"as half of them go on to the one before; those of `{extractor.name}` have "
            f"{', '.join(map(str, channels))}."
        )
        raise SettingError(msg)
