"""One Dinomaly for several products at once, which is what it is for: a run from end to end."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from ad.core import load, train
from ad.core.testing import write_mvtec_tree

OPTIONS = {
    "encoder_name": "test_vit",
    "layers": ("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
    "decoder_depth": 2,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Two products that differ more than a good part of either from a defective one."""
    root = tmp_path_factory.mktemp("parts")
    for seed, category in enumerate(("bolts", "caps")):
        write_mvtec_tree(root, category, train=8, good=3, bad=3, seed=seed)
    for path in (root / "caps").rglob("*/*/*.png"):
        if "ground_truth" not in path.parts:
            ImageOps.invert(Image.open(path).convert("RGB").rotate(90)).save(path)
    for path in (root / "caps/ground_truth").rglob("*.png"):
        Image.open(path).rotate(90).save(path)
    return root


def test_one_detector_finds_the_defects_of_all_categories(parts, tmp_path):
    result = train(
        "mvtec", "all", "dinomaly-small-224", data_root=parts, output_dir=tmp_path / "run",
        img_size=64, batch_size=8, num_steps=30, weights="random", holdout=0, report=False,
        model=OPTIONS,
    )  # fmt: skip
    figures = result.evaluation.categories
    assert set(figures) == {"bolts", "caps"}
    for metric in ("image_auroc", "pixel_auroc"):
        own = [figures[category][metric] for category in figures]
        assert result.metrics[metric] == pytest.approx(np.mean(own))
        assert min(own) > 0.9, (metric, own)
    detector = load(tmp_path / "run")
    assert detector.config.categories == ("bolts", "caps")
