"""CFlow: the likelihood of feature vectors, by flows that know where in the picture they are.

At each position of a frozen network's maps stands a vector, a fibre. One flow for each layer turns
fibres, invertibly, into normally distributed ones; a code of the position goes into all of its
blocks. Unlikely fibres are anomalous.

Paper: Gudovskiy, Ishizaka, Kozuka, "CFLOW-AD: Real-Time Unsupervised Anomaly Detection with
Localization via Conditional Normalizing Flows", WACV 2022, arXiv 2107.12571. Official code:
gudovskiy/cflow-ad, BSD-3-Clause. There, what likelihoods are compared to is the most likely fibre
of all test pictures; here of the training pictures, so that no score depends on others. Pictures
are not rotated, so that what the network says of them can be kept.
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
from ad.flow.coupling import fibre_flow
from ad.flow.maxima import largest_likelihoods
from ad.flow.positions import position_code
from ad.flow.sizes import require_size

_CLAMP = 1.9  # largest logarithm of a coupling's scale

# Of the learning rate: 25 stairs down a cosine, in place of the first two of which it climbs.
_STAIRS = 25
_CLIMB = 2
_FIRST = 0.1
_LOWEST = 1e-3  # where the cosine ends; the last stair is above it


@final
class CflowDetector(Detector):
    """Scores each position by how unlikely its fibres are.

    Args:
        extractor: The frozen network.
        flows: One for each of its layers: from ``[N, C]`` and a list of ``[N, P]``, the codes of
            their positions, to ``[N, C]`` and a log-determinant, ``[N]``.
        condition_dim: Numbers of a code.
        img_size: Of all pictures, in pixels.
    """

    largest: Tensor
    """``[layers]``: of the log-likelihoods of the training pictures' fibres, as `likelihood` gives
    them."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        flows: Sequence[nn.Module],
        condition_dim: int,
        img_size: Sides,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.flows = nn.ModuleList(flows)
        self.img_size = size_of(img_size)
        self.grids = [
            (-(-self.img_size.height // stride), -(-self.img_size.width // stride))
            for stride in extractor.strides
        ]
        for layer, grid in enumerate(self.grids):
            code = position_code(condition_dim, *grid).flatten(1).T.contiguous()
            self.register_buffer(_code(layer), code, persistent=False)
        learned_buffer(self, "largest", shape=(len(self.grids),))

    def likelihood(self, layer: int, fibres: Tensor, positions: Tensor | None = None) -> Tensor:
        """How likely fibres are.

        Args:
            layer: Of which they are, counted from 0.
            fibres: ``[N, C]``.
            positions: ``[N]``, where they are, counted by rows; None for all of them, in order, of
                one picture after the other.

        Returns:
            ``[N]``, float32: the logarithms of the likelihoods, divided by C.
        """
        code = getattr(self, _code(layer))
        if positions is None:
            pictures = fibres.shape[0] // code.shape[0]
            code = code.expand(pictures, *code.shape).flatten(0, 1)
        else:
            code = code[positions]
        z, log_det = self.flows[layer](fibres.float(), [code])
        channels = fibres.shape[1]
        log_likelihood = log_det - z.square().sum(1) / 2
        return log_likelihood / channels - math.log(2 * math.pi) / 2  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The sum over the layers of 1 minus the likelihood, compared to the largest of the
            training pictures, and the largest of each image as its score. Up to the number of
            layers; below 0 where all are likelier than any fibre of the training pictures.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        size = require_size(images, self.img_size, "CFlow")
        anomaly_map = images.new_zeros(images.shape[0], *size)
        for layer, map_ in enumerate(self.extractor(images)):
            likelihood = self.likelihood(layer, fibres_of(map_)) - self.largest[layer]
            grid = likelihood.exp().view(images.shape[0], 1, *map_.shape[2:])
            # Corners aligned, as the authors resize.
            up = F.interpolate(grid, size=size, mode="bilinear", align_corners=True)
            anomaly_map = anomaly_map + 1 - up[:, 0]
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


@final
class CflowTrainer(GradientTrainer):
    """Trains the flows, each on some thousand fibres at a time.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: Each gets a flow of its own.
        coupling_blocks: Of each flow.
        condition_dim: Numbers of a position's code, a multiple of 4.
        permute: Whether blocks rotate channels, as in the paper, or permute them.
        fiber_batch: The most fibres that an update learns from. A batch of pictures gives as many
            updates as it takes to learn from all of its fibres. The authors take 256.
        lr: Learning rate of Adam, which climbs at first, and falls to 0.005 of it by and by. The
            authors' is 0.0002, for their `fiber_batch`.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: CflowDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layers: Layers = ("layer1", "layer2", "layer3"),
        coupling_blocks: Annotated[int, Field(ge=1, le=64)] = 8,
        condition_dim: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 128,
        permute: Literal["soft", "hard"] = "soft",
        fiber_batch: Annotated[int, Field(ge=1, le=2**20)] = 2048,
        lr: LearningRate = 5e-4,
    ) -> None:
        super().__init__(setup)
        if fiber_batch < setup.batch_size:
            msg = (
                f"`fiber_batch` of CFlow must be at least `batch_size`, {setup.batch_size}: a "
                "batch gives the same number of updates however many pictures are left for it, "
                f"and one picture would not have fibres for all of them; got {fiber_batch}."
            )
            raise SettingError(msg)
        self.lr = lr
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            flows = [
                fibre_flow(
                    channels,
                    condition_dim,
                    blocks=coupling_blocks,
                    affine_clamping=_CLAMP,
                    permute_soft=permute == "soft",
                    seed=stream(setup.seed, 4, layer),
                    precision=setup.precision,
                )
                for layer, channels in enumerate(extractor.channels)
            ]
        self.detector = CflowDetector(extractor, flows, condition_dim, setup.img_size)
        self.detector.to(setup.device).eval()
        # The layer that each update of a batch is of, and which part of its fibres it takes.
        self.parts = [
            (layer, part, parts)
            for layer, (height, width) in enumerate(self.detector.grids)
            for parts in [math.ceil(setup.batch_size * height * width / fiber_batch)]
            for part in range(parts)
        ]

    def num_updates(self) -> int:
        """One for each part of each layer's fibres; see `GradientTrainer.num_updates`."""
        return len(self.parts)

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The network's maps; see `GradientTrainer.frozen`."""
        return self.detector.extractor(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """How unlikely some fibres of one layer are; see `GradientTrainer.losses`.

        They are drawn from all pictures of the batch and all positions, each once.
        """
        # Else it is compiled for each part. Not its decorator, which imports what compiles at once.
        layer, fibres, positions = torch.compiler.disable(self._drawn)(batch)  # type: ignore[no-untyped-call]
        with in_precision("fp32", fibres.device):
            found = self.detector.likelihood(layer, fibres, positions)
            return {f"layer{layer + 1}": F.softplus(-found).mean()}

    def _drawn(self, batch: LearningBatch) -> tuple[int, Tensor, Tensor]:
        """A layer, and the fibres and positions of it that an update learns from."""
        layer, part, parts = self.parts[batch.update]
        fibres = fibres_of(batch.frozen[layer])
        generator = torch.Generator().manual_seed(stream(batch.seed, 5, batch.step, layer))
        rows = torch.randperm(fibres.shape[0], generator=generator).tensor_split(parts)[part]
        rows = rows.to(fibres.device)
        height, width = self.detector.grids[layer]
        return layer, fibres[rows], rows % (height * width)

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam on the authors' schedule; see `GradientTrainer.optimizers`."""
        adam = torch.optim.Adam(self.detector.flows.parameters(), self.lr)
        return [Optimization(optimizer=adam, schedule=lambda step: rate(step, total_steps))]

    @classmethod
    def uses_held_out(cls) -> bool:
        """No: `conclude` asks what was learnt from; see `GradientTrainer.uses_held_out`."""
        return False

    def conclude(self, data: LearningData, held_out: LearningData | None) -> None:
        """Find each layer's largest likelihood; see `GradientTrainer.conclude`."""
        detector = self.detector
        detector.largest = largest_likelihoods(
            data,
            self.setup,
            lambda maps: (
                detector.likelihood(layer, fibres_of(map_)) for layer, map_ in enumerate(maps)
            ),
        )


def fibres_of(map_: Tensor) -> Tensor:
    """The vectors of a map, ``[B, C, h, w]``, picture by picture and row by row: ``[N, C]``."""
    return map_.permute(0, 2, 3, 1).flatten(0, 2)


def rate(step: int, total_steps: int) -> float:
    """The learning rate of a step, as a part of the highest there could be.

    It follows a cosine, in 25 stairs, but for the first two: there it climbs from a tenth to where
    the third one is.
    """

    def stair(stair: int) -> float:
        return _LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * stair / _STAIRS)) / 2

    climbed = step * _STAIRS / (total_steps * _CLIMB)
    if climbed < 1:
        return _FIRST + climbed * (stair(_CLIMB) - _FIRST)
    return stair(step * _STAIRS // total_steps)


def _code(layer: int) -> str:
    return f"code{layer + 1}"
