"""Full disks and places that cannot be written: a clear error, and nothing lost."""

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ad.core import recalibrate, train
from ad.core.data.batches import PictureSet
from ad.core.errors import OutputError
from ad.core.jobs.inspect import inspect
from ad.core.learning.checkpoints import Checkpoints
from ad.core.report.run import read_times
from ad.core.saved.claims import make_folder
from ad.core.saved.files import read_model, rewrite_config
from ad.core.saved.record import read_log
from ad.runtime.files import write_atomic

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and devices")


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    return tmp_path / "run"


def everything(folder):
    """Every file below a folder, with its content."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- Full disks ---------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(limit):
    """No file may grow beyond so many bytes: what a full disk does, without filling one."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@linux
@pytest.mark.parametrize(
    ("limit", "words", "left"),
    [
        (100, r"run.json` cannot be written \(File too large\)", []),
        (5000, "The model cannot be saved to .*File too large", ["log.jsonl", "run.json"]),
        (
            30_000,
            "report.html` cannot be written .File too large.*\nhint: all else is .*: ad report ",
            ["log.jsonl", "metrics.json", "model", "run.json", "scores.jsonl"],
        ),
    ],
)
def test_training_on_a_full_disk(mean_picture, toy_root, tmp_path, limit, words, left):
    run = tmp_path / "run"
    with full_disk(limit), pytest.raises(OutputError, match=words):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run)
    assert sorted(path.name for path in run.iterdir()) == left


@linux
@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (20, "predictions.csv` cannot be written "),
        (3000, r"jpg` cannot be written .*`--no-heatmaps`; `heatmaps=\"none\"` in Python"),
    ],
)
def test_predicting_on_a_full_disk(trained, toy_root, limit, words):
    before = everything(trained)
    with full_disk(limit), pytest.raises(OutputError, match=f"(?s){words}") as failed:
        inspect(trained, [toy_root / "toy/test"])
    assert before.items() <= everything(trained).items()
    lines = (trained / "predictions/predictions.csv").read_text().count("\n")
    assert (lines > 1) == (limit > 20)  # what was scored before the picture could be drawn
    kept = f"the first {max(0, lines - 1)} (of 8 )?pictures are in `.*predictions.csv`"
    assert re.search(kept, str(failed.value))


@linux
def test_a_calibration_on_a_full_disk_changes_nothing(trained, toy_root):
    before = everything(trained)
    with full_disk(20), pytest.raises(OutputError, match="log.jsonl` cannot be written .File too"):
        recalibrate(trained, normals=toy_root / "toy/test/good")
    assert everything(trained) == before


@linux
def test_a_line_that_the_disk_has_room_for_a_part_of_is_not_begun(trained, toy_root):
    before = everything(trained)
    limit = (trained / "log.jsonl").stat().st_size + 30
    words = "log.jsonl` cannot be written .File too"
    with full_disk(limit), pytest.raises(OutputError, match=words):
        recalibrate(trained, normals=toy_root / "toy/test/good")
    assert everything(trained) == before


def test_a_line_of_a_log_that_is_not_whole_is_left_out_and_the_next_one_is_whole(trained, toy_root):
    log = trained / "log.jsonl"
    times = read_times(trained)
    log.write_bytes(log.read_bytes() + b'{"time": 1.5, "event": "fitted", "sec')
    recalibrate(trained, normals=toy_root / "toy/test/good")
    events = [event["event"] for event in read_log(trained)]
    assert events == ["start", "fitted", "saved", "tested", "calibrate"]
    assert read_times(trained) == times
    assert len(times) >= 2
    log.write_bytes(b'\xff\n[1]\n7\n{}\n{"event": []}\n\n' + b"[" * 100_000 + b"\n")
    assert read_log(trained) == []
    log.unlink()
    assert read_log(trained) == []


@linux
def test_a_checkpoint_on_a_full_disk_leaves_the_ones_before(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"a": torch.ones(9)}, {"more": 1})
    with full_disk(300), pytest.raises(OutputError, match="cannot be saved .*Nothing there was"):
        checkpoints.save(2, {"a": torch.ones(900)}, {"more": 2})
    tensors, state = checkpoints.latest()
    assert (tensors["a"].sum(), state) == (9, {"step": 1, "more": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


@linux
def test_a_cache_that_the_disk_has_no_room_for_is_refused_before_it_is_used(tmp_path):
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 4
    with full_disk(500), pytest.raises(OutputError, match="pictures .* need 768 bytes in .*TMPDIR"):
        PictureSet(pictures, 8, cache=True, ram_budget=0)
    PictureSet(pictures, 8, cache=True, ram_budget=0)


@pytest.mark.parametrize("failing", range(6))
def test_a_configuration_that_cannot_be_written_leaves_the_old_one(trained, monkeypatch, failing):
    """Flushing to disk fails at the n-th time; the last time is after everything was done."""
    calls = 0

    def full(handle):
        nonlocal calls
        calls += 1
        if calls == failing + 1:
            raise OSError(28, "No space left on device")

    before = read_model(trained / "model")[1]
    monkeypatch.setattr("ad.core.saved.files.os.fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        rewrite_config(trained / "model", {"model": "new"})
    assert read_model(trained / "model")[1] in (before, {"model": "new"})
    assert (read_model(trained / "model")[1] == before) == (failing < 5)


# --- What cannot be written ---------------------------------------------------------------------


@linux
@pytest.mark.parametrize("folder", ["/proc/ad-run", "/sys/ad-run", "/dev/null/ad-run"])
def test_an_output_that_nobody_can_make_is_refused(trained, mean_picture, toy_root, folder):
    with pytest.raises(OutputError, match=f"`{folder}` cannot be made"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=folder)
    with pytest.raises(OutputError, match=f"`{folder}` cannot be made"):
        inspect(trained, [toy_root / "toy/test"], output=folder)


@linux
def test_a_calibration_whose_log_is_full_is_not_made(trained, toy_root):
    (trained / "log.jsonl").unlink()
    (trained / "log.jsonl").symlink_to("/dev/full")
    before = everything(trained / "model")
    with pytest.raises(OutputError, match="cannot be written .No space left on device"):
        recalibrate(trained, normals=toy_root / "toy/test/good")
    assert everything(trained / "model") == before


@contextlib.contextmanager
def without_rights():
    """As a user who may write nowhere, if this is one who may write everywhere."""
    if os.geteuid():
        yield
        return
    try:
        os.seteuid(65534)
    except PermissionError:
        pytest.skip("this user may write everywhere and cannot become another")
    try:
        yield
    finally:
        os.seteuid(0)


@linux
def test_a_folder_without_permission_to_write_is_refused():
    with tempfile.TemporaryDirectory() as locked:
        Path(locked).chmod(0o555)
        with without_rights():
            with pytest.raises(OutputError, match="cannot be made .Permission denied"):
                make_folder(Path(locked) / "run")
            with pytest.raises(OutputError, match="cannot be written .Permission denied"):
                write_atomic(Path(locked) / "a.json", b"{}")
        assert os.listdir(locked) == []
