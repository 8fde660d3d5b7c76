import json
import os
import subprocess
import sys

import pytest
import typer
from typer.main import get_command

from ad.core.cli import app, help
from ad.core.cli.help import Command, panel_of
from ad.core.registry import ModelRegistry


def commands(group=None, before=()):
    """All commands that there are, by what is typed."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_the_help_of_a_command_reads_well_at_80_columns(run_ad, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run_ad(*words, "--help")
    assert status == 0
    assert out.lstrip().startswith(f"Usage: ad {' '.join(words)} [OPTIONS]")
    assert "Example: ad " in out or words == ("demo",)
    assert max(map(len, out.splitlines())) <= 80
    assert not [kind for kind in ("<bool>", "<str>", "<int>", "Path", "list[") if kind in out]
    assert "-h, --help" in out


def test_every_option_of_a_long_help_has_a_panel():
    """Or it would be found below `Other`, with `--help`."""
    missing = [
        (words, one.name)
        for words, command in commands()
        if len(options := [one for one in command.params if one.param_type_name == "option"])
        >= help._FEW
        for one in options
        if panel_of(one.name) == "Other" and not help._own_panel(one)
    ]
    assert missing == []


def test_options_stand_in_the_panels_of_their_matter(run_ad, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = run_ad("train", "--help")[1]
    places = [out.index(words) for words in (
        "─ Arguments ─", "│ DATASET ", "─ Data ─", "--img-size N|HxW", "─ Learning ─",
        "--budget default|paper", "─ Threshold ─", "--holdout F", "─ Machine ─",
        "--device auto|cpu|cuda[:N]", "─ Output ─", "--report/--no-report", "─ Other ─",
    )]  # fmt: skip
    assert places == sorted(places)
    assert "(default: 0.1)" in out
    assert "(default: 0)" in out  # of the seed: it is a number, not nothing
    assert "(required)" in run_ad("synth", "--help")[1]


def test_a_command_of_a_plug_in_may_name_its_panel(capsys):
    one = typer.Typer(add_completion=False)

    @one.command(cls=Command)
    def grow(
        size: int = typer.Option(3, rich_help_panel="Plants", help="How far."),
        where: str = typer.Argument("here"),
    ):
        """Grow. Some more."""

    with pytest.raises(SystemExit) as ended:
        one(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "[OPTIONS] [WHERE]" in out
    assert "─ Plants ─" in out
    assert "--size VALUE" in out
    assert "How far. (default: 3)" in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [("ad show ", "models"), ("ad train folder ./parts ", "models"), ("ad bench mv", "mvtec-ad2")],
)
def test_names_are_completed_without_torch(words, expected):
    probe = (
        "import sys, contextlib\n"
        "sys.argv = ['ad']\n"
        "from ad.core.cli import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "sys.exit('torch' in sys.modules)"
    )
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", probe], stdout=subprocess.PIPE, text=True, check=False,
        env={**os.environ, **typed, "_AD_COMPLETE": "complete_bash"},
    )  # fmt: skip
    assert done.returncode == 0
    names = done.stdout.split()
    assert names == ModelRegistry.names() if expected == "models" else expected in names


def test_every_command_has_json_but_those_that_are_for_people():
    for words, command in commands():
        assert ("json" in {one.name for one in command.params}) != (words == ("demo",)), words


def test_json_has_the_number_of_its_schema(run_ad):
    for words in (("models",), ("datasets",), ("datasets", "folder")):
        assert json.loads(run_ad(*words, "--json")[1])["schema"] == 1
