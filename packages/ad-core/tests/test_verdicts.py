"""What a threshold calls pictures: the same in every batch, and as often wrong as was promised."""

import numpy as np
import pytest

from ad.core import ModelRegistry, recalibrate, train


@pytest.fixture
def wobbling():
    ModelRegistry.register(
        "wobbling",
        "wobbling:WobblingTrainer",
        {},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield "wobbling"
    ModelRegistry.unregister("wobbling")


@pytest.mark.parametrize("held_out", [1, 5, 8])
def test_the_picture_that_set_the_threshold_is_good_in_every_batch(
    wobbling, toy_root, tmp_path, held_out
):
    result = train("mvtec", "toy", wobbling, data_root=toy_root, output_dir=tmp_path / "run",
                   holdout=held_out / 10, report=False)  # fmt: skip
    calibration, good = result.detector.config.calibration, toy_root / "toy/train/good"
    verdicts = []
    for size in (1, 2, 3, 4, 7):
        findings = result.detector.predict(good, batch_size=size)
        marked = [finding.map.max() > calibration.pixel_threshold for finding in findings]
        verdicts.append([[finding.anomalous for finding in findings], marked])
    assert verdicts == [verdicts[0]] * 5
    nearest = min(abs(finding.score - calibration.threshold) for finding in findings)
    assert nearest < 0.01 * calibration.scale  # the one that set it is among them
