"""The outline of a test of the detector's own: from `Detector.outline` to what people look at."""

import numpy as np
import pytest
import torch
from PIL import Image
from report_pages import Page, pixels, samples_of

from ad.core import load, train
from ad.core.data.batches import Batch
from ad.core.jobs.inspect import inspect
from ad.core.report.gallery import Gallery
from ad.core.testing import make_picture, run_checks
from ad.core.testing.mean_picture import MeanPictureDetector
from ad.runtime.heatmaps import SECOND, overlay

WORDS = "brighter than half"


@pytest.fixture
def outlined(mean_picture, monkeypatch):
    """A model whose own test outlines what is bright."""
    monkeypatch.setattr(MeanPictureDetector, "outlines", WORDS)
    monkeypatch.setattr(MeanPictureDetector, "outline", lambda _, images: images.mean(dim=1) - 0.5)
    return mean_picture


@pytest.fixture
def trained(outlined, toy_root, tmp_path):
    return train("mvtec", "toy", outlined, data_root=toy_root, output_dir=tmp_path / "run")


def inside(picture):
    """What the test outlines, found without it."""
    return picture.mean(axis=2) > 127.5


def test_findings_have_the_outline_if_it_is_asked_for(trained):
    pictures = np.stack([make_picture(n, size=32, defect=n > 1)[0] for n in range(5)])
    detector = load(trained.run)
    for finding in detector.predict(pictures):
        assert finding.outline is None
    findings = detector.predict(pictures, batch_size=2, outlines=True)
    for finding, picture in zip(findings, pictures, strict=True):
        np.testing.assert_array_equal(finding.outline > 0, inside(picture))
        assert 0 < (finding.outline > 0).sum() < 32 * 32
    assert detector.outline(torch.zeros(0, 32, 32, 3, dtype=torch.uint8)).shape == (0, 32, 32)


def test_a_detector_without_a_test_of_its_own_has_no_outline(mean_picture, toy_root, tmp_path):
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    picture = make_picture(0, size=32)[0]
    (finding,) = load(run.run).predict(picture, outlines=True)
    assert finding.outline is None
    page = Page(run.report)
    assert page.data["outlines"] == ""
    assert all(item["outline"] is None for item in page.data["gallery"])


def test_heat_maps_show_it_in_blue_beside_the_pixel_threshold():
    heat, second = np.zeros((64, 64)), np.full((64, 64), -1.0)
    heat[8:24, 8:24], second[32:56, 32:56] = 0.9, 1.0
    picture = np.full((256, 256, 3), 90, dtype=np.uint8)
    sheet = np.asarray(overlay(picture, heat, "", second=second))[:256, -256:]
    blue, red = (sheet == SECOND).all(axis=2), (sheet == (255, 0, 60)).all(axis=2)
    rows, columns = np.nonzero(blue)
    assert {rows.min(), columns.min()} == {128}
    assert {rows.max(), columns.max()} == {223}
    assert not blue[130:222, 130:222].any()  # a line, not an area
    assert red.any()
    assert not red[100:, 100:].any()


def test_predicting_writes_it_and_says_what_it_is(trained, tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(
        "ad.runtime.overlays.overlay",
        lambda *given, **more: labels.append(given[2]) or overlay(*given, **more),
    )
    file = tmp_path / "bad.png"
    Image.fromarray(make_picture(0, size=256, defect=True)[0]).save(file)
    (row,) = inspect(trained.run, [file], output=tmp_path / "out").rows
    assert labels[0].endswith(f"blue: {WORDS}")
    sheet = np.asarray(Image.open(row.heatmap)).astype(int)
    assert (abs(sheet - SECOND) < 40).all(axis=2).any()  # it is lossy


def test_the_report_holds_it_of_each_picture_that_it_shows(trained):
    page = Page(trained.report)
    assert page.data["outlines"] == WORDS
    assert page.data["gallery"]
    assert all(item["outline"].startswith("data:image/webp") for item in page.data["gallery"])


def test_the_gallery_keeps_it_to_the_pixel(trained):
    pictures = np.stack([make_picture(n, size=32, defect=n > 1)[0] for n in range(3)])
    gallery = Gallery(samples_of([0, 0, 1]), None, load(trained.run))
    gallery.see(Batch([0, 1, 2], torch.from_numpy(pictures)), np.arange(3.0, dtype="float32"), None)
    assert len(gallery.shown) == 3
    for shown in gallery.shown:
        expected = inside(pictures[shown.index])
        np.testing.assert_array_equal(pixels(shown.outline)[..., 0] > 127, expected)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda self, images: images[:, 0, ::2], "`outline` must hold one value per input pixel"),
        (lambda self, images: images[:, 0].double(), "`outline` must be float32"),
        (lambda self, images: images[:, 0] / 0, "`outline` must be finite"),
    ],
)
def test_the_kit_looks_at_it(outlined, monkeypatch, broken, words):
    def prediction():
        (result,) = (r for r in run_checks(outlined) if r.id == "prediction")
        return result

    assert prediction().outcome == "passed"
    monkeypatch.setattr(MeanPictureDetector, "outline", broken)
    assert words in prediction().message
