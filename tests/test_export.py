"""A run that was trained in bf16 has, exported, the threshold of its own engine."""

import ad.runtime
from ad.core import export, load, train
from ad.core.testing import write_mvtec_tree
from ad.runtime.package import read_package


def test_no_held_out_picture_is_above_the_threshold_of_an_export(tmp_path):
    """The run's own is one of these pictures' scores in bf16, which come out otherwise in fp32."""
    write_mvtec_tree(tmp_path / "data", train=20, size=32)
    run = tmp_path / "run"
    trained = train(
        "mvtec",
        "toy",
        "fre-resnet18",
        data_root=tmp_path / "data",
        output_dir=run,
        img_size=32,
        weights="random",
        precision="bf16",
        holdout=0.6,
    )
    exported = export(run)
    assert trained.detector.config.precision == "bf16"
    assert exported.config.calibrated_on.precision == "fp32"
    assert exported.threshold != trained.threshold
    assert exported.parity["passed"]
    held_out = exported.config.calibration.num_images
    assert held_out == 12
    found = ad.runtime.load(run / "export").predict(tmp_path / "data/toy/train/good")
    scores = sorted(one.score for one in found)
    assert not any(one.anomalous for one in found)
    assert scores[-1] < exported.threshold  # the highest is a held-out one, and set it
    assert (exported.threshold - scores[-1]) < 0.01 * exported.config.calibration.scale
    by_torch = load(run, precision="bf16").predict(tmp_path / "data/toy/train/good")
    assert max(one.score for one in by_torch) != scores[-1]
    assert read_package(run / "export").config == exported.config
