"""Full disks, folders that change, hostile files: a clear error, nothing lost, nothing executed."""

import contextlib
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ad.core import Callback, ModelRegistry, evaluate, load, recalibrate, train
from ad.core.checkpoints import Checkpoints
from ad.core.data.batches import PictureSet
from ad.core.data.pictures import check_headers, read_picture
from ad.core.errors import AdError, ModelFileError, OutputError, PictureError
from ad.core.files import make_folder, read_model, rewrite_config, write_atomic
from ad.core.inspection import inspect
from ad.core.testing.pictures import make_picture

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and devices")


@pytest.fixture
def linear_student():
    ModelRegistry.register(
        "linear-student",
        "ad.core.testing.linear_student:LinearStudentTrainer",
        {},
        {"num_epochs": 3, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    yield "linear-student"
    ModelRegistry.unregister("linear-student")


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
    ],
)
def test_training_on_a_full_disk(mean_picture, toy_root, tmp_path, limit, words, left):
    run = tmp_path / "run"
    with full_disk(limit), pytest.raises(OutputError, match=words):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run)
    assert sorted(path.name for path in run.iterdir()) == left


@linux
@pytest.mark.parametrize(
    ("limit", "words", "lines"),
    [(20, "predictions.csv` cannot be written", 0), (300, "png` cannot be written", 1)],
)
def test_predicting_on_a_full_disk(trained, toy_root, limit, words, lines):
    before = everything(trained)
    with full_disk(limit), pytest.raises(OutputError, match=words):
        inspect(trained, [toy_root / "toy/test"])
    assert before.items() <= everything(trained).items()
    assert (trained / "predictions/predictions.csv").read_text().count("\n") == lines


@linux
def test_a_calibration_on_a_full_disk_changes_nothing(trained, toy_root):
    before = everything(trained)
    with full_disk(20), pytest.raises(OutputError, match="log.jsonl` cannot be written .File too"):
        recalibrate(trained, normals=toy_root / "toy/test/good")
    assert everything(trained) == before


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
    monkeypatch.setattr("ad.core.files.os.fsync", full)
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


# --- Data that change under a run ---------------------------------------------------------------


class Meanwhile(Callback):
    """Does something to the data when learning starts, or after its first epoch."""

    def __init__(self, act, hook):
        self.act, self.hook = act, hook

    def on_fit_start(self, state):
        if self.hook == "start":
            self.act()

    def on_epoch_end(self, state):
        if self.hook == "epoch" and state.epoch == 0:
            self.act()


def learning_and_held_out(toy_root):
    from ad.core.data.mvtec import DATASET
    from ad.core.data.samples import collect
    from ad.core.training import hold_out

    samples = collect(DATASET, "toy", root=toy_root, seed=0)
    learning, held_out = hold_out(samples, 0.1, seed=0)
    return learning[0].path, held_out[0].path


@pytest.mark.parametrize("damage", ["vanishes", "breaks"])
def test_a_picture_that_changes_before_it_was_read_is_named(
    mean_picture, toy_root, tmp_path, damage
):
    path, _ = learning_and_held_out(toy_root)
    act = path.unlink if damage == "vanishes" else lambda: path.write_bytes(b"\x89PNG no more")
    words = "does not exist" if damage == "vanishes" else "cannot be read"
    with pytest.raises(PictureError, match=f"{path.name}` {words}"):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
              callbacks=[Meanwhile(act, "start")])  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_pictures_that_change_after_they_were_read_change_nothing(
    linear_student, toy_root, tmp_path
):
    calm = train("mvtec", "toy", linear_student, data_root=toy_root, output_dir=tmp_path / "a")
    path, _ = learning_and_held_out(toy_root)

    def act():
        path.write_bytes(b"gone")

    disturbed = train("mvtec", "toy", linear_student, data_root=toy_root, callbacks=[
        Meanwhile(act, "epoch")], output_dir=tmp_path / "b")  # fmt: skip
    assert path.read_bytes() == b"gone"
    tensors = [(one.run / "model/model.safetensors").read_bytes() for one in (calm, disturbed)]
    assert tensors[0] == tensors[1]


def test_a_held_out_picture_that_vanishes_says_how_to_go_on(linear_student, toy_root, tmp_path):
    _, path = learning_and_held_out(toy_root)
    content = path.read_bytes()
    arguments = {"data_root": toy_root, "output_dir": tmp_path / "run"}
    with pytest.raises(PictureError, match=r"does not exist.\nhint: it was held out .*--resume "):
        train("mvtec", "toy", linear_student, **arguments, callbacks=[
            Meanwhile(path.unlink, "epoch")])  # fmt: skip
    path.write_bytes(content)
    result = train("mvtec", "toy", linear_student, **arguments, resume=tmp_path / "run")
    assert result.threshold is not None


# --- Damaged and hostile pictures ---------------------------------------------------------------


@linux
@pytest.mark.slow
def test_500_accidents_of_each_format_are_pictures_or_errors(tmp_path):
    """In a process of its own: a decoder that crashes or hangs takes nothing else with it."""
    suffixes = ["png", "jpg", "bmp", "tif", "tiff", "webp", "gif", "pgm", "ppm"]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("damage.py"), tmp_path, *suffixes],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, suffix in zip(done.stdout.splitlines(), suffixes, strict=True):
        found = json.loads(line)
        assert found["suffix"] == suffix
        assert found["pictures"] + found["errors"] == 500
        assert found["errors"] > 100  # it was damage, and it was noticed
        assert found["memory"] < 2**30


def png(*chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        whole = kind + data
        parts.append(struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole)))
    return b"".join(parts)


def size(width, height):
    return (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


BOMB = zlib.compress(bytes(2**26), 9)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", png(size(60000, 60000), (b"IDAT", BOMB), (b"IEND", b"")), "more than .* pixels"),
        ("a.png", png(size(2**31 - 1, 1), (b"IDAT", BOMB), (b"IEND", b"")), "more than .* pixels"),
        ("a.bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 2**20, 2**20, 1, 24,
                                      *[0] * 6), "more than .* pixels"),
        ("a.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
         "cannot be read|more than"),
        ("a.pgm", b"P5 99999999 99999999 255\n", "more than .* pixels"),
        ("a.png", png(size(4, 4), (b"zTXt", b"k\0\0" + BOMB), (b"IEND", b"")), "cannot be read"),
        ("a.png", png(size(4, 4), (b"iCCP", b"k\0\0" + BOMB), (b"IEND", b"")), "cannot be read"),
    ],
    ids=["png", "wide png", "bmp", "gif", "pgm", "png text", "png profile"],
)  # fmt: skip
def test_a_bomb_is_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PictureError, match=words):
        read_picture(path)
    with contextlib.suppress(PictureError):  # some are found when they are decoded
        check_headers(path, [])


# --- Hostile models -----------------------------------------------------------------------------


def rewrite(folder, name, content):
    """Change a file and make the manifest agree with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HUGE = {"mean": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
OUTSIDE = {"mean": {"dtype": "F32", "shape": [3, 32, 32], "data_offsets": [-8, 12280]}}
TWICE = b'{"mean":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**31) + b"{}",
        safetensors(HUGE),
        safetensors(OUTSIDE, bytes(12288)),
        safetensors(TWICE),
        safetensors(b"[" * 100_000),
        b"\x80\x05\x95" + bytes(64),
        b"PK\x03\x04" + bytes(64),
    ],
    ids=["length", "long", "huge", "outside", "twice", "deep", "pickle", "zip"],
)
def test_tensors_that_are_none_are_refused(trained, content):
    rewrite(trained / "model", "model.safetensors", content)
    with pytest.raises(ModelFileError, match="holds no model that can be read"):
        load(trained)


def config_of(trained, **changes):
    config = json.loads((trained / "model/config.json").read_text())
    calibration = {**config["calibration"], **changes.pop("calibration", {})}
    return json.dumps({**config, "calibration": calibration, **changes}).encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": {"threshold": float("nan")}}, "`threshold` must be finite; it is nan"),
        ({"calibration": {"scale": float("inf")}}, "`scale` must be finite; it is inf"),
        ({"calibration": {"threshold": 10**400}}, "`threshold` must be finite; it is a whole num"),
        ({"calibration": {"threshold": "0"}}, "`threshold` must be a number; it is '0'"),
        ({"calibration": {"num_images": 10**30}}, "`promised_rate` must be"),
        ({"model": "../../../etc/passwd"}, "No model named `../../../etc/passwd`"),
        ({"model": "os:system"}, "No model named `os:system`"),
        ({"options": {"gain": "__import__('os').system('id')"}}, "Option `gain` of model"),
        ({"options": {"__class__": 1}}, "has no option `__class__`"),
        ({"img_size": 10**9}, "malformed entry `img_size`"),
        ({"img_size": True}, "malformed entry `img_size`"),
        ({"categories": [["deep"]]}, "malformed entry `categories`"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_refused(trained, changes, words):
    rewrite(trained / "model", "config.json", config_of(trained, **changes))
    with pytest.raises(AdError, match=words):
        load(trained)


def test_an_empty_calibration_is_not_taken_for_none(trained):
    config = {**json.loads((trained / "model/config.json").read_text()), "calibration": {}}
    rewrite(trained / "model", "config.json", json.dumps(config).encode())
    with pytest.raises(ModelFileError, match="saved calibration cannot be read: missing keys"):
        load(trained)


def test_files_that_are_nested_too_deep_or_too_large_are_refused(trained):
    deep = b'{"a":' * 200_000
    (trained / "run.json").write_bytes(deep)
    with pytest.raises(ModelFileError, match="is no run directory"):
        evaluate(trained)
    rewrite(trained / "model", "config.json", deep)
    with pytest.raises(ModelFileError, match=r"config.json` is no JSON"):
        load(trained)
    rewrite(trained / "model", "config.json", b" " * (2**24 + 1))
    with pytest.raises(ModelFileError, match=r"config.json` is larger than 16,777,216 bytes"):
        load(trained)
    (trained / "model/manifest.json").write_bytes(deep)
    with pytest.raises(ModelFileError, match=r"manifest.json` is no JSON"):
        load(trained)


@linux
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "manifest.json"])
@pytest.mark.parametrize("kind", ["device", "pipe", "folder", "loop"])
def test_what_would_be_read_for_ever_is_refused(trained, name, kind):
    path = trained / "model" / name
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    with pytest.raises(ModelFileError, match="is no regular file|cannot be read"):
        load(trained)


def test_a_link_out_of_the_folder_is_held_to_the_hash(trained, tmp_path):
    (tmp_path / "secret").write_text("a secret")
    path = trained / "model/config.json"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFileError, match="is not the file that was saved") as refused:
        load(trained)
    assert "a secret" not in str(refused.value)


def test_a_configuration_of_the_next_name_needs_the_manifests_hash(trained):
    before = read_model(trained / "model")[1]
    (trained / "model/config.next.json").write_text("{}")
    assert read_model(trained / "model")[1] == before
    (trained / "model/config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"config.json` is not the file that was saved"):
        load(trained)


def test_scores_that_are_no_numbers_get_no_verdict(trained):
    from safetensors.numpy import load_file, save

    path = trained / "model/model.safetensors"
    mean = np.full_like(load_file(path)["mean"], np.nan)
    rewrite(trained / "model", "model.safetensors", save({"mean": mean}))
    with pytest.raises(AdError, match="must be a number; got nan. It would pass as good"):
        load(trained).predict(make_picture(0, size=32)[0])


def test_a_picture_that_vanishes_while_predicting_is_an_error_row(trained, toy_root):
    paths = sorted((toy_root / "toy/test/good").iterdir())
    detector = load(trained)
    findings = detector.stream(paths, batch_size=1)
    first = next(findings)
    Image.new("RGB", (8, 8)).save(paths[0])
    paths[-1].unlink()
    rest = [*findings]
    assert first.error is None
    assert len(rest) == len(paths) - 1
