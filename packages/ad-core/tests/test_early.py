"""What is mistyped is told before torch loads: no timed tests, but what was imported."""

import json
import subprocess
import sys

import pytest

from ad.core.cli import console
from ad.core.saved.files import read_config, rewrite_config
from ad.core.testing import write_mvtec_tree

TRAINER = """\
import torch
from ad.core import OnePassTrainer


class WaryTrainer(OnePassTrainer):
    def __init__(self, setup, *, gain: float = 1.0, floor: float = 0.1):
        super().__init__(setup)
"""
PROBE = """\
import contextlib, io, json, sys
from ad.core.registry import ModelRegistry
from ad.core.cli import main
train = {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False}
ModelRegistry.register("wary", "wary:WaryTrainer", {"gain": 2.0}, train)
found = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["ad", *arguments]
    said = io.StringIO()
    status = 0
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    heavy = [name for name in ("torch", "timm", "scipy", "wary") if name in sys.modules]
    found.append((status, said.getvalue(), heavy))
print(json.dumps(found))
"""


def refused(folder, *commands):
    """Exit status, words and heavy modules after each of the commands, in one process."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, '.')\n" + PROBE,
         json.dumps(commands)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=folder,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_mistyped_names_and_paths_are_refused_before_torch_loads(tmp_path):
    (tmp_path / "wary.py").write_text(TRAINER)
    write_mvtec_tree(tmp_path / "data", size=16)
    (tmp_path / "begun").mkdir()
    settings = {"dataset": "mvtec", "category": "toy", "seed": 0, "data_root": "gone"}
    (tmp_path / "begun/run.json").write_text(
        json.dumps({"settings": settings, "data": {"training": []}, "command": "ad train x"})
    )
    data = ["--data-root", "data"]
    expected = {
        ("train", "mvtec", "toy", "wray"): "Did you mean `wary`?",
        ("train", "mvtek", "toy", "wary"): "Did you mean `mvtec`?",
        ("train", "mvtec", "tov", "wary", *data): "has no category `tov`. Did you mean `toy`?",
        ("train", "mvtec", "toy", "wary", "--data-root", "no"): "The folder `",
        ("train", "folder", "no", "wary"): "There is no folder `no`.",
        ("train", "mvtec", "toy", "wary", *data, "--set", "gian=1"): "Did you mean `gain`?",
        ("train", "mvtec", "toy", "wary", *data, "--set", "gain"): "`--set` takes KEY=VALUE",
        ("train", "mvtec", "toy", "wary", *data, "--weights", "w.st"): "weights file `w.st`",
        ("train", "mvtec", "toy", "wary", *data, "--roi", "r.png"): "`roi`: The region of",
        ("train", "mvtec", "toy", "wary", *data, "--resume", "no"): "`no` is no run directory",
        ("predict", "no", "data"): "`no` is no saved model",
        ("predict", "begun", "data"): "The training of `begun` has not ended",
        ("evaluate", "no"): "`no` is no",
        ("evaluate", "begun"): "The training of `begun` has not ended",
        ("calibrate", "no", "--normals", "data"): "`no` is no saved model",
        ("report", "no"): "`no` is no",
        ("report", "begun", "no"): "`no` is no run directory",
        ("bench", "mvtec", "toy", "wary,wray", *data): "Did you mean `wary`?",
        ("bench", "mvtec", "tov", "wary", *data): "No data set has a category `tov`.",
        ("bench", "mvtec,mtdd", "toy", "wary"): "Did you mean `mtd`?",
        ("show", "wray"): "Did you mean `wary`?",
        ("check", "wary", "--set", "gian=1"): "Did you mean `gain`?",
        ("synth", "mvtec", "tov", "--output", "o", *data): "has no category `tov`",
        ("data", "show", "mvtec", "tov", *data): "has no category `tov`",
        ("data", "show", "folder", "no"): "There is no folder `no`.",
        ("data", "verify", "no"): "`no`",
    }  # fmt: skip
    found = refused(tmp_path, *expected)
    for (command, words), (status, said, heavy) in zip(expected.items(), found, strict=True):
        assert (status, heavy) == (1, []), (command, said)
        assert said.startswith("error: "), command
        assert words in said, (command, said)


def test_a_saved_model_is_refused_for_its_pictures_before_torch_loads(
    run_ad, mean_picture, toy_root, tmp_path
):
    data = ("--data-root", toy_root, "--no-report")
    assert run_ad("train", "mvtec", "toy", mean_picture, *data, "--output", tmp_path / "r")[0] == 0
    model = tmp_path / "r/model"
    rewrite_config(model, {**read_config(model), "model": "wary"})
    (tmp_path / "wary.py").write_text(TRAINER)
    missing = tmp_path / "no"
    (tmp_path / "new parts").mkdir()
    (tmp_path / "export").mkdir()
    for name in ("manifest.json", "model.onnx"):
        (tmp_path / "export" / name).touch()
    many = [f"{n}.png" for n in range(30)]
    swapped = {
        ("predict", "new parts", "r", "--no-report"): "ad predict r 'new parts' --no-report",
        ("predict", "--quiet", "./new parts/", "r/model"): "ad predict --quiet r/model "
        "'./new parts/'",
        ("predict", "new parts", "export", "--workers", "2"): "ad predict export 'new parts' "
        "--workers 2",
        ("predict", "new parts", "r", "--output", "r"): "ad predict r 'new parts' ...",
        ("predict", *many, "r"): "ad predict r 0.png ...",
    }
    found = refused(
        tmp_path,
        ("predict", "r", str(missing)),
        ("evaluate", "r", "--data-root", str(missing)),
        ("report", "r", "--data-root", str(missing)),
        ("calibrate", "r", "--normals", str(missing)),
        ("calibrate", "r", "--validation", str(missing)),
        *swapped,
    )
    assert [(status, heavy) for status, _, heavy in found] == [(1, [])] * len(found)
    for (_, said, _), words in zip(
        found,
        (
            f"There is no picture or folder `{missing}`.",
            f"The folder `{missing}` does not exist.",
            f"The folder `{missing}` does not exist.",
            f"There is no folder `{missing}`. Give a folder of good pictures.",
            f"The folder `{missing}` does not exist.",
            *(f"\n\nhint: {command}\n" for command in swapped.values()),
        ),
        strict=True,
    ):
        assert words in said
    assert "are swapped: `r` is a model, and `new parts` is none. The run comes" in found[-5][1]


@pytest.mark.parametrize("terminal", [True, False])
def test_loading_is_said_at_once_on_a_terminal_and_gone_afterwards(monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)

    def fail():
        with console.loading():
            assert capsys.readouterr().err == ("loading ..." if terminal else "")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().err == (f"\r{' ' * 11}\r" if terminal else "")


def test_a_mistyped_name_is_told_with_the_one_beside_it(run_ad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder-parts-padim", "more_good", "export"):
        (tmp_path / name).mkdir()
    for words, said in {
        ("evaluate", "folder-parts-padin"): "`folder-parts-padin` is no run directory: it does not "
        "exist. Did you mean `folder-parts-padim`? Give a run directory",
        ("calibrate", "folder-parts-padin", "--threshold", 1): "is no saved model: it does not "
        "exist. Did you mean `folder-parts-padim`? Give",
        ("predict", "folder-parts-padim", "more_god"): "There is no picture or folder `more_god`. "
        "Did you mean `more_good`?",
        ("watch", "exprot", "more_good"): "it is no exported model. Did you mean `export`?",
        ("evaluate", "nothing/like/it"): "it does not exist. Give a run directory",
    }.items():
        status, _, err = run_ad(*words)
        assert (status, said in err) == (1, True), err
