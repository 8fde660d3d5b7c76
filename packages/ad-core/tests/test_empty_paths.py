"""A path that is empty is no path: `Path("")` would be the current folder."""

import os
from typing import get_type_hints

import pytest

from ad.core import evaluate, load, train
from ad.core.cli import add_plugged_in, app
from ad.core.errors import PathError
from ad.core.jobs.inspect import inspect
from ad.core.jobs.recalibrate import recalibrate
from ad.core.jobs.report import write_report
from ad.core.synth.preview import preview

WORDS = r"An empty path was given for {}: is a variable not set\? .*current folder is `\.`"


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path, monkeypatch):
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run
    monkeypatch.chdir(toy_root / "toy/test/good")  # where pictures are that nobody named
    return run


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["predict", "RUN", ""], "a picture or folder"),
        (["predict", "", "."], "the run"),
        (["predict", "RUN", ".", "--output", ""], "`--output`"),
        (["evaluate", ""], "the run"),
        (["evaluate", "RUN", "--data-root="], "the data root"),
        (["calibrate", "RUN", "--normals", ""], "`--normals`"),
        (["calibrate", "RUN", "--validation", ""], "`--validation`"),
        (["calibrate", "", "--normals", "."], "the run"),
        (["report", ""], "a run"),
        (["report", "RUN", "--output", ""], "`--output`"),
        (["train", "folder", "", "mean-picture"], "the folder of pictures"),
        (["train", "folder", "all", "mean-picture", "--data-root", ""], "the data root"),
        (["train", "folder", "all", "mean-picture", "--data-root", "normal=,abnormal=."],
         "`normal=`"),
        (["train", "folder", ".", "mean-picture", "--output", ""], "`--output`"),
        (["train", "folder", ".", "mean-picture", "--resume", ""], "`--resume`"),
        (["bench", "mvtec", "toy", "mean-picture", "--output", ""], "`--output`"),
        (["bench", "mvtec", "toy", "mean-picture", "--data-root", ""], "the data root"),
        (["bench", "mvtec", "toy", "mean-picture", "--data-root", "mvtec="], "the data root"),
        (["synth", "folder", ".", "--output", ""], "`--output`"),
        (["synth", "folder", ".", "--output", "x", "--textures", ""], "`--textures`"),
        (["data", "verify", ""], "the folder"),
        (["data", "verify", ".", "--manifest", ""], "`--manifest`"),
        (["data", "download", "visa", "--output", ""], "`--output`"),
    ],
)  # fmt: skip
def test_an_empty_path_on_the_command_line_is_refused(trained, run_ad, words, what):
    before = sorted(trained.rglob("*")), sorted(os.listdir())
    status, out, err = run_ad(*(trained if word == "RUN" else word for word in words))
    assert (status, out) == (1, "")
    assert err == (
        f"error: An empty path was given for {what}: is a variable not set? Give the path; the "
        "current folder is `.`.\n"
    )
    assert (sorted(trained.rglob("*")), sorted(os.listdir())) == before


def test_an_empty_path_in_python_is_refused(trained, mean_picture, tmp_path):
    name = mean_picture
    for job, what in (
        (lambda: load(""), "the run"),
        (lambda: load(trained).predict(""), "a picture"),
        (lambda: load(trained).predict([tmp_path / "data/toy/test", ""]), "a picture"),
        (lambda: inspect(trained, [""]), "a picture"),
        (lambda: inspect(trained, ["."], output=""), "the output"),
        (lambda: evaluate(""), "the run"),
        (lambda: recalibrate("", normals="."), "the run"),
        (lambda: recalibrate(trained, normals=""), "the pictures"),
        (lambda: recalibrate(trained, validation=""), "the pictures"),
        (lambda: write_report(""), "a run"),
        (lambda: write_report(trained, output=""), "the report"),
        (lambda: train("folder", "", name), "the folder of pictures"),
        (lambda: train("folder", "all", name, data_root=""), "the data root"),
        (lambda: train("folder", ".", name, output_dir=""), "the output"),
        (lambda: train("folder", ".", name, resume=""), "the run to resume"),
        (lambda: preview("folder", ".", output=""), "the output"),
    ):
        with pytest.raises(PathError, match=WORDS.format(what)):
            job()


def test_the_current_folder_can_be_named(trained, run_ad):
    status, _, err = run_ad("predict", trained, ".", "--output", "out")
    assert status == 0
    assert "4 pictures" in err
    files = ["heatmaps", "predictions.csv", "regions.csv", "report.html"]
    assert sorted(os.listdir("out")) == files


def test_no_command_takes_a_path_that_it_does_not_check():
    add_plugged_in()
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    parameters = [
        (f"{command.callback.__name__} {name}", hint)
        for group in groups
        for command in group.registered_commands
        for name, hint in get_type_hints(command.callback, include_extras=True).items()
        if "Path" in str(getattr(hint, "__origin__", ""))
    ]
    assert len(parameters) > 15
    assert [name for name, hint in parameters if hint.__metadata__[0].parser is None] == []
