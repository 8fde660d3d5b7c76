"""GANomaly: encode, rebuild, encode again; the score is the distance between the two codes.

A generator rebuilds pictures from a code of them and encodes what it rebuilt once more. A
discriminator, which learns to tell pictures from copies, lends it features to match. Of what was
not among the good pictures the two codes are meant to differ.

Paper: Akcay, Atapour-Abarghouei, Breckon, "GANomaly: Semi-Supervised Anomaly Detection via
Adversarial Training", ACCV 2018, arXiv 1805.06725. Official code: samet-akcay/ganomaly, MIT. The
losses are those of that code, in which the adversarial one compares features. The authors' figures
are for pictures of 32 x 32; on whole products the score is often below chance: see the README.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
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
    Side,
    Size,
    budget_note,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import GaussianBlur
from ad.recon.limits import check_plain

LR = 2e-4
"""The authors' learning rate, of generator and discriminator."""

ADVERSARIAL, CONTENT, LATENT = 1.0, 50.0, 1.0
"""The authors' weights of the generator's losses."""

COLLAPSED = 1e-5
"""Below this loss the discriminator has won, teaches nothing and is started anew."""

ENOUGH_STEPS = 5000

_SIGMA = 4.0  # of the map's smoothing, in pixels


class Copies(NamedTuple):
    """What the generator makes of pictures."""

    images: Tensor
    """``[B, 3, S, S]``, from -1 to 1."""
    rebuilt: Tensor
    """Of that shape and range."""
    code: Tensor
    """``[B, nz]``: of the pictures."""
    again: Tensor
    """``[B, nz]``: of the copies."""


@final
class GanomalyDetector(Detector):
    """Scores a picture by the distance between its code and that of its copy.

    Args:
        size: Side of the pictures in pixels, a power of two from 16.
        n_features: Channels of the first map.
        latent_vec_size: Numbers in a code.
    """

    def __init__(self, size: int, *, n_features: int, latent_vec_size: int) -> None:
        super().__init__()
        self.size = size
        self.encoder = Encoder(size, n_features, latent_vec_size)
        self.decoder = decoder(size, n_features, latent_vec_size)
        self.second_encoder = Encoder(size, n_features, latent_vec_size)
        self.blur = GaussianBlur(_SIGMA)
        trained_flag(self)

    def copy(self, images: Tensor) -> Copies:
        """Rebuild pictures ``[B, 3, S, S]`` in [0, 1], and encode both; float32."""
        images = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        code = self.encoder(images)
        rebuilt = torch.tanh(self.decoder(code).float())
        again = self.second_encoder(rebuilt)
        return Copies(images, rebuilt, code.float().flatten(1), again.float().flatten(1))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The mean squared difference of the codes; and, beside the paper, which has no map,
            the smoothed absolute differences of picture and copy, from 0 to 2.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If the images are not of the size it was trained at.
        """
        self.require_fitted()
        height, width = images.shape[2], images.shape[3]
        if (height, width) != (self.size, self.size):
            msg = (
                f"This GANomaly was trained at {self.size} x {self.size} pixels; got {height} x "
                f"{width}. Resize the pictures, or train at their size."
            )
            raise SettingError(msg)
        copies = self.copy(images)
        score = (copies.again - copies.code).square().mean(dim=1)
        return Prediction(score, self.blur((copies.images - copies.rebuilt).abs().mean(dim=1)))


@final
class Encoder(nn.Module):
    """Halves a picture to 4 x 4 cells, then to one.

    Args:
        size: Side of the pictures.
        n_features: Channels of the first map; they double with each halving.
        outputs: Channels of the last cell.
    """

    def __init__(self, size: int, n_features: int, outputs: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, n_features, 4, 2, 1, bias=False), nn.LeakyReLU(0.2))
        channels = n_features
        while size > 8:
            self.trunk.extend(
                [
                    nn.Conv2d(channels, 2 * channels, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(2 * channels),
                    nn.LeakyReLU(0.2),
                ]
            )
            channels, size = 2 * channels, size // 2
        self.last = nn.Conv2d(channels, outputs, 4, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode ``[B, 3, S, S]`` into ``[B, outputs, 1, 1]``."""
        code: Tensor = self.last(self.trunk(images))
        return code


def decoder(size: int, n_features: int, latent_vec_size: int) -> nn.Sequential:
    """The mirror image of an `Encoder`, ``[B, nz, 1, 1]`` to ``[B, 3, S, S]``, without the tanh."""
    channels = n_features * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(latent_vec_size, channels, 4, bias=False)]
    while channels > n_features:
        layers += [
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1, bias=False),
        ]
        channels //= 2
    layers += [nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 3, 4, 2, 1, bias=False))


@final
class Discriminator(nn.Module):
    """Tells pictures from copies of them; started anew when it has won.

    Args:
        size: Side of the pictures.
        n_features: Channels of the first map.
        seed: Of the run.
    """

    judged: Tensor
    """Its loss of the last step: a buffer, so that a resumed run knows if a restart is due, and
    several processes, whose buffers are averaged, agree on it."""

    def __init__(self, size: int, n_features: int, *, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.encoder = Encoder(size, n_features, 1)
        self.register_buffer("judged", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge pictures.

        Args:
            images: ``[B, 3, S, S]``, from -1 to 1.

        Returns:
            Features ``[B, C, 4, 4]`` and logits ``[B]`` of being pictures, not copies; float32.
        """
        features = self.encoder.trunk(images)
        return features.float(), self.encoder.last(features).float().flatten()

    def restart_if_collapsed(self, step: int) -> None:
        """Draw new weights if its last loss was next to nothing; before the step's losses."""
        if self.judged < COLLAPSED:
            initialize(self, torch.Generator().manual_seed(stream(self.seed, 4, step)))


@torch.no_grad()
def initialize(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the authors' initial weights."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            part.weight.copy_(0.02 * torch.randn(part.weight.shape, generator=generator))
        elif isinstance(part, nn.BatchNorm2d):
            part.weight.copy_(1 + 0.02 * torch.randn(part.weight.shape, generator=generator))
            part.bias.zero_()


@final
class GanomalyTrainer(GradientTrainer):
    """Trains generator and discriminator, each by an optimiser of its own.

    Args:
        setup: What the run sets.
        input_size: Height and width of the pictures: both the run's ``img_size``.
        n_features: Channels of the first map; they double with each halving of the picture.
        latent_vec_size: Numbers in a code.
        gamma: Factor on the authors' learning rate of 0.0002, if there is no ``lr``; no weight of
            a loss.
        lr: Learning rate of both Adams; None for ``gamma`` times the authors'.

    Raises:
        SettingError: If a setting or an option has a value that cannot work.
    """

    detector: GanomalyDetector

    def __init__(
        self,
        setup: Setup,
        *,
        input_size: tuple[Side, Side] = (256, 256),
        n_features: Annotated[int, Field(ge=1, le=256)] = 64,
        latent_vec_size: Annotated[int, Field(ge=1, le=4096)] = 256,
        gamma: Annotated[float, Field(gt=0, le=10**4)] = 0.01,
        lr: LearningRate | None = None,
    ) -> None:
        super().__init__(setup)
        check_plain(setup, "GANomaly")
        size = _check_size(input_size, setup.img_size)
        self.gamma = gamma
        self.lr = lr
        self.steps = 0  # so far
        with torch.random.fork_rng(devices=[]):  # torch's own initial weights are drawn over
            self.detector = GanomalyDetector(
                size, n_features=n_features, latent_vec_size=latent_vec_size
            )
            self.discriminator = Discriminator(size, n_features, seed=setup.seed)
        generator = torch.Generator().manual_seed(stream(setup.seed, 3))
        for module in (self.detector, self.discriminator):
            initialize(module, generator)
            module.to(setup.device).to(memory_format=torch.channels_last).eval()

    def modules(self) -> Mapping[str, nn.Module]:
        """The discriminator too, which is not part of the detector."""
        return {"detector": self.detector, "discriminator": self.discriminator}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the learning rate and the steps are worth; see `Trainer.notes`."""
        rate = self.gamma * LR
        slow: tuple[str, ...] = ()
        if self.lr is None and rate < LR:
            slow = (
                f"GANomaly learnt at a rate of {rate:g} (`gamma` {self.gamma:g} times {LR:g}): its "
                "networks have hardly left their random start, and scores mean little. "
                f"`--set lr={LR:g}` is the authors' rate.",
            )
        return (*slow, *budget_note("GANomaly", self.steps, ENOUGH_STEPS))

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Three terms of the generator and one of the discriminator.

        The discriminator sees each picture and copy once for both; each optimiser takes the
        gradients of its own terms to its own parameters, so nothing has to be detached for it.

        Returns:
            ``adversarial``: difference of the features of pictures and copies; ``content``: of
            the pixels; ``latent``: of the codes; ``discriminator``: how badly it tells apart.
        """
        self.steps = batch.step + 1
        self.discriminator.restart_if_collapsed(batch.step)
        copies = self.detector.copy(batch.images)
        true_features, true_logits = self.discriminator(copies.images)
        features, logits = self.discriminator(copies.rebuilt)
        with torch.autocast(batch.images.device.type, enabled=False):
            told = F.binary_cross_entropy_with_logits(true_logits, torch.ones_like(true_logits))
            told = told + F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
            losses = {
                "adversarial": ADVERSARIAL * F.mse_loss(features, true_features.detach()),
                "content": CONTENT * F.l1_loss(copies.rebuilt, copies.images),
                "latent": LATENT * F.mse_loss(copies.again, copies.code),
                "discriminator": told / 2,
            }
        self.discriminator.judged.copy_(losses["discriminator"].detach())
        return losses

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Two Adams at a constant rate; see `GradientTrainer.optimizers`."""
        self.steps = total_steps
        lr = self.gamma * LR if self.lr is None else self.lr
        own = {
            self.detector: ("adversarial", "content", "latent"),
            self.discriminator: ("discriminator",),
        }
        return [
            Optimization(
                optimizer=torch.optim.Adam(module.parameters(), lr, betas=(0.5, 0.999)), terms=terms
            )
            for module, terms in own.items()
        ]


def _check_size(input_size: tuple[int, int], img_size: Size) -> int:
    """The side of the pictures, if it can be one."""
    height, width = input_size
    if height != width or height < 16 or height & (height - 1):
        msg = (
            "`input_size` of GANomaly must be a square of a power of two from 16, which halves "
            f"down to 4; got {height} x {width}."
        )
        raise SettingError(msg)
    if img_size != input_size:
        msg = (
            f"`input_size` {height} x {width} and `img_size` {img_size.typed} of GANomaly must "
            "agree. Give both, `--img-size N --set input_size=N,N`, with N a power of two from 16."
        )
        below, above = 1 << min(img_size).bit_length() - 1, 1 << (max(img_size) - 1).bit_length()
        if below != above:
            msg += f" Near {img_size.typed} are {max(16, below)} and {max(16, above)}."
        raise SettingError(msg)
    return height
