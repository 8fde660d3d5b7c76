"""MSFlow: a flow for each scale of a network's maps, and one that brings the scales together.

Deeper maps get longer flows, since they are harder to make normally distributed. Then one coupling
lets each scale hear the others. Pictures and positions are judged by two sums over the scales: of
likelihoods for positions, so that one scale suffices to clear them, and of their logarithms for
pictures, so that one suffices to make them suspicious.

Paper: Zhou, Xu, Song, Shen, Shen, "MSFlow: Multi-Scale Flow-based Framework for Unsupervised
Anomaly Detection", IEEE TNNLS 2024, arXiv 2308.15300. The authors' code is CC BY-NC-ND; nothing
here comes from it. Their likelihoods are relative to the most likely position of the same picture;
here to that of all training pictures, so that a picture that is bad all over is seen to be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Precision,
    Prediction,
    Setup,
    Sides,
    in_precision,
    learned_buffer,
    size_of,
    stream,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor
from ad.flow.coupling import CouplingBlock, Subnet
from ad.flow.freia import framework
from ad.flow.glow_pair import GlowPair
from ad.flow.maxima import largest_likelihoods
from ad.flow.positions import position_code
from ad.flow.sizes import require_size

_CLAMP = 1.9  # largest logarithm of a coupling's scale
_CODE = 64  # numbers of a position's code
_CLIP = 2.0  # largest norm of all gradients

# Of the learning rate: it climbs for a part of all steps, and falls twice.
_FIRST = 0.1
_CLIMB = 0.12
_FALLS = (0.7, 0.9)
_FALL = 0.33


@final
class MsflowDetector(Detector):
    """Scores each position by how unlikely it is at all scales, and pictures by the worst ones.

    Args:
        extractor: The frozen network, its layers from shallow to deep.
        flows: One for each of its layers: from ``[B, C, h, w]`` and a list of ``[B, 64, h, w]``,
            the codes of positions, to ``[B, C, h, w]`` and a log-determinant, ``[B]``.
        fusion: From a map for each scale to such maps and a log-determinant.
        img_size: Of all pictures, in pixels.
        maxima: Whether likelihoods are relative to the largest of the training pictures or of the
            image itself.
        top_share: Part of the pixels that an image's score is of.
    """

    largest: Tensor
    """``[scales]``: of what `likelihoods` says of the training pictures."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        flows: Sequence[nn.Module],
        fusion: nn.Module,
        img_size: Sides,
        *,
        maxima: str,
        top_share: float,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.flows = nn.ModuleList(flows)
        self.fusion = fusion
        self.img_size = size_of(img_size)
        self.maxima = maxima
        self.top_share = top_share
        for scale, grid in enumerate(grids(extractor.strides, self.img_size)):
            self.register_buffer(_code(scale), position_code(_CODE, *grid)[None], persistent=False)
        learned_buffer(self, "largest", shape=(len(flows),))

    def pooled(self, images: Tensor) -> list[Tensor]:
        """The network's maps at half their sides, ``[B, C, h, w]`` each."""
        return [F.avg_pool2d(map_, 3, stride=2, padding=1) for map_ in self.extractor(images)]

    def latents(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What the flows make of the pooled maps.

        Returns:
            ``[B, C, h, w]`` for each scale, normally distributed for good pictures, and ``[B]``,
            the log-determinant; float32.
        """
        parallel, log_det = [], maps[0].new_zeros(maps[0].shape[0], dtype=torch.float32)
        for scale, (map_, flow) in enumerate(zip(maps, self.flows, strict=True)):
            code = getattr(self, _code(scale)).expand(map_.shape[0], -1, -1, -1)
            z, stretched = flow(map_.float(), [code])
            parallel.append(z)
            log_det = log_det + stretched
        latents, stretched = self.fusion(parallel)
        return list(latents), log_det + stretched

    def likelihoods(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """How likely positions are: the logarithms' means over the channels, up to a constant.

        Returns:
            ``[B, h, w]`` for each scale, up to 0.
        """
        return [-z.square().mean(1) / 2 for z in self.latents(maps)[0]]

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The map is the number of scales minus the sum of their likelihoods, relative to the
            largest. The score is ``-log(1 - A)``, which orders as A does and is not bounded by 1;
            A is the mean over the least likely pixels of 1 minus the product of the scales'
            relative likelihoods.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        size = require_size(images, self.img_size, "MSFlow")
        likely, log_product = images.new_zeros(2, images.shape[0], *size)
        for scale, own in enumerate(self.likelihoods(self.pooled(images))):
            if self.maxima == "image":
                relative = own - own.amax(dim=(1, 2), keepdim=True)
            else:
                relative = own - self.largest[scale]
            likely = likely + _resized(relative.exp(), size)
            log_product = log_product + _resized(relative, size)
        if self.maxima == "image":
            log_product = log_product - log_product.amax(dim=(1, 2), keepdim=True)
            anomaly_map = likely.amax(dim=(1, 2), keepdim=True) - likely
        else:
            anomaly_map = len(self.flows) - likely
        count = max(1, int(self.top_share * size[0] * size[1]))
        least = -(-log_product).flatten(1).topk(count).values
        return Prediction(math.log(count) - least.logsumexp(1), anomaly_map)


@final
class MsflowTrainer(GradientTrainer):
    """Trains all flows at once to make good pictures likely.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; each gets a flow of its own.
        parallel_blocks: Coupling blocks of these flows, a number for each layer.
        maxima: What likelihoods are relative to: the largest of all ``training`` pictures, or of
            the ``image`` itself, as the authors have it. With the latter a picture that is bad all
            over may look good.
        top_share: Part of the pixels that an image's score is of, the least likely ones.
        lr: Learning rate of Adam, which climbs at first and falls twice.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: MsflowDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer1", "layer2", "layer3"),
        parallel_blocks: Annotated[
            tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(max_length=64)
        ] = (2, 5, 8),
        maxima: Literal["training", "image"] = "training",
        top_share: Annotated[float, Field(gt=0, le=1)] = 0.03,
        lr: LearningRate = 1e-4,
    ) -> None:
        super().__init__(setup)
        self.lr = lr
        if len(parallel_blocks) != len(layers):
            msg = (
                "`parallel_blocks` of MSFlow must have a number for each of `layers`, "
                f"{', '.join(layers) or 'of which there are none'}; got {len(parallel_blocks)} of "
                f"them. Give {len(layers)}, such as `--set parallel_blocks="
                f"{','.join(str(2 + 3 * layer) for layer in range(len(layers) or 1))}`."
            )
            raise SettingError(msg)
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        shapes = [
            (channels, *grid)
            for channels, grid in zip(
                extractor.channels, grids(extractor.strides, setup.img_size), strict=True
            )
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            flows = [
                parallel_flow(shape, blocks, stream(setup.seed, 4, scale), setup.precision)
                for scale, (shape, blocks) in enumerate(zip(shapes, parallel_blocks, strict=True))
            ]
            fusion = GlowPair(
                shapes,
                subnet_constructor=FusionNet,
                clamp=_CLAMP,
                seed=stream(setup.seed, 5),
                precision=setup.precision,
            )
        self.detector = MsflowDetector(
            extractor, flows, fusion, setup.img_size, maxima=maxima, top_share=top_share
        )
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps, pooled; see `GradientTrainer.frozen`."""
        return self.detector.pooled(images)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How unlikely pictures are, up to a constant; see `GradientTrainer.losses`."""
        with in_precision("fp32", batch.images.device):
            latents, log_det = self.detector.latents(batch.frozen)
            squares = torch.stack([z.square().flatten(1).sum(1) for z in latents]).sum(0)
            return {"likelihood": (squares / 2 - log_det).mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam on the authors' schedule; see `GradientTrainer.optimizers`."""
        learnt = [*self.detector.flows.parameters(), *self.detector.fusion.parameters()]
        adam = torch.optim.Adam(learnt, self.lr)
        return [
            Optimization(
                optimizer=adam, schedule=lambda step: rate(step, total_steps), clip_norm=_CLIP
            )
        ]

    @classmethod
    def uses_held_out(cls) -> bool:
        """No: `conclude` asks what was learnt from; see `GradientTrainer.uses_held_out`."""
        return False

    def conclude(self, data: LearningData, held_out: LearningData | None) -> None:
        """Find each scale's largest likelihood; see `GradientTrainer.conclude`."""
        self.detector.largest = largest_likelihoods(data, self.setup, self.detector.likelihoods)


@final
class FusionNet(nn.Module):
    """What each scale says of its other half, having heard the other scales.

    Args:
        channels: Of the maps that come in, the finest first.
        out: Channels of those that go out.
    """

    def __init__(self, channels: Sequence[int], out: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        total = sum(channels)
        narrow = max(1, total // 4)
        self.mix = nn.Sequential(
            _convolution(total, narrow), ChannelNorm(narrow), nn.ReLU(),
            _convolution(narrow, total), nn.ReLU(),
        )  # fmt: skip
        self.say = nn.ModuleList(map(_convolution, channels, out))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``[B, C, h, w]`` of each scale to ``[B, C', h, w]``."""
        coarsest = (maps[-1].shape[2], maps[-1].shape[3])
        together = torch.cat([F.adaptive_avg_pool2d(map_, coarsest) for map_ in maps], 1)
        heard = self.mix(together).split(self.channels, dim=1)
        return [
            say(map_ + _spread(own, (map_.shape[2], map_.shape[3])))
            for say, map_, own in zip(self.say, maps, heard, strict=True)
        ]


@final
class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of a map, ``[B, C, h, w]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return super().forward(x.movedim(1, 3)).movedim(3, 1)


def parallel_flow(
    shape: tuple[int, int, int], blocks: int, seed: int, precision: Precision
) -> framework.SequenceINN:
    """The flow of one scale, whose subnets are told where positions are.

    Args:
        shape: ``(C, h, w)`` of the maps.
        blocks: How many coupling blocks.
        seed: Of their permutations; weights come from torch's generator.
        precision: Of the subnets.
    """

    def subnet(seen: int, out: int) -> nn.Module:
        first = nn.Sequential(_convolution(seen, seen), ChannelNorm(seen))
        return Subnet(first, _convolution(seen, out), precision)

    flow = framework.SequenceINN(*shape)
    for block in range(blocks):
        flow.append(
            CouplingBlock,
            cond=0,
            cond_shape=(_CODE, *shape[1:]),
            subnet_constructor=subnet,
            affine_clamping=_CLAMP,
            seed=stream(seed, block),
        )
    return flow


def grids(strides: Sequence[int], img_size: Sides) -> list[tuple[int, int]]:
    """Height and width of the pooled maps of layers with such strides."""
    height, width = size_of(img_size)
    cells = [(-(-height // stride), -(-width // stride)) for stride in strides]
    return [((rows + 1) // 2, (columns + 1) // 2) for rows, columns in cells]


def rate(step: int, total_steps: int) -> float:
    """The learning rate of a step, as a part of the highest there is."""
    done = step / total_steps
    if done < _CLIMB:
        return _FIRST + (1 - _FIRST) * done / _CLIMB
    return _FALL ** sum(done >= fall for fall in _FALLS)


def _convolution(channels: int, out: int) -> nn.Module:
    return nn.Conv2d(channels, out, 3, padding=1)


def _spread(map_: Tensor, size: tuple[int, int]) -> Tensor:
    # Corners aligned, as the authors resize.
    return F.interpolate(map_, size=size, mode="bilinear", align_corners=True)


def _resized(map_: Tensor, size: tuple[int, int]) -> Tensor:
    return _spread(map_[:, None], size)[:, 0]


def _code(scale: int) -> str:
    return f"code{scale + 1}"
