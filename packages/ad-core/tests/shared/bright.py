"""A detector whose map is the picture's brightness, and that tells what it was shown."""

import torch

from ad.core.detector import Detector, Prediction, learned_buffer
from ad.core.trainer import OnePassTrainer


class BrightDetector(Detector):
    """The map is each pixel's own brightness: the same wherever a tile lies."""

    def __init__(self):
        super().__init__()
        learned_buffer(self, "seen", shape=(1,))

    def forward(self, images):
        maps = images.mean(1)
        return Prediction(maps.amax((1, 2)), maps)


class BrightTrainer(OnePassTrainer):
    """Counts the pictures that it is shown, and remembers them."""

    shown = []  # noqa: RUF012 - of the last training

    def __init__(self, setup):
        super().__init__(setup)
        self.detector = BrightDetector()

    def begin(self, num_images):
        BrightTrainer.shown = []
        self.expected = num_images

    def observe(self, images):
        BrightTrainer.shown.append(images.clone())

    def conclude(self):
        count = sum(map(len, BrightTrainer.shown))
        assert count == self.expected
        self.detector.seen = torch.tensor([float(count)])
