"""DRAEM: pictures are broken on purpose; one network mends them, another finds where.

Good pictures get blotches of other textures. The first network learns to give the good picture
back, the second one, from the broken and the mended picture, to tell where they were. What it calls
broken in a new picture is the anomaly.

Paper: Zavrtanik, Kristan, Skočaj, "DRAEM: A Discriminatively Trained Reconstruction Embedding for
Surface Anomaly Detection", ICCV 2021, arXiv 2108.07610. Official code: VitjanZ/DRAEM, MIT.

Option ``sspcab`` has the last block of the first encoder predict each cell from those about it:
Ristea, Madan, Ionescu, Nasrollahi, Khan, Moeslund, Shah, "Self-Supervised Predictive Convolutional
Attentive Block for Anomaly Detection", CVPR 2022, arXiv 2111.09099; written from the paper alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    FROM_MODEL_FILE,
    Detector,
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Optimization,
    PathName,
    Precision,
    Prediction,
    Probability,
    Setup,
    budget_note,
    fingerprint_of,
    in_precision,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.synth import FolderTextures, PerlinAnomalies, let_take_from, texture_source
from ad.recon.focal import focal_loss
from ad.recon.limits import check_plain
from ad.recon.ssim import ssim

PREDICTED = 0.1
"""Weight of the loss of the block that predicts cells from those about them."""

ENOUGH_STEPS = 12_000

_POOL = 21  # side of the square over which the map is averaged for the score, in pixels


class Mended(NamedTuple):
    """What the networks make of pictures."""

    images: Tensor
    """``[B, 3, H, W]``, float32: mended, about in [0, 1]."""
    logits: Tensor
    """``[B, 2, H, W]``, float32: of good and of broken."""
    cells: Tensor
    """``[B, 8 w, H / 16, W / 16]``: what comes into the last block of the encoder."""
    code: Tensor
    """Of that shape: what comes out of it."""


@final
class DraemDetector(Detector):
    """Scores each pixel by the probability that it was broken.

    Args:
        width: Channels of the mending network's first map; the other network has half of them.
        sspcab: Whether the last block of the encoder predicts cells from those about them.
        precision: Of both networks.
    """

    def __init__(self, *, width: int, sspcab: bool, precision: Precision) -> None:
        super().__init__()
        self.precision = precision
        self.mending = MendingNetwork(width, sspcab=sspcab)
        self.finding = FindingNetwork(width // 2)
        trained_flag(self)

    def mend(self, images: Tensor) -> Mended:
        """Mend pictures ``[B, 3, H, W]`` in [0, 1], and find where they were broken."""
        images = images.contiguous(memory_format=torch.channels_last)
        with in_precision(self.precision, images.device):
            cells = self.mending.encoder(images)
            code = self.mending.last(cells)
            mended = self.mending.decoder(code)
            logits = self.finding(torch.cat([mended, images], dim=1))
        return Mended(mended.float(), logits.float(), cells, code)

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Probabilities, and the largest mean over a square of 21 x 21 pixels as the score: of a
            single hot pixel it makes little. Beyond the border the map is 0.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If a side of the images is not a multiple of 32.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        if height % 32 or width % 32:
            msg = (
                "DRAEM takes pictures whose sides are multiples of 32 pixels, so that five "
                f"halvings come out even; got {height} x {width}. Resize them."
            )
            raise SettingError(msg)
        anomaly_map = self.mend(images).logits.softmax(dim=1)[:, 1]
        means = F.avg_pool2d(anomaly_map[:, None], _POOL, stride=1, padding=_POOL // 2)
        return Prediction(means.amax(dim=(1, 2, 3)), anomaly_map)


@final
class MendingNetwork(nn.Module):
    """Encoder and decoder without a way around the code; the paper's reconstructive network.

    Args:
        width: Channels of the first map.
        sspcab: Whether the last block of the encoder predicts cells from those about them.
    """

    def __init__(self, width: int, *, sspcab: bool) -> None:
        super().__init__()
        w = width
        self.encoder = nn.Sequential()
        for inputs, outputs in ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)):
            self.encoder.extend([*_twice(inputs, outputs), nn.MaxPool2d(2)])
        self.last = PredictiveBlock(8 * w) if sspcab else nn.Sequential(*_twice(8 * w, 8 * w))
        self.decoder = nn.Sequential()
        for inputs, outputs in ((8 * w, 4 * w), (4 * w, 2 * w), (2 * w, w), (w, w)):
            self.decoder.extend(
                [_double(inputs, inputs), *_conv(inputs, inputs), *_conv(inputs, outputs)]
            )
        self.decoder.append(nn.Conv2d(w, 3, 3, padding=1))


@final
class FindingNetwork(nn.Module):
    """A U-Net of five halvings; the paper's discriminative network.

    Args:
        width: Channels of the first map.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [factor * width for factor in (1, 2, 4, 8, 8, 8)]
        self.down = nn.ModuleList(
            nn.Sequential(*_twice(inputs, outputs))
            for inputs, outputs in zip([6, *channels], channels, strict=False)
        )
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        inputs = channels[-1]
        for beside, outputs in zip(
            channels[-2::-1], (8 * width, 4 * width, 2 * width, width, width), strict=True
        ):
            self.up.append(_double(inputs, outputs))
            self.join.append(nn.Sequential(*_twice(outputs + beside, outputs)))
            inputs = outputs
        self.last = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits ``[B, 2, H, W]`` of mended and given pictures ``[B, 6, H, W]``."""
        maps = [self.down[0](pairs)]
        for block in self.down[1:]:
            maps.append(block(F.max_pool2d(maps[-1], 2)))
        x = maps.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), maps.pop()], dim=1))
        logits: Tensor = self.last(x)
        return logits


@final
class PredictiveBlock(nn.Module):
    """SSPCAB: each cell from the four at two cells' distance along the diagonals, not from itself.

    Args:
        channels: Of what comes in and of what goes out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.corners = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.attention = nn.Sequential(
            nn.Linear(channels, channels // 8),
            nn.ReLU(),
            nn.Linear(channels // 8, channels),
            nn.Sigmoid(),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Predict ``[B, C, h, w]``; beyond the border cells are 0."""
        padded = F.pad(cells, (2, 2, 2, 2))
        upper, lower = padded[:, :, :-4], padded[:, :, 4:]
        views = (upper[..., :-4], lower[..., :-4], upper[..., 4:], lower[..., 4:])
        predicted = torch.stack(
            [corner(view) for corner, view in zip(self.corners, views, strict=True)]
        ).sum(dim=0)
        predicted = predicted.relu()
        share: Tensor = self.attention(predicted.mean(dim=(2, 3)))
        return predicted * share[:, :, None, None]


def _conv(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def _twice(inputs: int, outputs: int) -> list[nn.Module]:
    return [*_conv(inputs, outputs), *_conv(outputs, outputs)]


def _double(inputs: int, outputs: int) -> nn.Sequential:
    grow = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(grow, *_conv(inputs, outputs))


@final
class DraemTrainer(GradientTrainer):
    """Trains both networks together on pictures that it breaks.

    Args:
        setup: What the run sets.
        sspcab: Whether the last block of the mending network's encoder predicts each cell from
            those about it, with a loss of its own.
        textures: Folder of pictures of anything, at any depth, to fill blotches with; empty for
            textures made by code.
        rotate_prob: Probability that a picture is turned by up to 90 degrees before it is broken;
            0 for parts that always lie in the same way.
        width: Channels of the mending network's first map, twice those of the other one's. The
            paper's 128 is 97 million parameters; time goes with its square.
        lr: Learning rate of Adam; a fifth of it after 80 % of the steps, a fifth of that after 90.

    Raises:
        SettingError: If a setting or an option has a value that cannot work.
        DataError: If the folder of textures has no pictures.
    """

    detector: DraemDetector

    def __init__(
        self,
        setup: Setup,
        *,
        sspcab: bool = True,
        textures: PathName = "",
        rotate_prob: Probability = 0.3,
        width: Annotated[int, Field(ge=2, le=256, multiple_of=2)] = 128,
        lr: LearningRate = 1e-4,
    ) -> None:
        super().__init__(setup)
        check_plain(setup, "DRAEM")
        if not setup.img_size.divides(32, 64):
            msg = (
                "`img_size` of DRAEM must be a multiple of 32 from 64, so that five halvings come "
                f"out even and leave more than one cell; got {setup.img_size.typed}. Near it are "
                f"{setup.img_size.near(32, 64)}."
            )
            raise SettingError(msg)
        self.lr = lr
        self.steps = 0  # so far
        predicts = setup.weights == FROM_MODEL_FILE  # and needs no folder of textures
        source, self.texture_note = texture_source("" if predicts else textures)
        self.breaking = PerlinAnomalies(source, rotate_prob=rotate_prob)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            self.detector = DraemDetector(width=width, sspcab=sspcab, precision=setup.precision)
            for module in self.detector.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, 0, 0.02)
                elif isinstance(module, nn.BatchNorm2d):
                    nn.init.normal_(module.weight, 1, 0.02)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """That there were no textures, or too few steps; see `Trainer.notes`."""
        textures = () if self.texture_note is None else (self.texture_note,)
        return (*textures, *budget_note("DRAEM", self.steps, ENOUGH_STEPS, "700 epochs"))

    @property
    def inputs(self) -> Mapping[str, str]:
        """The folder of textures, if there is one; see `Trainer.inputs`."""
        source = self.breaking.textures
        if not isinstance(source, FolderTextures):
            return {}
        return {"textures": fingerprint_of(source.paths)}

    def begin(self, data: LearningData) -> None:
        """Let textures made by code take parts of all pictures; see `GradientTrainer.begin`."""
        let_take_from(self.breaking.textures, data.pictures)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Break the pictures, then judge what is made of them.

        Returns:
            ``squares`` and ``structure``: errors of the mended picture; ``focal``: of the place;
            ``predicted``: of the cells, if there is the block that predicts them.
        """
        self.steps = batch.step + 1
        broken = self.breaking(
            batch.images, [batch.generator(row) for row in range(len(batch.indices))]
        )
        mended = self.detector.mend(broken.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            losses = {
                "squares": F.mse_loss(mended.images, broken.clean),
                "structure": 1 - ssim(mended.images, broken.clean).mean(),
                "focal": focal_loss(mended.logits.softmax(dim=1), broken.masks),
            }
            if isinstance(self.detector.mending.last, PredictiveBlock):
                predicted = F.mse_loss(mended.code.float(), mended.cells.float())
                losses["predicted"] = PREDICTED * predicted
        return losses

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam, slower in the last fifth of the steps; see `GradientTrainer.optimizers`."""
        self.steps = total_steps
        adam = torch.optim.Adam(self.detector.parameters(), self.lr)

        def schedule(step: int) -> float:
            return 0.2 ** ((10 * step >= 8 * total_steps) + (10 * step >= 9 * total_steps))

        return [Optimization(optimizer=adam, schedule=schedule)]
