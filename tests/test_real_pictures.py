"""Real pictures: the packages find what a plain textbook implementation finds."""

from pathlib import Path

import numpy as np
import pytest
import textbook
import torch

from ad.core import collect, evaluate, get_dataset, train

SHARED = Path(__file__).parents[2] / "shared"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(
        not (SHARED / "data").is_dir() or not (SHARED / "weights").is_dir(),
        reason="no real pictures and weights in ../shared",
    ),
    pytest.mark.timeout(900),  # the textbook is slow, the more so beside other tests
]

SLACK = 0.01
"""bf16 features and resizing to within one grey level reorder a few scores that lie close."""


@pytest.fixture(autouse=True)
def weights(monkeypatch):
    monkeypatch.setenv("AD_WEIGHTS", str(SHARED / "weights"))


@pytest.fixture(scope="module")
def some_tiles(tmp_path_factory):
    """Every 24th picture of Magnetic Tile Defects, as links."""
    root = tmp_path_factory.mktemp("mtd")
    for folder in sorted((SHARED / "data" / "mtd").iterdir()):
        (root / folder.name / "Imgs").mkdir(parents=True)
        for picture in sorted((folder / "Imgs").glob("*.jpg"))[::24]:
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


def compare(ours, test, scores, maps):
    findings = ours.detector.predict([sample.path for sample in test])
    assert np.corrcoef([found.score for found in findings], scores)[0, 1] > 0.998
    assert np.abs(np.stack([found.map for found in findings]) / maps - 1).mean() < 0.01
    for key, value in textbook.figures(test, scores, maps).items():
        assert ours.metrics[key] > value - SLACK, key


@pytest.mark.slow
def test_patchcore_equals_the_textbook(data, tmp_path):
    dataset, category, root = data
    known, test = split(*data)
    ours = train(dataset, category, "patchcore-resnet18", data_root=root, holdout=0,
                 output_dir=tmp_path / "run",
                 model={"coreset_ratio": 0.005})  # fmt: skip
    rows = torch.cat([textbook.patches([path])[0] for path in known])
    remembered = ours.detector.detector.memory.bank.float()
    # Which patches a greedy choice meets is chaotic: one rounded digit changes all that follow.
    # What it promises is to leave no patch far away, and that it does as well as the textbook.
    picks, reach = textbook.greedy(rows, int(0.005 * len(rows)), seed=0)
    assert len(remembered) == len(picks)
    left = torch.cat([torch.cdist(some, remembered).amin(1) for some in rows.split(4096)])
    left = torch.minimum(left, textbook.first_gap(rows, seed=0))
    assert left.max() == pytest.approx(reach, rel=0.02)
    # With the same patches remembered, all else must agree.
    same = torch.cat([torch.cdist(some, rows).argmin(1) for some in remembered.split(64)])
    compare(ours, test, *textbook.patchcore(rows[same], [s.path for s in test]))


@pytest.mark.slow
def test_padim_equals_the_textbook(data, tmp_path):
    dataset, category, root = data
    known, test = split(*data)
    ours = train(dataset, category, "padim-resnet18", data_root=root, holdout=0,
                 output_dir=tmp_path / "run")  # fmt: skip
    chosen = ours.detector.detector.embedding  # the same channels: only the rest may differ
    index = torch.cat([chosen.channels_0, chosen.channels_1 + 64, chosen.channels_2 + 192])
    compare(ours, test, *textbook.padim(known, [s.path for s in test], index))


def test_the_whole_way_on_real_hazelnuts(tmp_path):
    run = tmp_path / "run"
    ours = train("mvtec", "hazelnut_toy", "patchcore-resnet18", data_root=SHARED / "data",
                 output_dir=run, model={"coreset_ratio": 0.01})  # fmt: skip
    assert ours.metrics["image_auroc"] == 1.0
    assert ours.metrics["pixel_auroc"] > 0.98
    assert evaluate(run).metrics == ours.metrics
    bad = ours.detector.predict(SHARED / "data/hazelnut_toy/test/colour")
    assert sum(finding.anomalous for finding in bad) == len(bad)
