"""A model that judges pictures as a whole: it has no maps."""

from ad.core import learned_buffer
from ad.core.detector import Detector, Prediction
from ad.core.trainer import OnePassTrainer


class WholeDetector(Detector):
    """Judges pictures by their brightness as a whole."""

    localises = False

    def __init__(self):
        super().__init__()
        learned_buffer(self, "level", shape=(1,))

    def forward(self, images):
        return Prediction(images.mean((1, 2, 3)) - self.level, None)


class WholeTrainer(OnePassTrainer):
    def __init__(self, setup):
        super().__init__(setup)
        self.detector = WholeDetector()

    def observe(self, images):
        self.detector.level = images.mean()[None]

    def conclude(self):
        pass
