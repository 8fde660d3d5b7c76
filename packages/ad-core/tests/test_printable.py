"""What comes from anybody's files reaches the terminal as text that it shows and does not obey."""

import json
import re
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from PIL import Image
from rich.table import Table

from ad.core import train
from ad.core.cli import console
from ad.core.errors import OutputError
from ad.core.saved.files import read_config, rewrite_config
from ad.runtime.files import to_json
from ad.runtime.printable import in_one_line, printable

HOSTILE = "a\x1b]0;x\x07\x1b[2Jb\r\x9b31m\u202egood\u2066\x7f"
SHOWN = r"a\x1b]0;x\x07\x1b[2Jb\r\x9b31m\u202egood\u2066\x7f"


def obeyed(text):
    """Characters of a text that a terminal may obey, by Unicode's own tables."""
    direction = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return {
        c for c in text
        if (unicodedata.category(c) == "Cc" and c not in "\t\n")
        or unicodedata.bidirectional(c) in direction
        or unicodedata.name(c, "").endswith(("-TO-RIGHT MARK", "-TO-LEFT MARK", "LETTER MARK"))
    }  # fmt: skip


def test_all_that_is_obeyed_is_spelt_out_and_nothing_else():
    everything = "".join(map(chr, range(0x110000)))
    hostile = obeyed(everything)
    assert len(hostile) > 65
    assert obeyed(printable(everything)) == set()
    changed = {c for c in everything if printable(c) != c}
    assert changed == hostile | {"\u2028", "\u2029"}
    assert printable(HOSTILE) == SHOWN
    assert printable("one\n\ttwo") == "one\n\ttwo"
    assert in_one_line(Path("one\n\ttwo")) == r"one\n\ttwo"


def test_json_of_ours_says_the_same_and_can_be_printed():
    value = {HOSTILE: [HOSTILE, "\u4e00", "\\u202e", "\udcff"]}
    for content in (to_json(value), to_json({HOSTILE: "\u4e00"})):
        assert obeyed(content.decode()) == set()
    assert json.loads(to_json(value)) == value
    assert "\u4e00" in to_json({HOSTILE: "\u4e00"}).decode()


@pytest.mark.parametrize("terminal", [False, True])
def test_tables_messages_and_progress_show_what_a_terminal_would_obey(
    monkeypatch, capsys, terminal
):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.out().print(table)
    console.out().print(HOSTILE)
    console.put(HOSTILE)
    console.print_json({HOSTILE: HOSTILE})
    out, _ = capsys.readouterr()
    assert out.count(SHOWN) == 5
    console.say(HOSTILE)
    console.notes([HOSTILE])
    console.print_error(OutputError(f"{HOSTILE}\nhint: {HOSTILE}"))
    with console.ConsoleProgress().step(HOSTILE, total=2, unit=HOSTILE) as advance:
        advance(1, HOSTILE)
    _, err = capsys.readouterr()
    styled = re.sub(r"\x1b\[[0-9;?]*[A-Zhlm]", "", err)  # rich's own
    assert obeyed(styled) <= {"\r"}
    assert err.count(SHOWN) >= 6
    assert "hint: a" in err
    for sequence in ("\x1b]0;", "\x07", "\x1b[2J", "\x9b", "\u202e"):
        assert sequence not in out + err


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(
    "change",
    [
        {"model": HOSTILE},
        {"options": {HOSTILE: 1}},
        {"options": {"gain": HOSTILE}},
        {"precision": HOSTILE},
        {HOSTILE: 1},
        {"calibrated_on": {"device": HOSTILE, "threads": 1}},
    ],
)
def test_a_hostile_model_is_told_of_in_plain_text(trained, toy_root, tmp_path, run_ad, change):
    config = read_config(trained / "model")
    rewrite_config(trained / "model", {**config, **change})
    good = toy_root / "toy/test/good"
    said = ""
    for words in (
        ["predict", trained, good, "--output", tmp_path / "out"],
        ["evaluate", trained],
        ["calibrate", trained, "--normals", good],
        ["report", trained],
    ):
        _, out, err = run_ad(*words)
        assert obeyed(out + err) == set()
        said += err
    assert said


def test_names_of_pictures_are_shown_in_one_line(trained, tmp_path, run_ad, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    (tmp_path / "new").mkdir()
    name = f"{HOSTILE}\ngood 0.1.png"
    Image.new("RGB", (8, 8)).save(tmp_path / "new" / name, "PNG")
    (tmp_path / "new/\x1b[8mbroken.png").write_bytes(b"no picture")
    status, out, err = run_ad("predict", trained, tmp_path / "new", "--output", tmp_path / "out")
    assert status == 3
    assert obeyed(out + err) == set()
    assert r"\ngood 0.1.png" in out
    assert r"\x1b[8mbroken.png" in err
    assert run_ad("data", "verify", tmp_path / "new", "--write")[0] == 0
    (tmp_path / "new" / name).unlink()
    status, out, err = run_ad("data", "verify", tmp_path / "new")
    assert (status, out) == (1, f"missing {SHOWN}\\ngood 0.1.png\n")
    record = json.loads((tmp_path / "new/ad-manifest.json").read_text())
    assert name in record["files"]


@pytest.mark.filterwarnings("always")
def test_a_warning_is_plain_text(capsys, monkeypatch, run_ad):
    def warn(*arguments, **settings):
        warnings.warn(HOSTILE, stacklevel=1)

    monkeypatch.setattr("ad.core.registry.ModelRegistry.names", lambda: warn() or [])
    _, _, err = run_ad("models")
    assert f"warning: {SHOWN}\n" in err
