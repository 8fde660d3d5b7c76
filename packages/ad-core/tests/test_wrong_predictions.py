"""A model that breaks the promise of a prediction's form is told so at work, too."""

import pytest
import torch

from ad.core import LoadedDetector, Prediction
from ad.core.errors import PluginError
from ad.core.framing import Framing
from ad.core.predict import ModelConfig
from ad.core.testing.mean_picture import MeanPictureDetector
from ad.runtime.framing.size import Size

SIZE = Size(4, 6)
SCORE, MAP = torch.zeros(2), torch.zeros(2, *SIZE)


@pytest.fixture
def detector():
    config = ModelConfig(
        model="mine",
        options={},
        framing=Framing(size=SIZE),
        normalize=False,
        precision="fp32",
        categories=("toy",),
        calibration=None,
        calibrated_on=None,
        white_level=None,
    )
    model = MeanPictureDetector(gain=1.0, img_size=SIZE)
    return LoadedDetector(model, config, torch.device("cpu"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((SCORE, MAP), "must return `Prediction.score=.*; it returns a `tuple`"),
        (SCORE, "it returns a `Tensor`"),
        (Prediction(SCORE[:, None], MAP), r"one value per image, \[2\]; got \[2, 1\]"),
        (Prediction(SCORE, None), "it is True and `map` is None"),
        (Prediction(SCORE, MAP.mT), r"value per input pixel, \[2, 4, 6\]; got \[2, 6, 4\]"),
    ],
)
def test_what_is_no_prediction_is_refused(detector, monkeypatch, given, words):
    monkeypatch.setattr(MeanPictureDetector, "forward", lambda self, images: given)
    with pytest.raises(PluginError, match=f"Model `mine` breaks .*{words}.*`ad check mine` tries"):
        detector.score(torch.zeros(2, *SIZE, 3, dtype=torch.uint8))


def test_what_is_one_is_taken(detector, monkeypatch):
    monkeypatch.setattr(MeanPictureDetector, "forward", lambda self, images: Prediction(SCORE, MAP))
    scores, maps = detector.score(torch.zeros(2, *SIZE, 3, dtype=torch.uint8))
    assert scores.shape == (2,)
    assert maps.shape == (2, *SIZE)
