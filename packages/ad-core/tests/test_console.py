"""The line that shows how far work is."""

import io
import re
import sys

import pytest

from ad.core.cli import console
from ad.core.cli.console import ConsoleProgress
from ad.runtime.console import Pace


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A time that passes when it is told to."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def work(clock, *, seconds, done=0):
    """Five steps of a hundred."""
    with ConsoleProgress().step("learning", total=100, unit="steps", done=done) as advance:
        for number in range(5):
            clock[0] += seconds
            advance(1, f"epoch {number}")


def test_lines_tell_how_far_how_fast_and_how_long(clock, capsys):
    work(clock, seconds=4)
    assert capsys.readouterr().err.splitlines() == [
        "learning: 3 of 100 steps, 0.25 steps/s, 6 min 28 s left  epoch 2",
        "learning: 5 steps in 20.0 s",
    ]


def test_work_that_is_gone_on_with_is_as_fast_as_what_is_done_now(clock, capsys):
    work(clock, seconds=4, done=90)
    assert capsys.readouterr().err.splitlines() == [
        "learning: 93 of 100 steps, 0.25 steps/s, 28.0 s left  epoch 2",
        "learning: 5 steps after 90 in 20.0 s",
    ]


def test_one_unit_is_told_in_the_singular():
    told = []
    for done in (0, 1, 2):
        pace = Pace("checking", 2, "pictures", 0)
        pace.advance(done, "")
        told.append(pace.ended.partition(" in ")[0])
    assert told == ["checking: 0 pictures", "checking: 1 picture", "checking: 2 pictures"]


@pytest.mark.parametrize(
    ("unit", "one"),
    [
        ("patches", "patch"),
        ("pairs of model and category", "pair of model and category"),
        ("measurement", "measurement"),
        ("MiB", "MiB"),
    ],
)
def test_one_of_any_unit_is_in_the_singular(unit, one):
    pace = Pace("working", 9, unit, 0)
    pace.advance(1, "")
    assert pace.ended.startswith(f"working: 1 {one} in ")


def test_the_first_units_say_nothing_of_the_time_left(clock, capsys):
    work(clock, seconds=12)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "learning: 1 of 100 steps, 0.0833 steps/s  epoch 0"


def test_a_terminal_gets_one_line_with_the_same(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    work(clock, seconds=4, done=90)
    shown = terminal.getvalue()
    assert "95/100 steps 0.25 steps/s" in re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "epoch 4" in shown
    assert shown.endswith("learning: 5 steps after 90 in 20.0 s\n")


def test_notes_fit_a_terminal_without_a_broken_word_and_are_lines_elsewhere(monkeypatch, capsys):
    text = "Set it on good pictures as they are now, ad calibrate RUN --normals DIR, or train again"
    console.notes([text])
    assert capsys.readouterr().err == f"note: {text}\n"
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    console.notes([text])
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 24
    assert " ".join(line.strip() for line in lines) == f"note: {text}"
    assert any("--normals" in line for line in lines)


def figures_of(**given):
    return {key: given.get(key) for key in console.TITLES}


def test_no_figure_is_cut_at_80_columns_whatever_a_category_is_called(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    figures = {key: 0.111 * number for number, key in enumerate(console.TITLES, start=1)}
    console.metrics_table(figures, {"Türblatt Größe M, Linie 3": figures})
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    assert re.findall(r"\d\.\d{3}", table) == [f"{value:.3f}" for value in figures.values()]
    assert re.findall(r"image|pixel|AUPRO", table) == ["image"] * 3 + ["pixel"] * 3 + ["AUPRO"] * 2
    kind = {"image_auroc": 0.25, "au_spro": 0.5, "au_spro_05": 0.125}
    names = {"a-category-of-a-long-name": {"missing-or-squashed-and-much-longer-than-a-line": kind}}
    console.kinds_table(names)
    assert {"0.250", "0.500", "0.125"} == set(re.findall(r"\d\.\d+", capsys.readouterr().out)) - {
        "0.3",
        "0.05",
    }


def test_figures_of_pixels_are_not_drawn_where_there_are_none(capsys):
    console.metrics_table(figures_of(), {"a": figures_of(image_auroc=0.5), "b": figures_of()})
    table = capsys.readouterr().out
    assert "image" in table
    assert "pixel" not in table
    assert "AUPRO" not in table
    console.metrics_table(figures_of(), {"a": figures_of(), "b": figures_of(aupro=0.5)})
    table = capsys.readouterr().out
    assert "AUPRO" in table
    assert "pixel" not in table
