"""U-Flow: a U-shaped flow makes deep features of several scales standard normal numbers, together.

From the coarsest features up, a flow transforms each scale; half of what comes out is that scale's
latents, the other half goes on, spread out, to the next finer one. So each scale's latents are
independent of the others', which a test of significance can use: see `ad.flow.a_contrario`.

Paper: Tailanian, Pardo, Musé, "U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
Unsupervised Threshold", Journal of Mathematical Imaging and Vision 2024, arXiv 2211.12353.
Official code: mtailanian/uflow, AGPL-3.0; nothing here comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, final

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
    WeightDecay,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, upsample
from ad.flow.a_contrario import Variant, minus_log10_nfa
from ad.flow.coupling import CouplingBlock
from ad.flow.freia import framework

_LEAST_CHANNELS = 8  # of which four go on, as one channel of four times the cells


@final
class UShapedFlow(nn.Module):
    """Features of several scales to latents, and how much that stretches space.

    Args:
        shapes: Channels, height and width of each scale, the finest first; each has twice the
            height and width of the next.
        flow_steps: Coupling blocks of a scale, with kernels of 3 and 1 by turns.
        seed: Of weights and permutations.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], flow_steps: int, seed: int) -> None:
        super().__init__()
        self.onward: list[int] = []
        stages: list[framework.SequenceINN] = []
        more = 0  # channels that the next coarser scale hands on
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for scale in reversed(range(len(shapes))):
                own, height, width = shapes[scale]
                stage = framework.SequenceINN(own + more, height, width)
                for step in range(flow_steps):
                    stage.append(
                        CouplingBlock,
                        subnet_constructor=_convolutions(1 if step % 2 else 3),
                        affine_clamping=2.0,
                        seed=stream(seed, scale, step),
                    )
                onward = 0 if scale == 0 else (own + more) // 8 * 4
                more = onward // 4
                self.onward.insert(0, onward)
                stages.insert(0, stage)
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


def _convolutions(kernel: int) -> Callable[[int, int], nn.Module]:
    def subnet(channels: int, out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(channels, out, kernel, padding=kernel // 2),
        )

    return subnet


@final
class UflowDetector(Detector):
    """Scores each position by how unlikely its latents are, on the mean over the scales.

    Args:
        extractor: The frozen network: pictures to maps, the finest first.
        norms: Of each map, learnt.
        flow: Maps to latents.
        nfa: Which regions the test of significance tries.
    """

    outlines = "NFA below 1"

    def __init__(
        self, extractor: nn.Module, norms: Sequence[nn.Module], flow: UShapedFlow, nfa: Variant
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.norms = nn.ModuleList(norms)
        self.flow = flow
        self.nfa: Variant = nfa
        trained_flag(self)

    def latents(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The frozen network's maps as `UShapedFlow.forward` says, float32."""
        with torch.autocast(features[0].device.type, enabled=False):
            maps = [norm(own.float()) for norm, own in zip(self.norms, features, strict=True)]
            latents, log_det = self.flow(maps)
        return latents, log_det

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            1 minus the mean over the scales of the latents' density, as a share of the highest
            that there is, to the power of ``1 / C``: from 0 to 1. The largest of each image is its
            score.

        Raises:
            NotFittedError: If the detector has not been trained.
        """
        self.require_fitted()
        size = (images.shape[2], images.shape[3])
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
        latents, _ = self.latents(self.extractor(images))
        return minus_log10_nfa(latents, (images.shape[2], images.shape[3]), self.nfa)


@final
class UflowTrainer(GradientTrainer):
    """Trains the flow by likelihood; keeps the epoch in which held-out good pictures are likeliest.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: Its layers from shallow to deep, each with cells of twice the side of the one
            before.
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
        backbone: Name = "resnet18",
        layers: Layers = ("layer1", "layer2", "layer3"),
        flow_steps: Annotated[int, Field(ge=1, le=64)] = 4,
        lr: LearningRate = 1e-3,
        lr_end_factor: Annotated[float, Field(gt=0, le=1)] = 0.4,
        weight_decay: WeightDecay = 1e-5,
        nfa: Variant = "tree",
    ) -> None:
        super().__init__(setup)
        self.lr, self.lr_end_factor, self.weight_decay = lr, lr_end_factor, weight_decay
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        strides = extractor.strides
        if len(strides) < 2 or any(b != 2 * a for a, b in zip(strides, strides[1:], strict=False)):
            msg = (
                "`layers` of U-Flow must be two or more, each with cells of twice the side of the "
                f"one before; got {', '.join(layers)}, whose cells are "
                f"{', '.join(map(str, strides))} pixels wide."
            )
            raise SettingError(msg)
        if min(extractor.channels) < _LEAST_CHANNELS:
            msg = (
                f"`layers` of U-Flow must have {_LEAST_CHANNELS} channels or more, of which half "
                f"go on to the next finer one; got {', '.join(layers)} of `{backbone}`, which have "
                f"{', '.join(map(str, extractor.channels))}."
            )
            raise SettingError(msg)
        step = strides[-1]
        if not setup.img_size.divides(step, 2 * step):
            msg = (
                f"`img_size` of U-Flow must be a multiple of {step}, the pixels of a cell of its "
                f"deepest layer, so that the layers' maps fit together, from {2 * step}; got "
                f"{setup.img_size.typed}. Near it are {setup.img_size.near(step, 2 * step)}."
            )
            raise SettingError(msg)
        height, width = setup.img_size
        shapes = [
            (channels, height // stride, width // stride)
            for channels, stride in zip(extractor.channels, strides, strict=True)
        ]
        flow = UShapedFlow(shapes, flow_steps, stream(setup.seed, 3))
        self.detector = UflowDetector(extractor, [nn.LayerNorm(s) for s in shapes], flow, nfa)
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
        latents, log_det = self.detector.latents(features)
        energy = torch.stack([z.square().flatten(1).sum(dim=1) for z in latents]).sum(dim=0)
        return energy / 2 - log_det
