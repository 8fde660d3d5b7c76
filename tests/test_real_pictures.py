"""Real pictures: the packages find defects at least as well as a plain textbook implementation."""

from pathlib import Path

import pytest
import textbook
import torch

from ad.core import evaluate, train
from ad.core.data.samples import collect
from ad.core.registry import get_dataset

SHARED = Path(__file__).parents[2] / "shared"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (SHARED / "data").is_dir() or not (SHARED / "weights").is_dir(),
        reason="no real pictures and weights in ../shared",
    ),
]

SLACK = 0.003
"""The first picks of a coreset are random: AUROC may differ by so much."""


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    monkeypatch.setenv("AD_WEIGHTS", str(SHARED / "weights"))


@pytest.fixture(scope="module")
def some_tiles(tmp_path_factory):
    """Every eighth picture of Magnetic Tile Defects, as links."""
    root = tmp_path_factory.mktemp("mtd")
    for folder in sorted((SHARED / "data" / "mtd").iterdir()):
        (root / folder.name / "Imgs").mkdir(parents=True)
        for picture in sorted((folder / "Imgs").glob("*.jpg"))[::8]:
            for path in (picture, picture.with_suffix(".png")):
                (root / folder.name / "Imgs" / path.name).symlink_to(path)
    return root


def split(dataset, category, root):
    samples = collect(get_dataset(dataset), category, root=root, seed=0)
    known = [sample.path for sample in samples if sample.split == "train"]
    return known, [sample for sample in samples if sample.split == "test"]


@pytest.fixture(params=["mtd", "hazelnut_toy"])
def data(request, some_tiles):
    if request.param == "mtd":
        return "mtd", "all", some_tiles
    return "mvtec", "hazelnut_toy", SHARED / "data"


def compare(ours, known, test, scores, maps):
    reference = textbook.figures(test, scores, maps)
    for key, value in reference.items():
        assert ours.metrics[key] >= value - SLACK, (key, ours.metrics, reference)


@pytest.mark.slow
def test_patchcore_is_as_good_as_the_textbook(data, tmp_path):
    dataset, category, root = data
    known, test = split(*data)
    ours = train(dataset, category, "patchcore-resnet18", data_root=root, holdout=0,
                 output_dir=tmp_path / "run", model={"coreset_ratio": 0.005})  # fmt: skip
    compare(ours, known, test, *textbook.patchcore(known, [s.path for s in test], 0.005))


@pytest.mark.slow
def test_padim_is_as_good_as_the_textbook(data, tmp_path):
    dataset, category, root = data
    known, test = split(*data)
    ours = train(dataset, category, "padim-resnet18", data_root=root, holdout=0,
                 output_dir=tmp_path / "run")  # fmt: skip
    chosen = ours.detector.detector.embedding  # the same channels: only the rest may differ
    index = torch.cat([chosen.channels_0, chosen.channels_1 + 64, chosen.channels_2 + 192])
    compare(ours, known, test, *textbook.padim(known, [s.path for s in test], index))


def test_the_whole_way_on_real_hazelnuts(tmp_path):
    run = tmp_path / "run"
    ours = train("mvtec", "hazelnut_toy", "patchcore-resnet18", data_root=SHARED / "data",
                 output_dir=run, model={"coreset_ratio": 0.01})  # fmt: skip
    assert ours.metrics["image_auroc"] == 1.0
    assert ours.metrics["pixel_auroc"] > 0.98
    assert evaluate(run).metrics == ours.metrics
    bad = ours.detector.predict(SHARED / "data/hazelnut_toy/test/colour")
    assert sum(finding.anomalous for finding in bad) == len(bad)
