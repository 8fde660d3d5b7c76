"""A model that cannot be built with one of its options, or where it finds weights of its own."""

from ad.core.errors import SettingError, WeightsError
from ad.core.testing.mean_picture import MeanPictureTrainer


class WaryTrainer(MeanPictureTrainer):
    built = []  # noqa: RUF012 - what they were told, whoever built them

    def __init__(self, setup, *, odd: bool = False):
        super().__init__(setup)
        self.built.append(setup)
        if odd:
            msg = "`img_size` must be odd."
            raise SettingError(msg)
        if setup.weights == "auto":
            msg = "There are no weights here."
            raise WeightsError(msg)
