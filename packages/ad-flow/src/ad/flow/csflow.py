"""CS-Flow: the likelihood of a picture at three scales, by one flow of all of them together.

A frozen network sees the picture in full, half and quarter size. One flow turns the three maps,
invertibly, into normally distributed ones; in each of its couplings every scale hears its
neighbours. Where numbers end far from 0, the picture is not like the good ones.

Paper: Rudolph, Wehrbein, Rosenhahn, Wandt, "Fully Convolutional Cross-Scale-Flows for Image-based
Defect Detection", WACV 2022, arXiv 2110.02855. Official code: marco-rudolph/cs-flow, MIT. The
product of the scales as a map is anomalib's; the authors' is the finest scale alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    LearningBatch,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    WeightDecay,
    in_precision,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, upsample
from ad.flow.glow_pair import GlowPair

_SCALES = 3  # each of half the size of the one before
_CLAMP = 3.0  # largest logarithm of a coupling's scale
_SLOPE = 0.1  # of the leaky ReLU below 0
_CLIP = 1.0  # largest norm of all gradients


@final
class CsflowDetector(Detector):
    """Scores pictures by how far all latents are from 0, and positions by those that are there.

    Args:
        extractor: The frozen network, with one layer.
        blocks: The flow's couplings: from a map for each scale, the finest first, to such maps and
            a log-determinant.
        map_mode: Whether a map is the product of those of the scales, or that of the finest.
    """

    def __init__(
        self, extractor: FeatureExtractor, blocks: Sequence[nn.Module], map_mode: str
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.blocks = nn.ModuleList(blocks)
        self.map_mode = map_mode
        trained_flag(self)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The network's maps of pictures in full, half and quarter size, ``[B, C, h, w]`` each."""
        return [
            map_
            for scale in range(_SCALES)
            # Every second or fourth pixel, as the authors do, not their mean.
            for map_ in self.extractor(images[..., :: 2**scale, :: 2**scale])
        ]

    def latents(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """What the flow makes of the network's maps.

        Returns:
            ``[B, C, h, w]`` for each scale, normally distributed for good pictures, and ``[B]``,
            the log-determinant; float32.
        """
        latents = [map_.float() for map_ in maps]
        log_det = latents[0].new_zeros(latents[0].shape[0])
        for block in self.blocks:
            latents, stretched = block(latents)
            log_det = log_det + stretched
        return list(latents), log_det

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Half the mean square of all latents of an image, about 0.5 for a good one; and the mean
            squares over the channels, resized to the picture: the product of the scales', or the
            finest.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the maps of the three scales of these images would not fit.
        """
        self.require_fitted()
        size = (images.shape[2], images.shape[3])
        step = pixels(self.extractor)
        if size[0] % step or size[1] % step:
            msg = (
                f"CS-Flow on `{self.extractor.name}` takes pictures whose sides are multiples of "
                f"{step} pixels; got {size[0]} x {size[1]}. Resize them."
            )
            raise SettingError(msg)
        latents, _ = self.latents(self.pyramid(images))
        squares = [z.square() for z in latents]
        score = torch.cat([each.flatten(1) for each in squares], 1).mean(1) / 2
        anomaly_map = upsample(squares[0].mean(1), size)
        if self.map_mode == "product":
            for each in squares[1:]:
                anomaly_map = anomaly_map * upsample(each.mean(1), size)
        return Prediction(score, anomaly_map)


@final
class CsflowTrainer(GradientTrainer):
    """Trains the flow to make good pictures likely.

    Args:
        setup: What the run sets.
        backbone: A timm model name, of a convolutional network.
        layer: Whose map it sees. ``blocks.5``, the authors', is the last block but one of
            EfficientNets and MobileNets.
        n_coupling_blocks: Couplings of the flow. Kernels are 3 wide, those of the last one 5.
        hidden: Channels inside of a coupling's networks.
        map_mode: What a map is: the ``product`` of the three scales, which is sharper, or the
            ``finest`` alone, as the authors have it. Scores do not depend on it.
        lr: Learning rate of Adam.
        weight_decay: Its weight decay, as a part of the gradients.

    Raises:
        SettingError: If an option has a value that cannot work, the backbone has no such layer, or
            a side of the pictures is not a multiple of the pixels of a cell of the coarsest scale.
        WeightsError: If the backbone has no weights.
    """

    detector: CsflowDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "efficientnet_b5",
        layer: Name = "blocks.5",
        n_coupling_blocks: Annotated[int, Field(ge=1, le=64)] = 4,
        hidden: Annotated[int, Field(ge=1, le=8192)] = 1024,
        map_mode: Literal["product", "finest"] = "product",
        lr: LearningRate = 2e-4,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        self.lr = lr
        self.weight_decay = weight_decay
        try:
            extractor = FeatureExtractor(backbone, (layer,), setup=setup)
        except SettingError as error:
            msg = (
                f"{error}\nhint: CS-Flow sees one layer, its option `layer`. Networks that have "
                "`blocks.5`, the authors', are EfficientNets and MobileNets: "
                "`--set backbone=efficientnet_b5` or `--set backbone=mobilenetv2_100`"
            )
            raise SettingError(msg) from error
        if extractor.has_tokens:
            msg = (
                "`backbone` of CS-Flow must be a convolutional network, which sees pictures of any "
                f"scale alike, such as `efficientnet_b5` or `mobilenetv2_100`; got `{backbone}`, a "
                "vision transformer."
            )
            raise SettingError(msg)
        step = pixels(extractor)
        if not setup.img_size.divides(step, step):
            msg = (
                f"`img_size` of CS-Flow must be a multiple of {step}: it sees pictures in full, "
                f"half and quarter size, and a cell of `{layer}` of `{backbone}` is "
                f"{extractor.strides[0]} pixels wide; got {setup.img_size.typed}. Near it are "
                f"{setup.img_size.near(step, step)}."
            )
            raise SettingError(msg)
        shapes = [
            (
                extractor.channels[0],
                *(side // (extractor.strides[0] << scale) for side in setup.img_size),
            )
            for scale in range(_SCALES)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            blocks = [
                GlowPair(
                    shapes,
                    subnet_constructor=partial(
                        CrossScaleNet, hidden=hidden, kernel=5 if last else 3
                    ),
                    clamp=_CLAMP,
                    seed=stream(setup.seed, 4, number),
                    precision=setup.precision,
                )
                for number in range(n_coupling_blocks)
                for last in [number == n_coupling_blocks - 1]
            ]
        self.detector = CsflowDetector(extractor, blocks, map_mode)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps of the three scales; see `GradientTrainer.frozen`."""
        return self.detector.pyramid(images)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How unlikely pictures are, per latent and up to a constant."""
        with in_precision("fp32", batch.images.device):
            latents, log_det = self.detector.latents(batch.frozen)
            squares = torch.cat([z.square().flatten(1) for z in latents], 1)
            unlikely = squares.sum(1) / 2 - log_det
            return {"likelihood": unlikely.mean() / squares.shape[1]}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a constant rate; see `GradientTrainer.optimizers`."""
        adam = torch.optim.Adam(
            self.detector.blocks.parameters(), self.lr, eps=1e-4, weight_decay=self.weight_decay
        )
        return [Optimization(optimizer=adam, clip_norm=_CLIP)]


@final
class CrossScaleNet(nn.Module):
    """Two layers of convolutions on maps of several scales, which hear their neighbours.

    It starts by saying 0.

    Args:
        channels: Of the maps that come in, the finest first; each is twice as wide as the next.
        out: Channels of those that go out.
        hidden: Channels between the layers.
        kernel: Side of the convolutions' kernels.
    """

    def __init__(
        self, channels: Sequence[int], out: Sequence[int], *, hidden: int, kernel: int
    ) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, kernel_size=kernel, padding=kernel // 2)
        self.first = nn.ModuleList(conv(each, hidden) for each in channels)
        self.same = nn.ModuleList(conv(hidden, each) for each in out)
        self.up = nn.ModuleList(conv(hidden, each) for each in out[:-1])
        self.down = nn.ModuleList(conv(hidden, each, stride=2) for each in out[1:])
        self.gamma = nn.Parameter(torch.zeros(len(out)))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """``[B, C, h, w]`` of each scale to ``[B, C', h, w]``."""
        hidden = [
            F.leaky_relu(conv(map_), _SLOPE) for conv, map_ in zip(self.first, maps, strict=True)
        ]
        said = []
        for scale, same in enumerate(self.same):
            out = same(hidden[scale])
            if scale > 0:
                out = out + self.down[scale - 1](hidden[scale - 1])
            if scale < len(hidden) - 1:
                finer = F.interpolate(
                    hidden[scale + 1], scale_factor=2, mode="bilinear", align_corners=False
                )
                out = out + self.up[scale](finer)
            said.append(self.gamma[scale] * out)
        return said


def pixels(extractor: FeatureExtractor) -> int:
    """Of the picture, along the side of a cell of the coarsest scale."""
    return extractor.strides[0] << (_SCALES - 1)
