"""FastFlow: the likelihood of whole feature maps, by a flow of convolutions on each.

A frozen network's maps are turned, invertibly, into maps that are as normally distributed as the
flow can make those of good pictures. Where a position's channels end far from 0, the picture is
not like these.

Paper: Yu et al., "FastFlow: Unsupervised Anomaly Detection and Localization via 2D Normalizing
Flows", 2021, arXiv 2111.07677. There is no official code; what the paper leaves open (a LayerNorm
before each flow of a convolutional network's maps) is as in gathierry/FastFlow, Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, final

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
    Sides,
    WeightDecay,
    in_precision,
    size_of,
    stream,
    trained_flag,
)
from ad.core.networks import FeatureExtractor, upsample
from ad.flow.coupling import convolutional_flow
from ad.flow.sizes import require_multiple, require_size

_CLAMP = 2.0  # largest logarithm of a coupling's scale
_CLIP = 1.0  # largest norm of all gradients: ours, since learning without one jumps now and then


class _Recipe(NamedTuple):
    """What the paper does with a backbone."""

    layers: tuple[str, ...] = ("layer1", "layer2", "layer3")
    hidden_ratio: float = 1.0
    kernels: tuple[int, ...] = (3, 1)


_RECIPES = {
    "resnet18": _Recipe(kernels=(3,)),
    "cait_m48_448": _Recipe(layers=("blocks.40",), hidden_ratio=0.16),
    "deit_base_distilled_patch16_384": _Recipe(layers=("blocks.7",), hidden_ratio=0.16),
}
_CONVOLUTIONAL, _TRANSFORMER = _Recipe(), _Recipe(hidden_ratio=0.16)  # all others

_TRANSFORMERS = ("cait", "deit", "vit")
"""How their names begin. Their maps pass a norm of their own, and need none before a flow."""


@final
class FastflowDetector(Detector):
    """Scores each position by how unlikely its channels are.

    Args:
        extractor: The frozen network.
        norms: One for each of its maps, before the flow.
        flows: One for each of its maps: from ``[B, C, h, w]`` to that and a log-determinant.
        img_size: Of all pictures, in pixels.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        norms: Sequence[nn.Module],
        flows: Sequence[nn.Module],
        img_size: Sides,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.norms = nn.ModuleList(norms)
        self.flows = nn.ModuleList(flows)
        self.img_size = size_of(img_size)
        trained_flag(self)

    def latents(self, maps: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """What the flows make of the network's maps, ``[B, C, h, w]`` each.

        Returns:
            For each, ``[B, C, h, w]``, normally distributed for good pictures, and ``[B]``, the
            log-determinant; float32.
        """
        return [
            flow(norm(map_.float().contiguous()))
            for map_, norm, flow in zip(maps, self.norms, self.flows, strict=True)
        ]

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The mean over the maps of ``-exp(-mean_c(z ** 2) / 2)``, from -1 to 0, and the largest
            of each image as its score.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        size = require_size(images, self.img_size, "FastFlow")
        total = images.new_zeros(images.shape[0], *size)
        latents = self.latents(self.extractor(images))
        for z, _ in latents:
            total = total - upsample((-z.square().mean(1) / 2).exp(), size)
        anomaly_map = total / len(latents)
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


@final
class FastflowTrainer(GradientTrainer):
    """Trains the flows, and the norms before them, to make good pictures likely.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: Each gets a flow of its own; without any, those of the paper: layer1 to layer3 of
            a ResNet, the 41st block of CaiT, the 8th of DeiT.
        flow_steps: Coupling blocks of each flow.
        hidden_ratio: Channels inside a subnet, of those that it sees; 0 for the paper's: 1 for
            convolutional backbones, 0.16 for transformers.
        lr: Learning rate of Adam.
        weight_decay: Its weight decay, as a part of the gradients.

    Raises:
        SettingError: If an option has a value that cannot work, or a side of the pictures is not
            a multiple of the pixels of a cell of the deepest map.
        WeightsError: If the backbone has no weights.
    """

    detector: FastflowDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layers: Layers = (),
        flow_steps: Annotated[int, Field(ge=1, le=64)] = 8,
        hidden_ratio: Annotated[float, Field(ge=0, le=8)] = 0.0,
        lr: LearningRate = 1e-3,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        self.lr = lr
        self.weight_decay = weight_decay
        transformer = backbone.startswith(_TRANSFORMERS)
        default = _TRANSFORMER if transformer else _CONVOLUTIONAL
        recipe = _RECIPES.get(backbone.partition(".")[0], default)
        extractor = FeatureExtractor(backbone, layers or recipe.layers, setup=setup, norm=True)
        require_multiple(setup, max(extractor.strides), "FastFlow", backbone)
        shapes = [
            (channels, setup.img_size.height // stride, setup.img_size.width // stride)
            for channels, stride in zip(extractor.channels, extractor.strides, strict=True)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            flows = [
                convolutional_flow(
                    shape,
                    steps=flow_steps,
                    kernels=recipe.kernels,
                    hidden_ratio=hidden_ratio or recipe.hidden_ratio,
                    affine_clamping=_CLAMP,
                    seed=stream(setup.seed, 4, number),
                    precision=setup.precision,
                )
                for number, shape in enumerate(shapes)
            ]
        norms = [nn.Identity() if transformer else nn.LayerNorm(shape) for shape in shapes]
        self.detector = FastflowDetector(extractor, norms, flows, setup.img_size)
        self.detector.to(setup.device).eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How unlikely each map is, up to a constant; see `GradientTrainer.losses`."""
        with in_precision("fp32", batch.images.device):
            return {
                f"map{number}": (z.square().sum(dim=(1, 2, 3)) / 2 - log_det).mean()
                for number, (z, log_det) in enumerate(self.detector.latents(batch.frozen), start=1)
            }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a constant rate; see `GradientTrainer.optimizers`."""
        learnt = [*self.detector.norms.parameters(), *self.detector.flows.parameters()]
        adam = torch.optim.Adam(learnt, self.lr, weight_decay=self.weight_decay)
        return [Optimization(optimizer=adam, clip_norm=_CLIP)]
