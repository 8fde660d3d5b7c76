"""Models that have rules for the size of pictures name sizes near the one that was asked for."""

import pytest
import torch

from ad.core import ModelRegistry, Setup
from ad.core.errors import SettingError
from ad.core.registry import load_trainer
from ad.core.settings import resolve_options


def build(name, size, **options):
    spec = ModelRegistry.get(name)
    kind = load_trainer(spec)
    options = {**spec.check.get("options", {}), **options}
    setup = Setup(img_size=size, normalize=spec.train["normalize"], weights="random")
    return kind(setup, **resolve_options(spec, kind, options))


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("reverse-distillation-resnet18", (250, 630), "224x608` or `--img-size 256x640`"),
        ("draem", (64, 100), "64x96` or `--img-size 64x128`"),
        ("dsr", (100, 64), "96x64` or `--img-size 128x64`"),
        ("autoencoder", (64, 100), "64x96` or `--img-size 64x112`"),
        ("ganomaly", (64, 96), "Near 64x96 are 64 and 128"),
        ("efficientad-small", (63, 128), "at least 64 pixels, .* Got 63x128"),
        ("fastflow-resnet18", (250, 630), "240x624` or `--img-size 256x640`"),
        ("csflow", (100, 256), "128x256`"),
        ("fastflow-deit", (100, 64), "96x64` or `--img-size 112x64`"),
        ("uninet-resnet18", (250, 630), "224x608` or `--img-size 256x640`"),
        ("stfpm-resnet18", (16, 16), "must be above 16, .*; got 16"),
        ("dinomaly-small-224", (224, 300), "224x288` or `--img-size 224x304`"),
    ],
)
def test_a_size_that_a_model_cannot_take_is_refused_with_what_it_takes(name, size, words):
    with pytest.raises(SettingError, match=f"(?s).*{words}"):
        build(name, size)


@pytest.mark.parametrize(
    "name",
    [
        "autoencoder",
        "padim-resnet18",
        "fre-resnet18",
        "fastflow-resnet18",
        "cflow-resnet18",
        "msflow-resnet18",
    ],
)
def test_a_model_that_knows_positions_refuses_another_shape(name):
    detector = build(name, (64, 96)).detector
    detector.require_fitted = lambda: None  # nor does it matter what it learnt
    if name.startswith("fre"):
        detector.weight = torch.zeros(1, 1)
    with pytest.raises(SettingError, match=r"64 x 96 \(height x width\).*96 x 64"):
        detector(torch.zeros(1, 3, 96, 64))
