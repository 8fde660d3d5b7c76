from typing import ClassVar

import pytest
import torch

from ad.core import ModelRegistry
from ad.core.detector import Detector, Prediction, learned_buffer
from ad.core.testing import check_model
from ad.core.trainer import OnePassTrainer


def test_a_model_that_keeps_its_promises_passes(mean_picture):
    check_model(mean_picture)


class BrokenDetector(Detector):
    """Right but for one fault."""

    fault: ClassVar[str] = ""

    def __init__(self):
        super().__init__()
        learned_buffer(self, "mean")
        self.secret = torch.zeros(1)

    def forward(self, images):
        if self.fault == "unfitted" and self.mean.numel() == 0:
            return Prediction(torch.zeros(len(images)), None)
        self.require_fitted()
        map_ = (images - self.mean).abs().amax(dim=1)
        score = map_.amax(dim=(1, 2))
        if self.fault == "batch":
            score = score / score.max()
        if self.fault == "shape":
            score = score[:, None]
        if self.fault == "type":
            score = score.double()
        if self.fault == "finite":
            score = score * float("nan")
        if self.fault == "map":
            map_ = map_[:, ::2]
        if self.fault == "elsewhere":
            map_ = map_.roll(32, dims=1)
        if self.fault == "no map":
            map_ = None
        if self.fault == "random":
            score = score + torch.rand(1)
        if self.fault == "unsaved":
            score = score + self.secret
        if self.fault == "blind":
            score = -score
        return Prediction(score=score, map=map_)


class BrokenTrainer(OnePassTrainer):
    def __init__(self, setup):
        super().__init__(setup)
        self.detector = BrokenDetector()
        self.rows = []

    def observe(self, images):
        self.rows.append(images)

    def conclude(self):
        self.detector.mean = torch.cat(self.rows).mean(dim=0)
        self.detector.secret = self.detector.mean.sum()[None]


@pytest.fixture
def broken(monkeypatch):
    train = {"num_epochs": 1, "batch_size": 4, "img_size": 64, "normalize": False}
    ModelRegistry.register("broken", "ad.core.nowhere:Broken", {}, train)
    monkeypatch.setattr("ad.core.testing.conformance.load_trainer", lambda spec: BrokenTrainer)
    yield "broken"
    ModelRegistry.unregister("broken")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("unfitted", "must raise `NotFittedError`"),
        ("shape", "one value per image"),
        ("type", "`score` must be float32"),
        ("finite", "`score` must be finite"),
        ("map", "one value per input pixel"),
        ("no map", "`localises` must say"),
        ("batch", "must not depend on the other images"),
        ("random", "random generator alone"),
        ("unsaved", "saved and loaded model must score the same"),
        ("blind", "must score higher than good pictures"),
        ("elsewhere", "must be higher on a blatant defect"),
    ],
)
def test_a_broken_promise_is_named(broken, monkeypatch, fault, words):
    monkeypatch.setattr(BrokenDetector, "fault", fault)
    with pytest.raises(AssertionError, match=words):
        check_model(broken)
