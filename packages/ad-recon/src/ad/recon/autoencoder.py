"""Auto-encoder: rebuild a picture through a narrow code; the score is what does not come back.

Four convolutions halve the picture, a linear layer squeezes it into a few numbers, and the mirror
image of both rebuilds it. The code has room for what good parts look like; of a defect, pixels and
structure are lost.

Paper: Bergmann, Löwe, Fauser, Sattlegger, Steger, "Improving Unsupervised Defect Segmentation by
Applying Structural Similarity to Autoencoders", VISAPP 2019, arXiv 1807.02011. No code of the
authors. Theirs has more layers and works on patches of 128 pixels; this one takes whole pictures,
and its loss and map are the sum of both kinds of error that they compare.
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
    LearningBatch,
    LearningRate,
    Optimization,
    Prediction,
    Setup,
    Size,
    WeightDecay,
    budget_note,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import GaussianBlur, SigmaOrNone
from ad.recon.limits import check_plain
from ad.recon.ssim import ssim

Score = Literal["max", "top"]

SQUARES, STRUCTURE = 0.7, 0.3
"""Shares of the squared and the structural error, in the loss and in the map."""

ENOUGH_STEPS = 3000

_WIDTHS = (3, 32, 64, 128, 256)
_TOP = 0.01  # of a map's pixels, for the score `top`


@final
class AutoencoderDetector(Detector):
    """Scores each pixel by the error of rebuilding it.

    Args:
        img_size: Height and width of the pictures: the linear layers take no other.
        latent_dim: Numbers in the code.
        norm: Whether maps are normalised one by one and cut off softly below 0.
        sigma: Of the map's smoothing, in pixels; 0 for none.
        score: The map's largest value, or the mean of its largest 1 %.
    """

    def __init__(
        self, img_size: Size, *, latent_dim: int, norm: bool, sigma: float, score: Score
    ) -> None:
        super().__init__()
        self.img_size = img_size
        cells = _WIDTHS[-1] * (img_size.height // 16) * (img_size.width // 16)
        self.encoder = nn.Sequential()
        self.decoder = nn.Sequential()
        for inputs, outputs in zip(_WIDTHS, _WIDTHS[1:], strict=False):
            self.encoder.extend([nn.Conv2d(inputs, outputs, 4, 2, 1), *_bend(outputs, norm)])
        self.squeeze = nn.Linear(cells, latent_dim)
        self.expand = nn.Sequential(nn.Linear(latent_dim, cells), nn.ReLU())
        for inputs, outputs in zip(_WIDTHS[:1:-1], _WIDTHS[-2:0:-1], strict=True):
            self.decoder.extend(
                [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), *_bend(outputs, norm)]
            )
        self.decoder.append(nn.ConvTranspose2d(_WIDTHS[1], 3, 4, 2, 1))
        self.blur = GaussianBlur(sigma) if sigma else nn.Identity()
        self.score: Score = score
        trained_flag(self)

    def rebuild(self, images: Tensor) -> Tensor:
        """What comes back of pictures, ``[B, 3, H, W]``, float32 in [0, 1]."""
        cells = self.encoder(images.contiguous(memory_format=torch.channels_last))
        code = self.squeeze(cells.flatten(1))
        return torch.sigmoid(self.decoder(self.expand(code).view_as(cells)).float())

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed errors from 0 to 1, and the largest of each image as its score.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        if (height, width) != self.img_size:
            msg = (
                f"This auto-encoder was trained at {self.img_size} pixels; got {height} x {width}. "
                "Resize the pictures, or train at their size."
            )
            raise SettingError(msg)
        anomaly_map: Tensor = self.blur(error_map(images, self.rebuild(images)))
        if self.score == "max":
            return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)
        count = max(1, int(_TOP * height * width))
        top = anomaly_map.flatten(1).topk(count, dim=1, sorted=False).values
        return Prediction(top.mean(dim=1), anomaly_map)


def error_map(images: Tensor, rebuilt: Tensor) -> Tensor:
    """Squared and structural error of each pixel: ``[B, H, W]``, float32, from 0 to 1.

    Args:
        images: ``[B, 3, H, W]``, in [0, 1].
        rebuilt: Of that shape and range.
    """
    squares = (images - rebuilt).square().mean(dim=1)
    return SQUARES * squares + STRUCTURE * (1 - ssim(images, rebuilt)) / 2


def _bend(channels: int, norm: bool) -> list[nn.Module]:
    if norm:
        return [nn.InstanceNorm2d(channels, affine=True), nn.LeakyReLU(0.2)]
    return [nn.ReLU()]


@final
class AutoencoderTrainer(GradientTrainer):
    """Trains the network; keeps the epoch that rebuilds held-out good pictures best.

    Args:
        setup: What the run sets.
        latent_dim: Numbers in the code: fewer are blurrier, more let defects through.
        norm: Whether to have instance normalisation and leaky ReLU in place of plain ReLU.
        sigma: Of the map's smoothing, in pixels; 0 for none.
        score: ``max``, the map's largest value, or ``top``, the mean of its largest 1 %.
        lr: Learning rate of Adam, halved after each tenth of the steps: every 5 of 50 epochs.
        weight_decay: Its weight decay.

    Raises:
        SettingError: If a setting or an option has a value that cannot work.
    """

    detector: AutoencoderDetector

    def __init__(
        self,
        setup: Setup,
        *,
        latent_dim: Annotated[int, Field(ge=1, le=4096)] = 128,
        norm: bool = False,
        sigma: SigmaOrNone = 4.0,
        score: Score = "max",
        lr: LearningRate = 1e-3,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        self.steps = 0  # so far
        check_plain(setup, "the auto-encoder")
        smallest = 32 if norm else 16  # one cell has no deviation to normalise by
        if not setup.img_size.divides(16, smallest):
            msg = (
                f"`img_size` of the auto-encoder must be a multiple of 16 from {smallest}, so that "
                f"four halvings come out even; got {setup.img_size.typed}. Near it are "
                f"{setup.img_size.near(16, smallest)}."
            )
            raise SettingError(msg)
        self.lr = lr
        self.weight_decay = weight_decay
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            self.detector = AutoencoderDetector(
                setup.img_size, latent_dim=latent_dim, norm=norm, sigma=sigma, score=score
            )
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """That learning was short, if it was; see `Trainer.notes`."""
        return budget_note("The auto-encoder", self.steps, ENOUGH_STEPS)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean squared error and one minus the mean similarity, each with its share."""
        self.steps = batch.step + 1
        rebuilt = self.detector.rebuild(batch.images)
        return {
            "squares": SQUARES * (batch.images - rebuilt).square().mean(),
            "structure": STRUCTURE * (1 - ssim(batch.images, rebuilt).mean()),
        }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam, its rate halved after each tenth of the steps; see `GradientTrainer.optimizers`."""
        self.steps = total_steps
        adam = torch.optim.Adam(self.detector.parameters(), self.lr, weight_decay=self.weight_decay)
        return [
            Optimization(optimizer=adam, schedule=lambda step: 0.5 ** (10 * step // total_steps))
        ]

    def monitor(self, images: Tensor) -> Tensor:
        """The mean of each held-out picture's error; see `GradientTrainer.monitor`."""
        return error_map(images, self.detector.rebuild(images)).mean(dim=(1, 2))
