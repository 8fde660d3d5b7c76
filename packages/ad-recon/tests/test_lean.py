"""The family needs no pretrained networks, nor the packages that bring them."""

import subprocess
import sys

import pytest

from ad.core.testing import write_mvtec_tree

SMALL = {
    "autoencoder": {"latent_dim": 8},
    "ganomaly": {"input_size": (64, 64), "n_features": 8},
    "draem": {"width": 4},
    "dsr": {"width": 4, "num_embeddings": 16, "embedding_dim": 8},
}
PROGRAM = """
import sys

class Missing:
    asked = []

    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("timm", "torchvision"):
            self.asked.append(name)
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from ad.core import train
data, runs, models = sys.argv[1:]
for model, options in eval(models).items():
    train("mvtec", "toy", model, data_root=data, output_dir=f"{runs}/{model}", img_size=64,
          num_steps=2, batch_size=2, model=options)
assert not Missing.asked, Missing.asked
"""


@pytest.mark.slow
def test_all_models_learn_where_neither_timm_nor_torchvision_is_installed(tmp_path):
    data = write_mvtec_tree(tmp_path / "data", train=6, good=1, bad=1)
    words = [str(data), str(tmp_path / "runs"), repr(SMALL)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for model in SMALL:
        assert (tmp_path / f"runs/{model}/model/model.safetensors").is_file()
