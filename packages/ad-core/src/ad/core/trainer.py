"""How a detector learns.

A trainer knows its model and nothing of data sets, files or the command line; `ad.core.loop`
drives it. A new way of learning is a new abstract class here, not a flag.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ad.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import Tensor

    from ad.core.detector import Detector

Precision = Literal["fp32", "bf16"]

FROM_MODEL_FILE = "from-model-file"
"""Value of `Setup.weights` while a saved model is loaded: it brings its own weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a run tells every trainer; all else are the model's own options."""

    img_size: int
    """Side of the square pictures, in pixels."""
    normalize: bool
    """Whether pictures are normalised with ImageNet's mean and deviation inside the detector."""
    num_epochs: int = 1
    """How often each training picture is seen."""
    batch_size: int = 8
    """Pictures in a training batch."""
    seed: int = 0
    """Seed of every random choice."""
    weights: str = "auto"
    """Where a backbone's weights come from: see `ad.core.backbones`."""
    device: torch.device = torch.device("cpu")
    """Where the detector learns."""
    precision: Precision = "fp32"
    """Precision of frozen networks; statistics and distances are always fp32."""
    progress: Progress = SILENT
    """Where long work is shown."""


class Trainer(abc.ABC):
    """Builds one detector and teaches it.

    The constructor builds the detector, unfitted and on ``setup.device``. Its keyword-only
    arguments after ``setup`` are the model's options; their annotations (`Literal`, `int`,
    `tuple[str, ...]`, ...) are what the registry checks a user's options against.
    """

    detector: Detector

    def __init__(self, setup: Setup) -> None:
        self.setup = setup


class OnePassTrainer(Trainer):
    """Sees every normal picture once, then is done: memory banks, Gaussians, densities."""

    def begin(self, num_images: int) -> None:  # noqa: B027 - optional on purpose
        """Prepare for the pictures; called once, before the first batch.

        Args:
            num_images: How many pictures will be observed in all.
        """

    @abc.abstractmethod
    def observe(self, images: Tensor) -> None:
        """Take in one batch of normal pictures.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], on ``setup.device``. The last batch
                may be smaller.
        """

    @abc.abstractmethod
    def conclude(self) -> None:
        """Turn what was observed into a fitted ``detector``."""
