"""Hostile models: a clear error, nothing executed, nothing disclosed."""

import json
import os
import re
import struct
import sys

import numpy as np
import pytest
import torch
from changed_models import rewrite
from PIL import Image
from safetensors.numpy import load_file, save
from torch import nn

from ad.core import evaluate, load, recalibrate, train, write_report
from ad.core.detector import learned_buffer
from ad.core.errors import AdError, ModelFileError, SettingError
from ad.core.jobs.evaluate import find_test_samples
from ad.core.saved import allocation
from ad.core.saved.allocation import built_within, fits_in_memory
from ad.core.saved.files import read_model
from ad.core.saved.loading import load_tensors
from ad.core.testing.mean_picture import MeanPictureTrainer
from ad.core.testing.pictures import make_picture
from ad.core.trainer import Setup

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and devices")


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")
    return tmp_path / "run"


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def compare_twice(run):
    write_report([run, run], output=run / "both.html")


def write_normals(folder):
    folder.mkdir()
    for number in range(300, 319):
        Image.fromarray(make_picture(number, size=32)[0]).save(folder / f"{number}.png")


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


def test_an_option_that_cannot_be_right_is_the_files_and_not_the_users(trained):
    changed = config_of(trained, options={"gain": -1})
    rewrite(trained / "model", "config.json", changed)
    words = r"`config.json` of the saved model `.*model` .* Option `gain` .* greater than 0; got -1"
    for use in (load, evaluate, write_report):
        with pytest.raises(ModelFileError, match=words):
            use(trained)


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


@linux
@pytest.mark.parametrize("kind", ["device", "pipe"])
@pytest.mark.parametrize(
    ("name", "readers"),
    [
        ("run.json", [evaluate, find_test_samples, write_report]),
        ("metrics.json", [evaluate, compare_twice]),
        ("scores.jsonl", [compare_twice]),
    ],
)
def test_a_run_s_file_that_would_be_read_for_ever_is_refused(trained, name, kind, readers):
    (trained / name).unlink()
    if kind == "device":
        (trained / name).symlink_to("/dev/zero")
    else:
        os.mkfifo(trained / name)
    for reader in readers:
        with pytest.raises(ModelFileError, match=f"{name}` is no regular file: .* is no run dir"):
            reader(trained)


@linux
def test_a_run_whose_record_is_a_device_is_calibrated_unchecked(trained, tmp_path):
    (trained / "run.json").unlink()
    (trained / "run.json").symlink_to("/dev/zero")
    write_normals(tmp_path / "normals")
    assert not recalibrate(trained, normals=tmp_path / "normals").checked


def test_a_record_that_is_too_large_is_refused(trained):
    (trained / "run.json").write_bytes(b" " * (2**24 + 1))
    words = r"run.json` is larger than 16,777,216 bytes: it is no file of a run directory"
    with pytest.raises(ModelFileError, match=words):
        evaluate(trained)


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


class Wide(nn.Module):
    """Stands for a model whose configuration sets its width."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 4)
        self.register_buffer("steps", torch.arange(3))


def test_a_model_is_built_as_it_is_without_the_limit(tmp_path):
    torch.manual_seed(0)
    plain = Wide(8).state_dict()
    torch.manual_seed(0)
    with built_within({}, tmp_path):
        within = Wide(8).state_dict()
    assert all(torch.equal(within[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize("width", [10**8, 10**11])
def test_a_configuration_of_terabytes_is_refused_before_they_are_taken(tmp_path, width):
    words = rf"asks for a tensor of {16 * width:,} bytes; 1,073,741,824 are the most that its saved"
    with pytest.raises(ModelFileError, match=words), built_within({}, tmp_path):
        Wide(width)


@pytest.mark.parametrize("width", [10**18, 10**30])
def test_a_configuration_of_sizes_that_no_machine_counts_is_refused(tmp_path, width):
    words = r"cannot be built from its `config.json` \((Type|Runtime)Error: (.|\n)*take it from"
    with pytest.raises(ModelFileError, match=words), built_within({}, tmp_path):
        Wide(width)


def test_large_saved_tensors_allow_large_ones_to_be_made(tmp_path):
    saved = {"weight": torch.empty(2**31, dtype=torch.uint8, device="meta")}
    with built_within(saved, tmp_path):
        nn.Linear(2**27, 4, device="meta")
        assert torch.empty(2**31 - 1, dtype=torch.uint8).nbytes == 2**31 - 1  # never touched
    with pytest.raises(ModelFileError, match="2,147,483,648 are the most"):  # noqa: SIM117
        with built_within(saved, tmp_path):
            torch.empty(2**31 + 1, dtype=torch.uint8)


def test_many_tensors_are_refused_as_one_is(tmp_path):
    words = "asks for tensors of 4,831,838,208 bytes; 4,294,967,296 are the most that its saved"
    with built_within({}, tmp_path):
        for _ in range(8):
            torch.empty(2**29, dtype=torch.uint8)  # never touched
        with pytest.raises(ModelFileError, match=words):
            torch.empty(2**29, dtype=torch.uint8)


def test_a_model_to_learn_is_refused_what_the_machine_has_no_memory_for(monkeypatch):
    monkeypatch.setattr(allocation, "_physical_memory", lambda: 10**6)
    with fits_in_memory("wide"):
        Wide(10**4)
    words = (
        r"`wide` with these options and `img_size` asks for a tensor of 16,000,000 bytes; this "
        r"machine has 1,000,000\. Make the pictures or the model smaller; `ad show wide` lists"
    )
    with pytest.raises(SettingError, match=words), fits_in_memory("wide"):
        Wide(10**6)
    with fits_in_memory("wide"):
        for _ in range(6):
            Wide(10**4)
        with pytest.raises(SettingError, match="asks for tensors of 1,1[0-9,]+ bytes; this"):
            Wide(10**4)


@pytest.mark.skipif(sys.platform == "win32", reason="which does not tell")
def test_the_machine_s_memory_is_known():
    assert 2**28 < allocation._physical_memory() < 2**50


def test_errors_of_the_model_s_own_pass(tmp_path):
    setup = Setup(img_size=8, normalize=False, weights="random")
    with pytest.raises(SettingError, match="`gain` .* greater than 0"), built_within({}, tmp_path):
        MeanPictureTrainer(setup, gain=-1.0)


@pytest.mark.parametrize(
    "shape", [(1,), (), (5,), (3, 1, 1), (3, 32, 31), (1, 3, 32, 32), (32, 32, 3), (0, 32, 32)]
)
def test_learnt_tensors_of_another_shape_are_refused(trained, shape):
    content = save({"mean": np.zeros(shape, dtype=np.float32)})
    rewrite(trained / "model", "model.safetensors", content)
    words = rf"Tensor `mean` of .* is {re.escape(str(shape))}; \(3, 32, 32\) is needed. It was"
    with pytest.raises(ModelFileError, match=words):
        load(trained)


class Related(nn.Module):
    """Stands for one whose learned buffers have a size in common."""

    def __init__(self):
        super().__init__()
        learned_buffer(self, "mean", shape=("D",))
        learned_buffer(self, "axes", shape=("D", "k"))
        learned_buffer(self, "free")


def test_a_size_that_only_fitting_knows_is_one_in_all_buffers_of_a_module(tmp_path):
    module = nn.ModuleDict({"one": Related(), "two": Related()})
    good = {
        f"{name}.{tensor}": torch.ones(shape)
        for name, size in (("one", 4), ("two", 6))
        for tensor, shape in (("mean", (size,)), ("axes", (size, 2)), ("free", (7,)))
    }
    load_tensors(module, good, tmp_path)
    assert module["two"].axes.shape == (6, 2)
    words = r"Tensor `two.axes` of the saved model `.*` is \(4, 2\); \(6, k\) is needed"
    module = nn.ModuleDict({"one": Related(), "two": Related()})
    with pytest.raises(ModelFileError, match=words):
        load_tensors(module, {**good, "two.axes": torch.ones(4, 2)}, tmp_path)


def test_what_was_not_fitted_loads_as_not_fitted(tmp_path):
    load_tensors(Related(), Related().state_dict(), tmp_path)


def test_scores_that_are_no_numbers_get_no_verdict(trained):
    path = trained / "model/model.safetensors"
    mean = np.full_like(load_file(path)["mean"], np.nan)
    rewrite(trained / "model", "model.safetensors", save({"mean": mean}))
    with pytest.raises(AdError, match="must be a number; got nan. It would pass as good"):
        load(trained).predict(make_picture(0, size=32)[0])
