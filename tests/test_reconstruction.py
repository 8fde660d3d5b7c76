"""The reconstruction family, the whole way on pictures drawn by code, without timm."""

import json
import subprocess
import sys

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


PROGRAM = """
import json
import sys
from ad.core import train
train("mvtec", "metal", sys.argv[1], data_root=sys.argv[2], img_size=64, num_steps=1,
      batch_size=4, model=json.loads(sys.argv[3]), output_dir=sys.argv[4])
assert not {"timm", "torchvision"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("autoencoder", {"latent_dim": 4}),
        ("ganomaly", {"input_size": [64, 64], "n_features": 4, "latent_vec_size": 4}),
        ("draem", {"width": 4}),
    ],
)
def test_neither_timm_nor_torchvision_is_imported(model, options, metal, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, str(metal), json.dumps(options), tmp_path / "run"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
