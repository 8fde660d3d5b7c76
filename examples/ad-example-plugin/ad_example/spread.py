"""Spread: how many standard deviations a pixel is from the mean good picture."""

from typing import Annotated

import torch
from torch import Tensor

from ad.core import Detector, Field, OnePassTrainer, Prediction, Setup, learned_buffer


class SpreadDetector(Detector):
    """Distance of each pixel to its mean, in units of its own spread."""

    mean: Tensor
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        learned_buffer(self, "mean", shape=(3, "H", "W"))
        learned_buffer(self, "spread", shape=(3, "H", "W"))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch ``[B, 3, H, W]`` in [0, 1]."""
        self.require_fitted()
        map_ = ((images - self.mean).abs() / self.spread).mean(dim=1)
        return Prediction(score=map_.amax(dim=(1, 2)), map=map_)


class SpreadTrainer(OnePassTrainer):
    """Takes mean and standard deviation of each pixel over the good pictures.

    Args:
        setup: What the run tells every trainer.
        floor: Least standard deviation: users set it with ``--set floor=0.1``.
    """

    def __init__(self, setup: Setup, *, floor: Annotated[float, Field(gt=0, le=1)] = 0.02) -> None:
        super().__init__(setup)
        self.detector: SpreadDetector = SpreadDetector().to(setup.device)
        self.floor = floor
        shape = (3, *setup.img_size)
        self.sum = torch.zeros(shape, dtype=torch.float64, device=setup.device)
        self.sum_of_squares = torch.zeros_like(self.sum)
        self.seen = 0

    def observe(self, images: Tensor) -> None:
        """Add a batch."""
        self.sum += images.double().sum(dim=0)
        self.sum_of_squares += images.double().square().sum(dim=0)
        self.seen += len(images)

    def conclude(self) -> None:
        """Fill the detector's buffers."""
        mean = self.sum / self.seen
        variance = (self.sum_of_squares / self.seen - mean.square()).clamp_min(0)
        self.detector.mean = mean.float()
        self.detector.spread = variance.sqrt().clamp_min(self.floor).float()
