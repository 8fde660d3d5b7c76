"""A model whose last digits follow the batch, as those of sums in another order do."""

from ad.core.detector import Prediction
from ad.core.testing.mean_picture import MeanPictureDetector, MeanPictureTrainer


class WobblingDetector(MeanPictureDetector):
    def forward(self, images):
        steady = super().forward(images)
        factor = 1 + 2e-6 * (len(images) % 4)
        return Prediction(score=steady.score * factor, map=steady.map * factor)


class WobblingTrainer(MeanPictureTrainer):
    """Scores and maps are up to six millionths larger in batches of some lengths."""

    def __init__(self, setup, **options):
        super().__init__(setup, **options)
        self.detector = WobblingDetector(gain=1.0, img_size=setup.img_size).to(setup.device)
