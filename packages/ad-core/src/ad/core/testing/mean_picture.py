"""The smallest whole model: the distance of each pixel to the mean good picture.

For tests of what surrounds a model, and a pattern for one's own. It needs no weights.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from ad.core.detector import Detector, Prediction, learned_buffer
from ad.core.options import Field
from ad.core.trainer import OnePassTrainer, Setup
from ad.runtime.framing.size import Size


@final
class MeanPictureDetector(Detector):
    """Scores a picture by its largest distance to the mean picture."""

    mean: Tensor

    def __init__(self, *, gain: float, img_size: Size) -> None:
        super().__init__()
        self.gain = gain
        learned_buffer(self, "mean", shape=(3, *img_size))

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`."""
        self.require_fitted()
        map_ = self.gain * (images - self.mean).abs().amax(dim=1)  # [B, H, W]
        return Prediction(score=map_.amax(dim=(1, 2)), map=map_)


@final
class MeanPictureTrainer(OnePassTrainer):
    """Averages the good pictures.

    Args:
        setup: What the run tells every trainer.
        gain: Factor on every score.
    """

    def __init__(self, setup: Setup, *, gain: Annotated[float, Field(gt=0, le=1000)] = 1.0) -> None:
        super().__init__(setup)
        detector = MeanPictureDetector(gain=gain, img_size=setup.img_size)
        self.detector: MeanPictureDetector = detector.to(setup.device)
        self._sum = torch.zeros(3, *setup.img_size, device=setup.device)
        self._seen = 0

    def observe(self, images: Tensor) -> None:
        """Add a batch; see `OnePassTrainer.observe`."""
        self._sum += images.sum(dim=0)
        self._seen += len(images)

    def conclude(self) -> None:
        """Take the mean; see `OnePassTrainer.conclude`."""
        self.detector.mean = self._sum / self._seen
