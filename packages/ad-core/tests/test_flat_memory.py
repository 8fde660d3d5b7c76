"""Maps of test pictures beyond what may be kept in memory: the same figures, and nothing left."""

import json
import os
import tempfile
from collections import namedtuple
from dataclasses import replace

import pytest
from PIL import Image

from ad.core import load, train
from ad.core.data.samples import Saturation
from ad.core.errors import OutputError
from ad.core.figures import kinds
from ad.core.figures.measure import measure
from ad.core.jobs.evaluate import find_test_samples
from ad.runtime import spill
from ad.runtime.progress import SilentProgress

MAP = 4 * 32 * 32
"""Bytes of a map of these runs."""


class Told(SilentProgress):
    """Keeps what a person is told."""

    def __init__(self):
        self.texts = []

    def tell(self, text):
        self.texts.append(text)


@pytest.fixture
def made(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where temporary files are."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_figures_are_the_same_wherever_maps_are_kept(made, folder, monkeypatch):
    samples, detector = find_test_samples(made.run), load(made.run)
    monkeypatch.setenv("AD_MEMORY", "1G")
    told = Told()
    expected = measure(detector, samples, progress=told)
    assert expected.metrics["aupro"] is not None
    assert not told.texts
    for memory in ("0", str(2 * MAP)):
        monkeypatch.setenv("AD_MEMORY", memory)
        told = Told()
        found = measure(detector, samples, progress=told)
        assert (found.to_json(), found.scores) == (expected.to_json(), expected.scores)
        (text,) = told.texts
        assert text.startswith(f"maps of test pictures go to a temporary file in {folder}")
        assert "AD_MEMORY" in text
        assert not [*folder.iterdir()]


def test_a_defect_outside_the_region_is_told_of_wherever_maps_are(
    mean_picture, toy_root, tmp_path, monkeypatch
):
    """Of pictures whose defects are hidden, counted pixels and notes are the same, too."""
    roi = tmp_path / "roi.png"
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 20, 20))
    mask.save(roi)
    monkeypatch.setenv("AD_MEMORY", "1G")
    made = train(
        "mvtec", "toy", mean_picture, data_root=toy_root, roi=roi, output_dir=tmp_path / "r"
    )
    monkeypatch.setenv("AD_MEMORY", "0")
    found = measure(load(made.run), find_test_samples(made.run))
    assert found.to_json() == made.evaluation.to_json()


def test_training_tells_its_log_and_repeats_to_the_same_files(
    made, mean_picture, toy_root, tmp_path, folder, monkeypatch
):
    monkeypatch.setenv("AD_MEMORY", "1K")
    again = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "again")
    for name in ("metrics.json", "scores.jsonl"):
        assert (again.run / name).read_bytes() == (made.run / name).read_bytes()
    events = [json.loads(line) for line in (again.run / "log.jsonl").read_text().splitlines()]
    (event,) = (one for one in events if one["event"] == "maps_on_disk")
    assert event["folder"] == str(folder)
    assert event["bytes"] == MAP * len(find_test_samples(made.run))
    assert not [*folder.iterdir()]


def test_a_disk_without_room_for_maps_is_refused_before_anything_is_learnt(
    mean_picture, toy_root, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: usage(2**30, 2**30, 5))
    monkeypatch.setenv("AD_MEMORY", "1K")
    words = (
        r"The maps of this run need [\d,]+ bytes in `.*` \(5 are free\)\. Make room there, or set"
    )
    with pytest.raises(OutputError, match=words):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    assert not os.path.exists(tmp_path / "run")


def test_what_fails_while_maps_are_on_disk_leaves_no_file(made, folder, monkeypatch):
    monkeypatch.setenv("AD_MEMORY", "0")
    samples = find_test_samples(made.run)
    next(one for one in samples if one.masks).masks[0].write_bytes(b"no picture")
    with pytest.raises(Exception, match="cannot be read|is no"):
        measure(load(made.run), samples)
    assert not [*folder.iterdir()]


def test_maps_of_kinds_of_defects_are_read_one_at_a_time(made, monkeypatch):
    """MVTec LOCO's figures are of maps at the pictures' own size."""
    samples = [
        replace(sample, saturations=(Saturation(255, 0.5, True),)) if sample.label else sample
        for sample in find_test_samples(made.run)
    ]
    detector = load(made.run)
    monkeypatch.setenv("AD_MEMORY", "1G")
    expected = measure(detector, samples)
    assert expected.metrics[kinds.SATURATED_METRICS[0]] is not None
    monkeypatch.setenv("AD_MEMORY", "0")
    assert measure(detector, samples).to_json() == expected.to_json()
