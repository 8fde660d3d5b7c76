import pytest
import torch

from ad.core.testing import run_checks
from ad.core.testing.mean_picture import MeanPictureDetector, MeanPictureTrainer


class Together(MeanPictureTrainer):
    """Means of all folds but one from the sum of all, less the fold's own."""

    keeps = 0.0  # of a fold's own pictures
    fewer = 0

    def fit_folds(self, folds):
        counts = torch.tensor([count for count, _ in folds])
        sums = torch.stack([sum(batch.sum(dim=0) for batch in batches) for _, batches in folds])
        for own in range(len(folds) - self.fewer):
            weight = torch.ones(len(folds))
            weight[own] = self.keeps
            detector = MeanPictureDetector(gain=1, img_size=self.setup.img_size)
            detector.mean = torch.tensordot(weight, sums, dims=1) / (weight * counts).sum()
            yield detector


def outcome(monkeypatch, name, **faults):
    trainer = type("Faulty", (Together,), faults)
    monkeypatch.setattr("ad.core.testing.subject.load_trainer", lambda spec: trainer)
    return next(one for one in run_checks(name, img_size=32) if one.id == "folds")


def test_folds_that_are_fitted_together_may_be_what_each_is_alone(mean_picture, monkeypatch):
    assert outcome(monkeypatch, mean_picture).outcome == "passed"


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ({"keeps": 1.0}, "a threshold is set by what each says of the fold that it has not seen"),
        ({"keeps": 0.05}, "must score as those that trainers of their own learn from the other"),
        ({"fewer": 1}, "must give a detector for each of the 3 folds"),
    ],
)
def test_others_are_told(mean_picture, monkeypatch, faults, words):
    found = outcome(monkeypatch, mean_picture, **faults)
    assert found.outcome == "failed"
    assert words in found.message


def test_a_model_that_has_folds_fitted_one_by_one_is_not_asked(mean_picture):
    (found,) = (one for one in run_checks(mean_picture, img_size=32) if one.id == "folds")
    assert (found.outcome, found.message) == ("skipped", "it has no `fit_folds` of its own")
