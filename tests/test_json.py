"""What docs/json.md says of `--json` is what is printed."""

import json
import re
import sys
from pathlib import Path

import pytest

from ad.core import ModelRegistry
from ad.core.cli import main
from ad.core.testing import write_mvtec_tree

PAGE = (Path(__file__).parents[1] / "docs/json.md").read_text()
ROWS = dict(re.findall(r"^\| `ad ([a-z -]+)` \| (.+) \|$", PAGE, re.MULTILINE))


def told(command):
    """The names in backticks of a command's row: keys, and those of what is in them."""
    return set(re.findall(r"`(\w+)`", ROWS[command]))


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command prints, in the order in which they can be run."""
    home = tmp_path_factory.mktemp("json")
    write_mvtec_tree(home / "data", "toy", size=32)
    ModelRegistry.register(
        "mean-picture",
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    data = ("mvtec", "toy", "--data-root", "data")
    commands = {
        "models": (),
        "show": ("mean-picture",),
        "datasets": ("folder",),
        "data show": data,
        "data verify": ("data", "--write"),
        "train": (*data[:2], "mean-picture", *data[2:], "--output", "run", "--no-report"),
        "evaluate": ("run", "--no-report"),
        "report": ("run",),
        "predict": ("run", "data/toy/test/square/000.png"),
        "calibrate": ("run", "--normals", "data/toy/test/good"),
        "synth": (*data, "--output", "sheet", "--img-size", "32", "--count", "1"),
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for command, arguments in commands.items():
            patch.setattr(sys, "argv", ["ad", *command.split(), *arguments, "--json"])
            output = (home / "out").open("w+")
            patch.setattr(sys, "stdout", output)
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code, command
            output.seek(0)
            found[command] = json.loads(output.read())
            output.close()
    ModelRegistry.unregister("mean-picture")
    return found


def test_the_page_names_the_keys(printed):
    figures = printed["evaluate"].keys() - {"schema", "run", "seconds"}
    also = {"show": printed["models"]["models"][0].keys(), "train": figures, "evaluate": figures}
    for command, value in printed.items():
        assert value["schema"] == 1
        assert set(value) - {"schema"} - set(also.get(command, ())) <= told(command), command
    assert {"id", "outcome", "seconds", "message"} <= told("check")
    for command, key in (
        ("models", "models"),
        ("datasets", "datasets"),
        ("predict", "predictions"),
    ):
        assert printed[command][key][0].keys() <= told(command), command


def test_the_page_names_every_key_that_the_figures_have(printed):
    below = PAGE.split("<!-- end -->")[1]
    figures = printed["evaluate"].keys() - {"schema", "run", "seconds"}
    assert figures <= set(re.findall(r"`(\w+)`", below))
