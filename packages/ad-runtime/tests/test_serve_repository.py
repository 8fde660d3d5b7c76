"""Models of a server: found, exchanged, kept when the new one is broken."""

import os
import shutil

import numpy as np
import pytest
from serving import runtime_of
from tiny_export import calibration

from ad.runtime.errors import ModelFileError, SettingError
from ad.runtime.serve.limits import Refused
from ad.runtime.serve.repository import Repository


class Heard:
    """What the repository told."""

    def __init__(self):
        self.told = []

    def loaded(self, model, before):
        self.told.append(("loaded", model.name, model.version, before is not None))

    def failed(self, name, path, reason, *, kept):
        self.told.append(("failed", name, reason, kept))

    def unloaded(self, model):
        self.told.append(("unloaded", model.name, model.version))

    def take(self):
        told, self.told = self.told, []
        return told


def written(folder, text="0.5"):
    """An exported model as far as a repository looks at it; ``text`` is its threshold."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"model.onnx": "graph", "manifest.json": text}.items():
        new = folder / f".{name}.new"
        new.write_text(content)
        new.replace(folder / name)
    return folder


def load(folder):
    """Reads the threshold from the manifest; ``broken`` there cannot be loaded."""
    text = (folder / "manifest.json").read_text()
    if text == "broken" or not (folder / "model.onnx").exists():
        msg = f"`{folder}` was changed"
        raise ModelFileError(msg)
    if text == "crash":
        raise ZeroDivisionError
    name, _, threshold = text.rpartition(" ")
    return runtime_of(calibration=calibration(float(threshold)), name=name or "bright")


@pytest.fixture
def heard():
    return Heard()


def started(heard, *exports, folder=None, load=load):
    repository = Repository(exports, folder, load, heard)
    repository.start()
    return repository


def threshold(repository, *which):
    return repository.get(*which).runtime.threshold


def test_sub_folders_are_models_and_theirs_versions_of_which_the_highest_answers(tmp_path, heard):
    written(tmp_path / "cable")
    for version in ("2", "10", "9"):
        written(tmp_path / "nut" / version, f"0.{version}")
    written(tmp_path / "nut" / "notes")
    written(tmp_path / "nut" / "007")
    written(tmp_path / ".hidden")
    (tmp_path / "file").write_text("")
    repository = started(heard, folder=tmp_path)
    assert repository.names() == ["cable", "nut"]
    assert [*repository.versions("nut")] == ["2", "9", "10"]
    assert threshold(repository, "nut") == 0.10
    assert threshold(repository, "nut", "9") == 0.9
    assert repository.get("cable").version == "1"
    with pytest.raises(Refused, match="no version '1'; served are 2, 9, 10") as refused:
        repository.get("nut", "1")
    assert refused.value.status == 404


def test_what_is_exchanged_is_loaded_and_what_is_not_is_let_be(tmp_path, heard):
    export = written(tmp_path / "a")
    repository = started(heard, export)
    before = repository.get("bright")
    heard.take()
    repository.look()
    (export / "model.onnx").touch()  # the manifest is what says that it is another
    repository.look()
    assert heard.take() == []
    assert repository.get("bright") is before
    written(export, "0.7")
    repository.look()
    assert heard.take() == [("loaded", "bright", "1", True)]
    assert threshold(repository, "bright") == 0.7
    assert before.runtime.threshold == 0.5  # whoever has it goes on with it


@pytest.mark.parametrize("text", ["broken", "crash", "other 0.5"])
def test_a_broken_new_one_is_told_once_and_the_old_one_stays(tmp_path, heard, text):
    export = written(tmp_path / "a")
    repository = started(heard, export)
    heard.take()
    written(export, text)
    for _ in range(3):
        repository.look()
    ((event, name, reason, kept),) = heard.take()
    assert (event, name, kept) == ("failed", "bright", True)
    assert reason in repository.index()[0]["reason"]
    assert {"broken": "was changed", "crash": "ZeroDivisionError"}.get(text, "now called") in reason
    assert threshold(repository, "bright") == 0.5
    assert repository.ready
    written(export, "0.7")
    repository.look()
    assert threshold(repository, "bright") == 0.7
    assert repository.index()[0]["reason"] == ""


def test_files_that_come_after_the_manifest_are_waited_for(tmp_path, heard):
    export = written(tmp_path / "a")
    repository = started(heard, export)
    heard.take()
    (export / "model.onnx").unlink()
    written(export, "0.7")
    (export / "model.onnx").unlink()
    repository.look()
    assert [event for event, *_ in heard.take()] == ["failed"]
    (export / "model.onnx").write_text("it was slower")
    repository.look()
    assert threshold(repository, "bright") == 0.7


def test_models_and_versions_come_and_go(tmp_path, heard):
    written(tmp_path / "nut" / "1", "0.1")
    repository = started(heard, folder=tmp_path)
    written(tmp_path / "nut" / "2", "0.2")
    written(tmp_path / "cable", "0.3")
    (tmp_path / "nut" / "3").mkdir()
    (tmp_path / "nut" / "3" / "model.onnx").write_text("which is still being copied")
    repository.look()
    assert [(event, name) for event, name, *_ in heard.take()] == [
        *(("loaded", "nut"), ("loaded", "cable"), ("loaded", "nut"), ("failed", "nut"))
    ]
    assert repository.ready
    assert threshold(repository, "nut") == 0.2
    assert threshold(repository, "cable") == 0.3
    shutil.rmtree(tmp_path / "nut" / "2")
    shutil.rmtree(tmp_path / "cable")
    repository.look()  # it may be about to be exchanged
    assert threshold(repository, "nut") == 0.2
    heard.take()
    repository.look()
    assert threshold(repository, "nut") == 0.1
    assert ("unloaded", "nut", "2") in heard.take()
    assert threshold(repository, "cable") == 0.3  # nothing could take its place


def test_unloaded_by_request_stays_so_until_it_is_loaded(tmp_path, heard):
    export = written(tmp_path / "a")
    repository = started(heard, export)
    repository.unload("bright")
    written(export, "0.7")
    repository.look()
    with pytest.raises(Refused, match="no model 'bright'; served are none"):
        repository.get("bright")
    assert repository.ready
    repository.load("bright")
    assert threshold(repository, "bright") == 0.7
    written(export, "broken")
    with pytest.raises(Refused, match="was changed") as refused:
        repository.load("bright")
    assert refused.value.status == 400
    assert threshold(repository, "bright") == 0.7


def test_a_model_is_run_as_it_will_be_before_it_is_served(tmp_path, heard):
    sizes = []

    def run(batch):
        sizes.append(batch.shape)
        return np.zeros(len(batch), np.float32), np.zeros(batch.shape[:3], np.float32)

    started(heard, written(tmp_path / "a"), load=lambda _: runtime_of(run))
    assert sizes == [(1, 32, 32, 3)] * 2
    sizes.clear()
    started(heard, written(tmp_path / "b"), load=lambda _: runtime_of(run, device="cuda"))
    assert sorted({shape[0] for shape in sizes}) == [1, 8]


def test_two_of_one_name_none_at_all_and_a_broken_first_one_are_refused(tmp_path, heard):
    one, other = written(tmp_path / "a"), written(tmp_path / "b")
    with pytest.raises(SettingError, match=r"are both called `bright`.*`--models DIR`"):
        started(heard, one, other)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SettingError, match="holds no exported model: each is a sub-folder"):
        started(heard, folder=empty)
    with pytest.raises(SettingError, match="cannot be read"):
        started(heard, folder=tmp_path / "nowhere")
    with pytest.raises(ModelFileError, match="was changed"):
        started(heard, written(tmp_path / "c", "broken"))


def test_a_single_file_is_looked_at_too(tmp_path, heard):
    file = tmp_path / "model.onnx"
    file.write_text("0.5")
    by_text = lambda path: runtime_of(calibration=calibration(float(path.read_text())))  # noqa: E731
    repository = started(heard, file, load=by_text)
    file.write_text("0.25")
    os.utime(file, (1, 1))
    repository.look()
    assert threshold(repository, "bright") == 0.25
    file.unlink()
    repository.look()
    assert threshold(repository, "bright") == 0.25
