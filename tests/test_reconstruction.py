"""The reconstruction family, the whole way on pictures drawn by code, without timm."""

import pytest

from ad.core import evaluate, train
from ad.core.data import synthetic


@pytest.fixture(scope="module")
def metal(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    synthetic.write(root / "metal", categories=["metal"], train=16, test_good=8,
                    test_defective=3, size=64)  # fmt: skip
    return root / "metal"


def test_an_auto_encoder_finds_what_it_never_saw(metal, tmp_path):
    run = tmp_path / "run"
    ours = train("mvtec", "metal", "autoencoder", data_root=metal, img_size=64, num_epochs=20,
                 batch_size=8, output_dir=run)  # fmt: skip
    assert ours.metrics["image_auroc"] > 0.6  # defects of a few pixels, on brushed steel
    assert ours.metrics["pixel_auroc"] > 0.9
    assert evaluate(run).metrics == ours.metrics
    assert any("needs about 3,000" in note for note in ours.notes)
