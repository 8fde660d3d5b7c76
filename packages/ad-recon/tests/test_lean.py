"""The family needs no pretrained networks, nor the packages that bring them."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules.update(timm=None, torchvision=None)  # importing them fails
from ad.core.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["autoencoder", "ganomaly", "draem", "dsr"])
def test_a_model_learns_where_neither_timm_nor_torchvision_is_installed(model, tmp_path):
    small = {
        "autoencoder": [],
        "ganomaly": ["--set", "input_size=64,64", "--set", "n_features=8"],
        "draem": ["--set", "width=8"],
        "dsr": ["--set", "width=4", "--set", "num_embeddings=16", "--set", "embedding_dim=8"],
    }
    words = ["train", "synthetic", "metal", model, "--steps", "2", "--img-size", "64"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words, *small[model], "--output", str(tmp_path / "run")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model/model.safetensors").is_file()
