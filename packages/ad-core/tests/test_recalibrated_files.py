"""What is on the disk while a threshold is set anew, whatever happens meanwhile."""

import hashlib
import json
import sys
import threading

import pytest
import warm
from PIL import Image

import ad.core.jobs.recalibrate
from ad.core import load, recalibrate, train
from ad.core.errors import ModelFileError, OutputError
from ad.core.saved.claims import alone
from ad.core.saved.files import read_model, rewrite_config
from ad.core.testing.pictures import make_picture
from ad.runtime.manifest import Described


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


@pytest.fixture
def normals(tmp_path):
    folder = tmp_path / "normals"
    folder.mkdir()
    for index in range(300, 319):
        Image.fromarray(make_picture(index, size=32)[0]).save(folder / f"{index}.png")
    return folder


# A process that dies by itself at the n-th change of a name: writes are whole up to there.
KILLED = """
import os, sys
from pathlib import Path
from ad.core.saved.files import read_model, rewrite_config

folder, at = Path(sys.argv[1]), int(sys.argv[2])
count, replace = 0, Path.replace

def dies(self, target):
    global count
    if count == at:
        os._exit(9)
    count += 1
    return replace(self, target)

Path.replace = dies
rewrite_config(folder, {"model": "new"})
"""


def test_a_kill_at_any_moment_leaves_the_old_configuration_or_the_new_one(trained, tmp_path):
    folder = trained.run / "model"
    _, old = read_model(folder)
    seen = []
    for at in range(9):
        status = warm.run(KILLED, folder, at, said=tmp_path / "said")
        _, found = read_model(folder)
        assert found in (old, {"model": "new"})
        seen.append(found != old)
        if status == 0:
            break
        assert status == 9
        rewrite_config(folder, old)  # works on what a kill left, too
        assert read_model(folder)[1] == old
    assert seen == [False, False, False, True, True]  # old again, next, manifest, its own name
    names = {"config.json", "manifest.json", "model.safetensors"}
    assert names == {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    manifest = json.loads((folder / "manifest.json").read_text())["sha256"]
    for name, expected in manifest.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected


def test_a_log_that_cannot_be_written_changes_nothing(trained, normals):
    (trained.run / "log.jsonl").unlink()
    (trained.run / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log `.*log\.jsonl` cannot be written"):
        recalibrate(trained.run, normals=normals)
    assert load(trained.run).config == trained.detector.config


def test_a_calibration_that_came_in_between_is_left_as_it_is(trained, normals, monkeypatch):
    calibrate_on, first = ad.core.jobs.recalibrate.calibrate_on, []

    def overtaken(*arguments, **settings):
        monkeypatch.setattr(ad.core.jobs.recalibrate, "calibrate_on", calibrate_on)
        first.append(recalibrate(trained.run, normals=normals).after)
        return calibrate_on(*arguments, **settings)

    monkeypatch.setattr(ad.core.jobs.recalibrate, "calibrate_on", overtaken)
    old = f"{trained.threshold:.4g}"
    words = f"by another process .* threshold was {old} when it began and is (.*) now.* left as it"
    with pytest.raises(OutputError, match=words) as refused:
        recalibrate(trained.run, normals=normals, false_alarms=0.3)
    assert f" {first[0].threshold:.4g} now. " in str(refused.value)
    assert load(trained.run).config.calibration == first[0]
    lines = [json.loads(line) for line in (trained.run / "log.jsonl").read_text().splitlines()]
    logged = [line["after"] for line in lines if line["event"] == "calibrate"]
    assert logged == [first[0].to_json()]
    assert recalibrate(trained.run, normals=normals, false_alarms=0.3).before == first[0]


@pytest.mark.skipif(sys.platform == "win32", reason="nobody waits there")
def test_one_at_a_time_changes_a_model_and_who_is_killed_holds_up_nobody(
    trained, normals, tmp_path
):
    killed = "import os, sys; from pathlib import Path\n"
    killed += "from ad.core.saved.claims import alone\n"
    killed += "with alone(Path(sys.argv[1])): os._exit(9)"
    folder = trained.run / "model"
    before = sorted(folder.iterdir())
    assert warm.run(killed, folder, said=tmp_path / "said") == 9
    assert sorted(folder.iterdir()) == before
    work = threading.Thread(target=recalibrate, args=[trained.run], kwargs={"normals": normals})
    with alone(folder):
        work.start()
        work.join(1)
        assert work.is_alive()
        assert load(trained.run).config == trained.detector.config
    work.join()
    assert load(trained.run).config != trained.detector.config


def test_who_reads_while_the_configuration_is_rewritten_gets_the_new_one(trained, monkeypatch):
    folder = trained.run / "model"
    tensors, old = read_model(folder)
    read, reads = Described.hashes, []

    def rewriting(kind, where):
        hashes = read(kind, where)
        if not reads:
            reads.append(where)
            rewrite_config(folder, {"model": "new"})
        return hashes

    monkeypatch.setattr(Described, "hashes", rewriting)
    after, found = read_model(folder)
    assert found == {"model": "new"} != old
    assert after.keys() == tensors.keys()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"(?s)config\.json.*was\s+damaged or changed"):
        read_model(folder)
