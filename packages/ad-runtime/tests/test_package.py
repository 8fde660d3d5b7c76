"""An exported model's folder: what is written comes back, and nothing else is taken."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_export import bright_model, brightness, calibration, here, make_config, make_export

from ad.runtime import load
from ad.runtime.config import ExportConfig, Input
from ad.runtime.engines.openvino import the_core
from ad.runtime.errors import ModelFileError, OutputError, SettingError
from ad.runtime.framing import Framing, Region, Size, Tiling
from ad.runtime.package import embedded, read_package, rewrite_config, write_package
from ad.runtime.single import embedded_config

INSIDE = np.zeros((20, 20), dtype=bool)
INSIDE[5:15, 5:15] = True
PARITY = {"schema": 1, "passed": True}


@pytest.fixture
def folder(tmp_path):
    region = Region(INSIDE)
    make_export(
        tmp_path / "export", parity=PARITY, framing=Framing(size=Size(32, 32), region=region)
    )
    return tmp_path / "export"


def change(folder, name, content, *, listed=True):
    """Change a file and, if it is to be ``listed``, make the manifest agree with it."""
    (folder / name).write_bytes(content)
    if listed:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["sha256"][name] = hashlib.sha256(content).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))


def change_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        if value is ...:
            del config[key]
        else:
            config[key] = value
    change(folder, "config.json", json.dumps(config).encode())


def test_what_is_written_comes_back(tmp_path):
    config = make_config(
        name="Größe-1.b",
        options={"gain": [1, None, "a"]},
        input=Input(dtype="float32", max_batch=3),
        framing=Framing(
            size=Size(64, 64), tiling=Tiling.of(Size(64, 64), 32), region=Region(INSIDE)
        ),
        white_level=4095,
        categories=("a", "b"),
        calibrations={"b": calibration(0.7)},
        calibrated_on=here(threads=3, tiles=(4, 9)),
    )
    written = write_package(tmp_path / "new" / "e", {"model.onnx": b"graph"}, config, parity=PARITY)
    package = read_package(tmp_path / "new" / "e")
    assert package == written
    assert package.config == config
    assert np.array_equal(package.config.framing.region.inside, INSIDE)
    assert package.parity == PARITY
    assert package.model.read_bytes() == b"graph"
    files = {path.name: path.read_bytes() for path in (tmp_path / "new" / "e").iterdir()}
    assert set(files) == {"config.json", "manifest.json", "model.onnx", "parity.json", "roi.png"}
    del files["manifest.json"]
    assert package.sha256 == {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}
    assert os.listdir(tmp_path / "new") == ["e"]


@pytest.mark.parametrize("name", ["config.json", "model.onnx", "parity.json", "roi.png"])
def test_a_changed_byte_is_refused_before_anything_is_parsed(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    change(folder, name, bytes(content), listed=False)
    with pytest.raises(ModelFileError, match=rf"{name}` is not the file .*the original again"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.onnx", "parity.json"])
def test_a_missing_file_is_named_with_what_to_give(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=rf"`{name}` cannot be read.*that `ad export` wrote"):
        load(folder)


def test_what_was_copied_in_part_is_told_from_what_is_no_export(folder):
    (folder / "model.onnx").unlink()
    with pytest.raises(ModelFileError, match="which its manifest lists: it was copied in part"):
        load(folder)
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    with pytest.raises(ModelFileError, match=r"manifest.json` is no JSON \(.*from the original"):
        load(folder)
    manifest.unlink()
    with pytest.raises(ModelFileError, match=r"no exported model: .*\(No such file[^,]*\)\. Give"):
        load(folder)


@pytest.mark.parametrize("schema", [2, ...])
def test_a_configuration_of_another_format_is_refused(folder, schema):
    change_config(folder, schema=schema)
    with pytest.raises(ModelFileError, match="is a model of format (2|None); .* or export again"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.onnx", "roi.png"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelFileError, match=rf"{name}` is no regular file"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "manifest.json", "model.onnx"])
@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_may_lead_elsewhere_in_the_folder_alone(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    (folder / "..data").mkdir()  # as Kubernetes lays out what it mounts
    (folder / "..data" / name).write_bytes(content)
    (folder / name).symlink_to(f"..data/{name}")
    assert read_package(folder).config.name == "bright"
    (folder.parent / name).write_bytes(content)
    (folder / name).unlink()
    (folder / name).symlink_to(f"../{name}")
    with pytest.raises(ModelFileError, match=rf"{name}` is a link that leads out of its folder"):
        load(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(name)  # to itself
    with pytest.raises(ModelFileError, match="is a link that leads out of|cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "size"), [("model.onnx", 3 * 2**30), ("manifest.json", 2**25), ("roi.png", 2**27)]
)
def test_what_is_too_large_is_not_read(folder, name, size):
    with (folder / name).open("r+b") as file:
        file.truncate(size)  # without taking any room
    with pytest.raises(ModelFileError, match=rf"{name}` is larger than .* no file of an exported"):
        load(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "other"}, "`kind` must be `ad-export`; it is `other`"),
        ({"name": "../up"}, "`name` must be up to 200 letters, digits"),
        ({"name": ""}, "`name` must be"),
        ({"name": 3}, "`name` must be a text; it is a whole number"),
        ({"model": ...}, "`model` is missing"),
        ({"import": "os"}, "`import` is not known"),
        ({"engine": "tensorrt"}, "`engine` must be one of onnx, openvino, pt2; it is `tensorrt`"),
        ({"files": ["/etc/passwd"]}, r"`files` must be \['model.onnx'\] or \['model.onnx', 'mod"),
        ({"files": ["../model.onnx"]}, "`files` must be"),
        ({"files": []}, "`files` must be"),
        ({"files": [["model.onnx"]]}, "`files` must be"),
        ({"opset": 0}, "`opset` must be from 1 to 1000; it is 0"),
        ({"opset": True}, "`opset` must be a whole number or null; it is true or false"),
        ({"precision": "fp8"}, "`precision` must be one of fp32, fp16, bf16, int8"),
        ({"input": {}}, "`input` must have a `max_batch` from 1 to 4096"),
        ({"input": {"max_batch": 10**9}}, "`input` must have a `max_batch` from 1 to 4096"),
        ({"input": {"max_batch": 8, "name": "x"}}, "`input` must be {'name': 'pictures', 'dtype'"),
        ({"img_size": 10**6}, "`img_size` is not what it can be"),
        ({"img_size": [32, 0]}, "`img_size` is not what it can be"),
        ({"fit": "squeeze"}, "`fit` is not what it can be"),
        ({"tiling": {}}, "`tiling` is not what it can be"),
        ({"white_level": 100}, "`white_level` must be null or one of 255, 1023"),
        ({"outputs": {}}, "`outputs` must be `score` and `map`, each of dtype float32"),
        ({"outputs": {"score": {"dtype": "float32"}, "map": None}}, "`roi` is for models that ha"),
        ({"roi": None}, "`roi` is not the hash of its file"),
        ({"roi": "00"}, "`roi` is not the hash of its file"),
        ({"categories": [1]}, "`categories` must be names"),
        ({"calibrations": {"other": {}}}, "`calibrations` must have a calibration for each of so"),
        ({"calibrations": {"toy": 1}}, "`calibrations` must have a calibration for each of some"),
        ({"calibrations": {"toy": {}}}, "A saved calibration cannot be read: missing keys"),
        ({"calibration": {"threshold": 1}}, "A saved calibration cannot be read: missing keys"),
        (
            {"calibration": None, "calibrations": {"toy": calibration().to_json()}},
            "`calibration` is null although single categories have one",
        ),
        ({"calibrated_on": {}}, "`calibrated_on` is malformed: it must have engine, version"),
        ({"origin": {}}, "`origin.fingerprint` is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_configuration_that_cannot_be_right_is_refused_key_by_key(folder, values, words):
    change_config(folder, **values)
    with pytest.raises(ModelFileError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"engine": "tensorflow"}, "engine must be one of onnxruntime, openvino, torch"),
        ({"threads": 0}, "threads and tiles must be whole numbers from 1"),
        ({"threads": 1.0}, "threads and tiles must be whole numbers from 1"),
        ({"tiles": [1]}, "tiles must be the fewest and the most, or null"),
        ({"tiles": 3}, "tiles must be the fewest and the most, or null"),
        ({"tiles": [1, True]}, "threads and tiles must be whole numbers from 1"),
        ({"device": None}, "version, device, precision texts"),
        ({"cores": 3}, "it must have engine, version"),
    ],
    ids=str,
)
def test_conditions_that_cannot_be_are_refused(folder, values, words):
    change_config(folder, calibrated_on={**here().to_json(), **values})
    with pytest.raises(ModelFileError, match=words):
        load(folder)


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ({"schema": 2, "sha256": {}}, "is a model of format 2; .* or export again"),
        ({"schema": 1}, "must have the sha256 of each file"),
        ({"schema": 1, "sha256": {}}, "must list the sha256 of `config.json` and of the model's"),
        (
            {"schema": 1, "sha256": {"config.json": "", "model.onnx": "", "../secret": ""}},
            "and of nothing but these, `parity.json` and `roi.png`",
        ),
        (
            {"schema": 1, "sha256": {"config.json": "", "model.xml": ""}},
            r"\(`model.onnx` or `model.xml` and `model.bin` or `model.pt2`\)",
        ),
        ([], "must hold a JSON object"),
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_right_is_refused(folder, manifest, words):
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match=words):
        load(folder)


def test_a_configuration_of_other_files_than_the_manifests_is_refused(folder):
    change_config(folder, files=["model.onnx", "model.onnx.data"])
    with pytest.raises(ModelFileError, match="does not list the files that `config.json` names"):
        load(folder)


@settings(max_examples=50)
@given(st.data())
def test_no_configuration_whatever_is_in_it_ends_in_another_error(data):
    kinds = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    values = make_config().to_json()
    inside = data.draw(st.sampled_from([None, "input", "outputs", "origin", "calibration"]))
    changed = values if inside is None else dict(values[inside])
    changed[data.draw(st.sampled_from(sorted(changed)))] = data.draw(kinds)
    if inside is not None:
        values[inside] = changed
    try:
        again = ExportConfig.from_json(values, "export")
    except ModelFileError:
        return
    assert again.to_json() == values


@pytest.mark.parametrize("wrong", ["run", "model", "file", "nothing"])
def test_what_is_no_export_is_told_from_one(tmp_path, wrong):
    path = tmp_path / "it"
    if wrong == "file":
        path.write_text("x")
    elif wrong != "nothing":
        path.mkdir()
        (path / {"run": "run.json", "model": "model.safetensors"}[wrong]).write_text("{}")
    words = {
        "run": r"is what `ad train` wrote, and no exported model.\nhint: ad export .*it",
        "model": "is what `ad train` wrote",
        "file": "is a file: it is no exported model. Give a folder that `ad export` wrote",
        "nothing": "does not exist: it is no exported model",
    }
    with pytest.raises(ModelFileError, match=words[wrong]):
        load(path)


def test_a_model_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    config = make_config()
    with pytest.raises(SettingError, match=r"`files` must be those of the configuration, \['mod"):
        write_package(tmp_path / "e", {"other.onnx": b""}, config)
    with pytest.raises(ModelFileError, match="`name` must be"):  # and so could never be read
        write_package(tmp_path / "e", {"model.onnx": b""}, replace(config, name="a b"))
    with pytest.raises(OutputError, match="cannot be saved to .*Nothing there was changed"):
        write_package(tmp_path / "e", {"model.onnx": tmp_path / "missing"}, config)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            write_package(tmp_path / "e", {"model.onnx": b""}, config)
    assert os.listdir(tmp_path) == []
    write_package(tmp_path / "e", {"model.onnx": b""}, config)
    with pytest.raises(OutputError, match="exists already; a saved model is never overwritten"):
        write_package(tmp_path / "e", {"model.onnx": b""}, config)


def test_a_new_threshold_changes_configuration_and_manifest_alone(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = replace(read_package(folder).config, calibration=calibration(0.9))
    rewrite_config(folder, config)
    assert read_package(folder).config == config
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {
        "config.json",
        "manifest.json",
    }


def test_who_is_killed_while_a_threshold_changes_leaves_a_whole_model(folder, monkeypatch):
    config = replace(read_package(folder).config, calibration=calibration(0.9))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("ad.runtime.manifest.sync_folder", killed)
        broken.setattr(
            "pathlib.Path.replace",
            lambda self, to: (
                os.rename(self, to)
                if "next" not in self.name or self.name.startswith(".")
                else killed()
            ),
        )
        with pytest.raises(KeyboardInterrupt):
            rewrite_config(folder, config)
    assert (folder / "config.next.json").exists()
    assert read_package(folder).config == config


@pytest.fixture
def single(tmp_path):
    from onnx import helper

    model = bright_model()
    helper.set_model_props(model, {"other": "x", "ad.config": embedded(make_config())})
    path = tmp_path / "anything.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_single_file_works_alone(single):
    runtime = load(single)
    assert runtime.config == make_config()
    assert runtime.package.sha256 == {
        "anything.onnx": hashlib.sha256(single.read_bytes()).hexdigest()
    }
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    assert np.allclose(runtime.score(pictures)[0], brightness(pictures)[0])
    with pytest.raises(OutputError, match="is a single file, which is never changed"):
        rewrite_config(single, make_config())


def test_the_metadata_are_those_that_onnxruntime_reads(single):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(single, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert embedded_config(single).decode() == metadata["ad.config"]


def test_a_single_file_of_openvino_works_alone(tmp_path):
    openvino = pytest.importorskip("openvino")
    package = make_export(tmp_path / "e", engine="openvino")
    model = the_core().read_model(package.model)
    model.set_rt_info(embedded(package.config), ["ad", "config"])
    openvino.save_model(model, tmp_path / "alone.xml", compress_to_fp16=False)
    runtime = load(tmp_path / "alone.xml")
    assert runtime.config == package.config
    assert set(runtime.package.sha256) == {"alone.xml", "alone.bin"}
    (tmp_path / "alone.bin").unlink()
    with pytest.raises(ModelFileError, match="alone.bin`, which is part of the model, cannot be"):
        load(tmp_path / "alone.xml")


def test_a_single_file_has_no_region(tmp_path):
    with pytest.raises(SettingError, match="with a region .* cannot be a single file"):
        embedded(make_config(framing=Framing(size=Size(32, 32), region=Region(INSIDE))))


@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
@pytest.mark.parametrize(
    "content", [b"", b"\x08", b"\xff" * 40, b"\x72\xff\xff\xff\xff\x0f", b"<net><rt_info>", b"<n/>"]
)
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, suffix, content):
    (tmp_path / f"m{suffix}").write_bytes(content)
    with pytest.raises(ModelFileError, match="is no ONNX file|is no OpenVINO|no `ad.config` in"):
        load(tmp_path / f"m{suffix}")


def test_a_single_file_with_a_library_of_metadata_is_not_read(tmp_path):
    with (tmp_path / "m.onnx").open("wb") as file:
        file.write(b"\x72\x80\x80\x80\x80\x01")  # 2**28 bytes of metadata, which take no room
        file.truncate(2**28 + 6)
    with pytest.raises(ModelFileError, match="is no ONNX file, or it was damaged"):
        embedded_config(tmp_path / "m.onnx")


def test_a_single_file_of_a_newer_format_is_refused(tmp_path):
    from onnx import helper

    model = bright_model()
    helper.set_model_props(model, {"ad.config": '{"schema": 7}'})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="is a model of format 7.*Update ad-runtime"):
        load(tmp_path / "m.onnx")


def test_a_single_file_that_needs_others_is_refused(tmp_path):
    from onnx import helper

    model = bright_model()
    config = make_config(files=("model.onnx", "model.onnx.data"))
    helper.set_model_props(model, {"ad.config": embedded(config)})
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match="works in their folder alone: give that"):
        load(tmp_path / "m.onnx")


@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        embedded_config(path)
