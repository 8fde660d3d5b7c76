"""Maps of test pictures beyond what may be kept in memory: the same figures, and nothing left."""

import json
import os
import shutil
import tempfile
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ad.core import load, train
from ad.core.data.samples import Saturation
from ad.core.errors import OutputError, SettingError
from ad.core.figures import kinds
from ad.core.figures import measure as measuring
from ad.core.figures.measure import measure
from ad.core.jobs.evaluate import find_test_samples
from ad.core.learning.distributed import World
from ad.runtime import spill
from ad.runtime.progress import SilentProgress
from ad.runtime.spill import Arrays

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


@pytest.mark.parametrize("only", [(), ("--only", "defective")])
def test_predictions_are_told_alike_wherever_their_rows_are(
    made, run_ad, toy_root, tmp_path, folder, monkeypatch, only
):
    pictures = toy_root / "toy/test"
    (pictures / "good/zz.png").write_bytes(b"no picture")
    told = {}
    for memory in ("0", "1G"):
        monkeypatch.setenv("AD_MEMORY", memory)
        for way in ("--report", "--json", "--quiet"):
            output = tmp_path / "out"
            rest = ("--output", output, *only, way)
            status, out, err = run_ad("predict", made.run, pictures, *rest)
            told[memory, way] = (
                (status, out, "1 of 9 pictures could not be read" in err),
                (output / "predictions.csv").read_text(),
                (output / "report.html").read_text(),
            )
            shutil.rmtree(output)
    assert [*folder.iterdir()] == []
    for (memory, way), found in told.items():
        assert found == told["1G", way], (memory, way)
    (status, out, said), *_ = told["0", "--report"]
    assert (status, out.count("defective"), said) == (3, 5, True)
    assert (" good │" in out) != bool(only)


def test_a_budget_that_cannot_be_is_refused_before_anything_is_learnt(
    whole, toy_root, tmp_path, monkeypatch
):
    monkeypatch.setenv("AD_MEMORY", "plenty")
    with pytest.raises(SettingError, match="`AD_MEMORY` .* got `plenty`"):
        train("mvtec", "toy", whole, data_root=toy_root, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("memory", ["0", "1G"])
@pytest.mark.parametrize("count", [5, 150])
def test_what_several_processes_found_comes_together_in_parts(monkeypatch, memory, count):
    monkeypatch.setenv("AD_MEMORY", memory)
    true = np.arange(count, dtype=np.float32)
    sent = []

    class Sending(World):
        def gather(self, value):
            sent.append(value)
            return []

    class Receiving(World):
        def gather(self, value):
            assert len(value[0]) <= 32
            return [value, sent.pop(0)]

    kept = []
    for rank, kind in ((1, Sending), (0, Receiving)):
        own = range(rank, count, 2)
        scores, maps = np.zeros(count, np.float32), Arrays(count, "maps")
        scores[own] = true[own]
        for row in own:
            if row % 3:  # others have no truth
                maps.put(row, np.full((2, 2), true[row]))
        measuring._gather(kind(rank, 2), own, scores, maps)
        kept = [scores, maps]
    scores, maps = kept
    assert not sent
    assert scores.tolist() == true.tolist()
    assert [None if one is None else one[0, 1] for one in maps] == [
        one if one % 3 else None for one in true
    ]
