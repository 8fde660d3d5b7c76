"""A detector's compiled form: its scores, what is told of it, and where it cannot be had."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.exc import FailOnRecompileLimitHit

from ad.core import LoadedDetector, load, recalibrate, train
from ad.core.errors import SettingError
from ad.core.jobs import inspect as inspecting
from ad.core.jobs import recalibrate as recalibrating
from ad.core.predict import compiled
from ad.core.predict.config import Conditions
from ad.core.testing.pictures import make_picture


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run",
                 holdout=0.1)  # fmt: skip


@pytest.fixture
def normals(tmp_path):
    return [make_picture(number, size=32)[0] for number in range(300, 303)]


class Stub:
    """In the place of what takes seconds: as if scores were half as large."""

    def __init__(self, detector, size, device, progress):
        assert tuple(size) == (32, 32)
        self.detector = detector
        progress.tell("compiled in 0 s")

    def __call__(self, images):
        return type(self.detector(images))(*(each / 2 for each in self.detector(images)))


class Told:
    """Remembers what a person is told."""

    def __init__(self):
        self.words = []

    def tell(self, text):
        self.words.append(text)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs g++")
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_detector_says_what_it_says_itself(trained, normals, monkeypatch):
    torch._dynamo.reset()
    made = torch._dynamo.utils.counters["stats"]
    made.clear()
    progress = Told()
    loaded = load(trained.run, compile=True, threshold=1.0, progress=progress)
    assert [words.startswith("compiled in ") for words in progress.words] == [True]
    assert made["unique_graphs"] == 1
    monkeypatch.delattr(compiled.CompiledForm, "_own")  # which is not gone back to
    own = load(trained.run, threshold=1.0)
    for count, translations in ((3, 1), (2, 1), (1, 2)):
        pictures = torch.from_numpy(np.stack(normals[:count]))
        (score, map_), (expected, wanted) = loaded.score(pictures), own.score(pictures)
        np.testing.assert_allclose(score, expected, rtol=1e-6)
        np.testing.assert_allclose(map_, wanted, rtol=1e-6)
        assert made["unique_graphs"] == translations


def test_it_scores_and_other_conditions_are_told(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "CompiledForm", Stub)
    folder = tmp_path / "normals"
    folder.mkdir()
    for number in range(300, 319):
        Image.fromarray(make_picture(number, size=32)[0]).save(folder / f"{number}.png")
    picture = make_picture(400, size=32)[0]
    (before,) = load(trained.run).predict(picture)
    precision = load(trained.run).config.precision
    words = (
        f"was set in {precision} on `cpu`; scores are now computed in {precision} and compiled "
        "on `cpu` and differ a .* --normals DIR --compile$"
    )
    with pytest.warns(UserWarning, match=words):
        (now,) = load(trained.run, compile=True).predict(picture)
    assert now.score == pytest.approx(before.score / 2)
    halved = recalibrate(trained.run, normals=folder, compile=True)
    assert json.loads((trained.run / "model/config.json").read_text())["calibrated_on"]["compiled"]
    load(trained.run, compile=True)  # where it holds, without a warning
    with pytest.warns(UserWarning, match=r"and compiled on `cpu`; .* in \w+ on `cpu` .* DIR$"):
        load(trained.run)
    whole = recalibrate(trained.run, normals=folder)
    assert halved.after.threshold == pytest.approx(whole.after.threshold / 2)
    assert "compiled" not in (trained.run / "model/config.json").read_text()
    told = Told()
    told.step = inspecting.SILENT.step
    with pytest.warns(UserWarning, match="and compiled"):
        inspecting.inspect(trained.run, [folder / "300.png"], compile=True, progress=told)
    assert told.words == ["compiled in 0 s"]


def test_conditions_from_before_there_were_compiled_forms_are_read():
    old = {"device": "cpu", "threads": 2}
    assert not Conditions.wrong(old)
    assert Conditions.from_json(old).to_json() == old
    assert Conditions.from_json({**old, "compiled": True}).to_json() == {**old, "compiled": True}
    assert Conditions.wrong({**old, "compiled": 1})


def test_a_machine_that_cannot_compile_says_so_and_goes_on(trained, normals, monkeypatch):
    def fail(*_, **__):
        msg = "No working C++ compiler found.\n\nSet TORCHDYNAMO_VERBOSE=1 for more"
        raise RuntimeError(msg)

    own = load(trained.run).predict(normals)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    words = r"cannot be compiled here \(No working C\+\+ compiler found\): it runs as it is\. .*g\+"
    with pytest.warns(UserWarning, match=words) as caught:
        loaded = load(trained.run, compile=True)
    assert len(caught) == 1  # nothing of other conditions, as there are none
    assert loaded.compiled is None
    assert [each.score for each in loaded.predict(normals)] == [each.score for each in own]


def test_what_cannot_be_compiled_any_more_is_told_once(trained, normals, monkeypatch):
    def limited(images):
        if len(images) != 2:
            msg = "recompile_limit reached"
            raise FailOnRecompileLimitHit(msg)
        return trained.detector.detector(images)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: limited)
    loaded = load(trained.run, compile=True, threshold=1.0)
    with pytest.warns(UserWarning, match=r"for 3 pictures at once \(recompile_limit reached\): it"):
        (first, *_) = loaded.predict(normals)
    (again, *_) = loaded.predict(normals)
    assert first.score == again.score == trained.detector.predict(normals)[0].score


def test_an_exported_model_is_not_compiled(tmp_path, monkeypatch, run_ad):
    words = "`compile`: `.*` is an exported model, which its engine has translated already. Leave "
    for module in (inspecting, recalibrating):
        monkeypatch.setattr(module, "is_exported", lambda _: True)
    with pytest.raises(SettingError, match=words):
        inspecting.inspect(tmp_path, [tmp_path], compile=True)
    with pytest.raises(SettingError, match=words):
        recalibrate(tmp_path, normals=tmp_path, compile=True)
    monkeypatch.setattr("ad.runtime.package.is_exported", lambda _: True)
    picture = tmp_path / "a.png"
    picture.write_bytes(b"")
    status, _, err = run_ad("predict", tmp_path, picture, "--workers", "2", "--compile")
    assert status == 1
    assert "engine has translated already" in " ".join(err.split())


def test_a_threshold_by_hand_is_of_no_form(trained):
    with pytest.raises(SettingError, match="`compile`"):
        recalibrate(trained.run, threshold=1.0, compile=True)
    assert isinstance(load(trained.run), LoadedDetector)
