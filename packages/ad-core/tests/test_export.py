"""From a run to a folder that runs without torch, and what can go wrong on the way."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import ad.runtime
from ad.core import Detector, ModelRegistry, export, load, recalibrate, train
from ad.core.errors import (
    DataError,
    ExportError,
    MissingExtraError,
    ModelFileError,
    OutputError,
    SettingError,
    UnknownNameError,
)
from ad.core.exporting import parity
from ad.core.exporting.tracing import Traced
from ad.core.testing import make_picture
from ad.core.testing.pictures import write_mvtec_tree
from ad.runtime.engines.openvino import the_core
from ad.runtime.package import read_package

for extra in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(extra)

MODEL = "mean-picture-to-export"
FORMATS = {
    "onnx": ("onnxruntime", ["model.onnx"]),
    "openvino": ("openvino", ["model.xml", "model.bin"]),
    "pt2": ("torch", ["model.pt2"]),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, and its data in `data`."""
    ModelRegistry.register(
        MODEL,
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    home = tmp_path_factory.mktemp("home")
    write_mvtec_tree(home / "data", train=16, size=40)
    train("mvtec", "toy", MODEL, data_root=home / "data", output_dir=home / "run", holdout=0.5)
    yield home
    ModelRegistry.unregister(MODEL)


@pytest.fixture(scope="module")
def exports(home):
    """The run in each format."""
    kept = home / "exports"
    return {
        format_: export(home / "run", format=format_, output=kept / format_, single_file=single)
        for format_, single in (("onnx", True), ("openvino", True), ("pt2", False))
    }


@pytest.fixture
def run(home, tmp_path):
    """A copy, to be changed."""
    shutil.copytree(home / "run", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def copied(home, exports, tmp_path):
    """An export without a configuration in its graph, to be changed."""
    import onnx

    folder = tmp_path / "copied"
    package = read_package(exports["onnx"].output)
    model = onnx.load(package.model)
    del model.metadata_props[:]
    files = {"model.onnx": model.SerializeToString()}
    from ad.runtime.package import write_package

    write_package(folder, files, package.config, parity=package.parity)
    return folder


@pytest.fixture
def same_graph(exports, monkeypatch):
    """Exports have the graph that was written already: how it is written is tried elsewhere."""

    def known(traced, format_, folder):
        shutil.copy(exports["onnx"].output / "model.onnx", folder)
        return {"model.onnx": folder / "model.onnx"}

    def traced(detector, name, size, input_):
        return Traced(name=name, program=None, input=input_, localises=True)

    monkeypatch.setattr("ad.core.jobs.export.write_files", known)
    monkeypatch.setattr("ad.core.jobs.export.trace", traced)


def write(folder, indices, *, defect=False):
    folder.mkdir(parents=True)
    for index in indices:
        picture, _ = make_picture(index, size=40, defect=defect)
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("format_", FORMATS)
def test_a_folder_is_written_that_says_what_it_is_and_was_checked(format_, home, exports):
    engine, files = FORMATS[format_]
    result = exports[format_]
    package = read_package(result.output)
    config = package.config
    assert config == result.config
    assert (config.engine, [*config.files]) == (format_, files)
    assert (config.model, config.options, config.categories) == (MODEL, {"gain": 1.0}, ("toy",))
    assert config.calibrated_on.engine == engine
    assert config.calibration.num_images == 8
    assert config.opset == (None if format_ == "pt2" else 18)
    record = json.loads((home / "run/run.json").read_text())
    hashes = json.loads((home / "run/model/manifest.json").read_text())["sha256"]
    assert config.origin.sha256 == hashes["model.safetensors"]
    assert (config.origin.seed, config.origin.fingerprint) == (0, record["data"]["sha256"])
    told = package.parity
    assert told == result.parity
    assert told["passed"]
    assert (told["pictures"], told["kind"], told["why"]) == (8, "held-out", [])
    assert told["verdicts"] == {"same": 8, "different": 0}
    assert told["score"]["max_scales"] < 1e-3
    assert told["engine"].startswith(f"{engine} ")
    assert {path.name for path in result.output.iterdir()} == {
        *files, "config.json", "parity.json", "manifest.json"
    }  # fmt: skip
    for path in result.output.iterdir():  # nobody's folders are told
        assert str(home).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()
    assert sorted(path.name for path in result.output.parent.iterdir()) == sorted(FORMATS)


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_a_single_file_works_alone_as_the_folder_does(format_, home, exports, tmp_path):
    package = read_package(exports[format_].output)
    for name in package.config.files:
        shutil.copy(package.path / name, tmp_path)
    alone = ad.runtime.load(tmp_path / package.model.name)
    assert alone.config == package.config
    test = home / "data/toy/test"
    found, by_torch = alone.predict(test), load(home / "run").predict(test)
    np.testing.assert_allclose(
        [one.score for one in found], [one.score for one in by_torch], rtol=1e-5
    )
    assert [one.path for one in found] == [one.path for one in by_torch]
    for one, other in zip(found, by_torch, strict=True):
        np.testing.assert_allclose(one.map, other.map, rtol=1e-5, atol=1e-6)


def test_a_model_that_holds_its_threshold_itself_is_not_calibrated(exports, home, tmp_path):
    normals = write(tmp_path / "normals", range(300, 310))
    with pytest.raises(OutputError, match=r"holds its threshold itself.*--single-file --normals"):
        recalibrate(exports["onnx"].output, normals=normals)


def test_another_format_has_no_single_file(home):
    with pytest.raises(SettingError, match="`--single-file` is for `onnx` and `openvino`"):
        export(home / "run", format="pt2", single_file=True)


def test_the_archive_is_for_programs_and_holds_no_pickle(exports, run_ad):
    """Reading one lets torch run what is in it, so that no command does."""
    import zipfile

    import torch

    folder = exports["pt2"].output
    with zipfile.ZipFile(folder / "model.pt2") as file:
        inputs = [one for one in file.namelist() if "sample_inputs" in one and file.read(one)]
        weights = b"".join(file.read(one) for one in file.namelist() if one.endswith(".json"))
    assert not inputs
    assert b'"use_pickle": true' not in weights
    module = torch.export.load(folder / "model.pt2").module()
    score, map_ = module(torch.zeros(3, 32, 32, 3, dtype=torch.uint8))
    assert (score.shape, map_.shape) == ((3,), (3, 32, 32))
    status, _, told = run_ad("predict", folder, folder)
    assert status == 1
    assert "`torch.export.load`" in told
    assert "export with `--format onnx`" in told


def test_float_images_in_place_of_pictures(home, tmp_path):
    result = export(home / "run", input="float", output=tmp_path / "out", max_batch=3)
    assert result.config.input.to_json()["layout"] == "NCHW"
    assert result.config.input.max_batch == 3
    assert result.parity["passed"]
    first = home / "data/toy/test/good/000.png"
    ours = ad.runtime.load(tmp_path / "out").predict(first)[0].score
    assert ours == pytest.approx(load(home / "run").predict(first)[0].score, rel=1e-5)


def test_predictions_of_an_export_are_those_of_its_run(home, copied, run_ad, tmp_path):
    tables = {}
    for name, model in (("run", home / "run"), ("export", copied)):
        out, maps = tmp_path / f"of_{name}", tmp_path / f"maps_{name}"
        status, printed, _ = run_ad(
            "predict", model, home / "data/toy/test", "--output", out, "--save-maps", maps, "--json"
        )
        assert status == 0
        tables[name] = json.loads(printed)["predictions"]
        assert len(list((out / "heatmaps").iterdir())) == 8
        assert (out / "predictions.csv").read_text().count("\n") == 9
        tables[f"{name} maps"] = [np.load(path)["map"] for path in sorted(maps.iterdir())]
    assert [row["verdict"] for row in tables["run"]] == [row["verdict"] for row in tables["export"]]
    scores = [[row["score"] for row in tables[name]] for name in ("run", "export")]
    np.testing.assert_allclose(*scores, rtol=1e-5)
    np.testing.assert_allclose(tables["run maps"], tables["export maps"], rtol=1e-4, atol=1e-6)
    assert run_ad("predict", copied, home / "data/toy/test/good")[0] == 0
    assert (tmp_path / "copied-predictions/predictions.csv").is_file()


def test_what_is_for_runs_alone_is_refused_of_an_export_and_the_other_way_round(
    home, copied, run_ad
):
    good = home / "data/toy/test/good"
    for words, told in (
        (("predict", copied, good, "--precision", "bf16"), "computed in that of its export"),
        (("predict", copied, good, "--category", "boy"), "not trained on a category `boy`.*`toy`"),
        (("predict", home / "run", good, "--category", "toy"), "one threshold for all"),
        (("calibrate", copied, "--validation", good), "`--normals DIR`, or by hand"),
        (("calibrate", copied, "--normals", good, "--precision", "fp32"), "Leave it out"),
    ):
        status, _, error = run_ad(*words)
        assert status == 1
        assert re.search(told, error.replace("\n", " ")), error
    with pytest.raises(ModelFileError, match=r"exported model.*`ad.runtime.load\('"):
        load(copied)


def test_show_tells_of_an_export(copied, run_ad):
    status, printed, _ = run_ad("show", copied)
    assert status == 0
    assert MODEL in printed
    assert "onnxruntime" in printed
    assert json.loads(run_ad("show", copied, "--json")[1])["config"]["model"] == MODEL
    assert json.loads(run_ad("show", MODEL, "--json")[1])["options"]["gain"]["default"] == 1.0


def test_the_threshold_of_an_export_is_set_anew_and_the_graph_stays(home, copied, tmp_path, run_ad):
    normals = write(tmp_path / "normals", range(300, 319))
    before = read_package(copied)
    status, printed, told = run_ad(
        "calibrate", copied, "--normals", normals, "--false-alarms", "0.1", "--json"
    )
    assert status == 0
    assert f"--threshold {before.config.calibration.threshold}" in told  # there is no `--undo`
    assert "--undo" not in told
    after = read_package(copied)
    assert json.loads(printed)["after"] == after.config.calibration.facts()
    changed = {name for name in before.sha256 if before.sha256[name] != after.sha256[name]}
    assert changed == {"config.json"}
    assert after.config.calibration.num_images == 19
    runtime = ad.runtime.load(copied)
    found = runtime.predict(normals)
    assert sum(one.anomalous for one in found) == 1  # of 19, one in ten may be
    log = [json.loads(line) for line in (copied / "log.jsonl").read_text().splitlines()]
    assert log[0]["before"] == before.config.calibration.to_json()
    recalibrate(copied, threshold=0.25)
    assert read_package(copied).config.calibration.threshold == 0.25
    with pytest.raises(DataError, match="is called like a folder of defective pictures"):
        recalibrate(copied, normals=write(tmp_path / "defective", [1], defect=True))


@pytest.mark.usefixtures("same_graph")
def test_good_pictures_of_ones_own_set_the_threshold(home, tmp_path):
    normals = write(tmp_path / "normals", range(300, 309))
    result = export(home / "run", output=tmp_path / "out", normals=normals, false_alarms=0.2)
    assert (result.config.calibration.num_images, result.config.calibration.rate) == (9, 0.2)
    assert result.parity["kind"] == "normals"
    found = ad.runtime.load(tmp_path / "out").predict(normals)
    assert sum(one.anomalous for one in found) == 1
    learnt = home / "data/toy/train/good"
    with pytest.raises(DataError, match="are among those that .* has learnt from"):
        export(home / "run", output=tmp_path / "other", normals=learnt)
    assert not (tmp_path / "other").exists()


def without_data(home, tmp_path):
    """The model folder alone, of which nobody knows what was held out."""
    shutil.copytree(home / "run/model", tmp_path / "alone")
    return tmp_path / "alone"


def kept(run, output, **more):
    """What an export says whose threshold is the run's."""
    with pytest.warns(UserWarning, match="The threshold is the run's own") as told:
        result = export(run, output=output, **more)
    saved = load_quietly(run)
    assert result.config.calibration == saved.calibration
    assert result.config.calibrated_on.engine == "torch"
    assert result.config.calibrated_on.precision == saved.precision
    with pytest.warns(UserWarning, match="was set in .* by torch"):
        ad.runtime.load(output)
    return str(told[0].message)


def load_quietly(run):
    from ad.core.predict import ModelConfig
    from ad.core.saved.files import read_config

    return ModelConfig.from_json(read_config(run / "model"), run / "model")


@pytest.mark.usefixtures("same_graph")
def test_a_threshold_that_cannot_be_set_anew_is_kept_and_that_is_told(home, run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    sound = (run / "run.json").read_text()
    record["data"]["training"][0] += 1
    (run / "run.json").write_text(json.dumps(record))
    told = kept(run, tmp_path / "changed")
    assert "the run's data have changed" in told
    assert "--normals DIR" in told
    with pytest.raises(SettingError, match="`false_alarms` 0.2 is for a threshold that is set"):
        export(run, output=tmp_path / "rate", false_alarms=0.2)
    (run / "run.json").write_text(sound.replace(str(home / "data"), str(tmp_path / "gone")))
    (tmp_path / "gone").mkdir()
    said = kept(run, tmp_path / "moved")
    assert "data are not where they were" in said
    assert read_package(tmp_path / "moved").parity["kind"] == "noise"


@pytest.mark.usefixtures("same_graph")
def test_a_threshold_that_somebody_set_is_not_set_anew_from_other_pictures(run, tmp_path):
    normals = write(tmp_path / "normals", range(300, 319))
    recalibrate(run, normals=normals)
    assert f"set from `{normals}` by `ad calibrate`" in kept(run, tmp_path / "by_normals")
    recalibrate(run, threshold=0.5)
    assert "set by hand by `ad calibrate`" in kept(run, tmp_path / "by_hand")


def test_a_run_without_threshold_has_an_export_without(home, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(Detector, "prepare_export", lambda self: ("It is another way now.",))
    train("mvtec", "toy", MODEL, data_root=home / "data", output_dir=run, holdout=0)
    result = export(run)
    assert result.output == run / "export"
    assert result.threshold is None
    assert result.parity["verdicts"] is None
    assert "There is no threshold" in result.notes[0]
    assert "compared on noise" in result.notes[1]
    assert result.notes[2] == "It is another way now."
    assert ad.runtime.load(run / "export").predict(home / "data/toy/test")[0].anomalous is None


@pytest.mark.usefixtures("same_graph")
def test_what_exists_is_left_alone_and_what_fails_leaves_nothing(home, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(OutputError, match=r"exists already.*--output DIR.*rm -r"):
        export(home / "run", output=tmp_path / "there")
    honest = parity.compare

    def worse(detector, runtime, frames, kind):
        return honest(detector, runtime, frames, kind) | {"passed": False, "why": ["it rained"]}

    monkeypatch.setattr("ad.core.jobs.export.compare", worse)
    with pytest.raises(ExportError, match=r"does not score in `onnx` as it does in torch.*rained"):
        export(home / "run", output=tmp_path / "worse")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.usefixtures("same_graph")
def test_the_command_prints_json_and_words(home, run_ad, tmp_path):
    status, printed, told = run_ad("export", home / "run", "--output", tmp_path / "one", "--json")
    assert status == 0
    found = json.loads(printed)
    assert found["config"]["model"] == MODEL
    assert found["parity"]["passed"]
    assert found["sha256"] == dict(read_package(tmp_path / "one").sha256)
    status, printed, told = run_ad("export", home / "run", "--output", tmp_path / "two")
    assert found["sha256"]["model.onnx"] in printed
    assert "found by onnxruntime" in printed
    assert f"written to {tmp_path / 'two'}" in told


def test_what_cannot_be_is_refused_before_any_work(home, tmp_path, monkeypatch):
    run = home / "run"
    for settings, told in (
        ({"format": "tflite"}, "`format` must be one of onnx, openvino, pt2; got 'tflite'"),
        ({"input": "int"}, "`input` must be one of uint8, float"),
        ({"precision": "fp8"}, "`precision` must be one of fp32, fp16, bf16, int8"),
        ({"precision": "int8", "format": "openvino"}, "int8` is not offered: .* bf16 and fp16"),
        ({"precision": "bf16"}, "bf16` is for `--format openvino`"),
        ({"max_batch": 0}, "`max_batch` must be a whole number from 1 to 4096; got 0"),
        ({"false_alarms": 1.5}, "below 1; got 1.5. For 1.5 %: `--false-alarms 0.015`"),
    ):
        with pytest.raises(SettingError, match=told):
            export(run, **settings)
    with pytest.raises(DataError, match="There is no folder `nowhere`"):
        export(run, check="nowhere")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "run.json", tmp_path / "begun")
    with pytest.raises(ModelFileError, match="training of .* has not ended"):
        export(tmp_path / "begun")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"'./packages/ad-core\[onnx\]'"):
        export(run)
    assert not (run / "export").exists()


def test_a_family_that_is_not_installed_is_named(run):
    config = json.loads((run / "model/config.json").read_text())
    from ad.core.saved.files import rewrite_config

    del config["schema"]
    rewrite_config(run / "model", {**config, "model": "of-another-family"})
    with pytest.raises(UnknownNameError, match="of-another-family"):
        export(run)


def test_lower_precision_has_to_judge_the_same(home, tmp_path, monkeypatch):
    if "BF16" not in the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")
    write(tmp_path / "check/good", range(400, 404))
    write(tmp_path / "check/dent", range(500, 504), defect=True)
    given = {"format": "openvino", "precision": "bf16", "check": tmp_path / "check"}
    result = export(home / "run", output=tmp_path / "low", **given, force=True)
    gate = result.parity["gate"]
    assert result.config.precision == result.config.calibrated_on.precision == "bf16"
    assert gate["against"].endswith("fp32 cpu")
    assert result.parity["engine"].endswith("bf16 cpu")
    assert gate["image_auroc"] == {"fp32": 1.0, "bf16": 1.0}
    assert (result.parity["passed"], result.parity["why"]) == (gate["passed"], gate["why"])
    with (
        pytest.warns(UserWarning, match="there is no run directory around the model"),
        pytest.raises(SettingError, match=r"no pictures to tell by. Give some: --check DIR"),
    ):
        export(without_data(home, tmp_path), output=tmp_path / "x", **(given | {"check": None}))
    honest = ad.core.jobs.export.judged

    def worse(*given, **more):
        return honest(*given, **more) | {"passed": False, "why": ["ranks went"]}

    monkeypatch.setattr("ad.core.jobs.export.judged", worse)
    with pytest.raises(ExportError, match=r"does not judge in bf16 .*: ranks went .*--force"):
        export(home / "run", output=tmp_path / "refused", **given)
    assert not (tmp_path / "refused").exists()


def test_a_region_and_tiles_go_with_the_export(student, tmp_path):
    data = write_mvtec_tree(tmp_path / "data", train=6, good=2, bad=1, size=128)
    mask = np.zeros((128, 128), np.uint8)
    mask[30:100, 20:90] = 255
    Image.fromarray(mask).save(tmp_path / "roi.png")
    run, given = tmp_path / "run", {"tile": 64, "overlap": 32, "roi": tmp_path / "roi.png"}
    train("mvtec", "toy", student, data_root=data, output_dir=run, holdout=0.4, **given)
    result = export(run)
    assert result.parity["passed"]
    assert result.config.calibrated_on.tiles == (9, 9)
    assert (run / "export/roi.png").is_file()
    both = (
        load(run).predict(data / "toy/test"),
        ad.runtime.load(run / "export").predict(data / "toy/test"),
    )
    for ours, theirs in zip(*both, strict=True):
        assert ours.score == pytest.approx(theirs.score, rel=1e-4)
        np.testing.assert_allclose(ours.map, theirs.map, rtol=1e-3, atol=1e-6)
    with pytest.raises(SettingError, match="region of interest .* cannot be a single file"):
        export(run, output=tmp_path / "single", single_file=True)


def test_options_tell_no_folders(tmp_path):
    (tmp_path / "textures").mkdir()
    given = {
        "textures": str(tmp_path / "textures"),
        "gone": "/home/me/x",
        "backbone": "a/b",
        "k": 3,
    }
    told = {"textures": "textures", "gone": "x", "backbone": "a/b", "k": 3}
    assert ad.core.jobs.export._without_paths(given) == told
