"""Models that use held-out pictures, each in its way, and remember which they were given."""

from ad.core.testing.linear_student import LinearStudentTrainer


class WatchingTrainer(LinearStudentTrainer):
    """Chooses its epoch."""

    given = []  # noqa: RUF012 - of the last training

    def begin(self, data):
        WatchingTrainer.given = []

    def monitor(self, images):
        WatchingTrainer.given.append(images.clone())
        return self.detector.gap(images, self.detector.taught(images)).mean((1, 2))


class ScalingTrainer(LinearStudentTrainer):
    """Looks at them at the end."""

    given = []  # noqa: RUF012

    def conclude(self, data, held_out):
        ScalingTrainer.given = [] if held_out is None else list(held_out.pictures.sources)


class EndingTrainer(ScalingTrainer):
    """Has something to do at the end, without them."""

    @classmethod
    def uses_held_out(cls):
        return False
