"""Grey pictures, and what a file of results must say of them."""

import json
from pathlib import Path

import pytest
from PIL import Image


def write_pictures(folder, names):
    """Grey pictures ``NAME.png``, each lighter than the one before; the levels by their paths."""
    folder.mkdir(exist_ok=True)
    levels = {}
    for number, name in enumerate(names):
        level = 20 + 200 * number // max(1, len(names) - 1)
        Image.new("L", (8, 8), level).save(folder / f"{name}.png")
        levels[str(folder / f"{name}.png")] = level / 255
    return levels


def read(file):
    head, *lines = [json.loads(line) for line in file.read_text().splitlines()]
    return head, lines


def check(file, levels, errors=()):
    """Each picture has one line, with its brightness or, if its name is among them, an error."""
    _, lines = read(file)
    assert sorted(line["path"] for line in lines) == sorted(levels)
    for line in lines:
        if Path(line["path"]).stem in errors:
            assert (line["verdict"], line["score"]) == ("error", None)
            continue
        assert line["error"] is None, line
        assert line["score"] == pytest.approx(levels[line["path"]], abs=1e-6)
        assert line["verdict"] == ("defective" if levels[line["path"]] > 0.5 else "good")
    return lines


def write_totals(folder, totals):
    """Pictures of one colour each, whose red, green and blue add up to so much of 765."""
    folder.mkdir(exist_ok=True)
    for number, total in enumerate(totals):
        colour = tuple((total + channel) // 3 for channel in range(3))
        Image.new("RGB", (8, 8), colour).save(folder / f"{number:03}.png")
