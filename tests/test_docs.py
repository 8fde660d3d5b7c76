"""Every example in README.md and docs/ runs, offline, in a folder laid out as the text says."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tables
import warm
from budgets import budget_of, is_whole
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from typer.main import get_command

from ad.core.cli import app
from ad.core.cli.early import check_model
from ad.core.registry import TASKS
from ad.core.testing import make_picture, write_mvtec_tree

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?```(python|console|toml|csv)\n(.*?)```", re.DOTALL)
_HERE = "import sys; sys.path.insert(0, '')\n"
_AD = "from ad.core.cli import main; main()"
_SCRIPT = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"


def write_pictures(folder, indices, *, defect=False):
    folder.mkdir(parents=True)
    for index in indices:
        picture, _ = make_picture(index, defect=defect)
        Image.fromarray(picture).save(folder / f"{index:03d}.png")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random numbers in files of the names that pretrained weights have."""
    import timm
    import torch

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    for name in ("wide_resnet50_2.tv_in1k", "resnet18.tv_in1k"):
        net = timm.create_model(name, features_only=True, out_indices=(1, 2, 3))
        save_file(net.state_dict(), folder / f"{name}.safetensors")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, weights):
    """A user's folder with their pictures in it."""
    write_pictures(tmp_path / "parts/good", range(12))
    write_pictures(tmp_path / "parts/dent", range(100, 103), defect=True)
    write_pictures(tmp_path / "new_parts", range(200, 203), defect=True)
    write_pictures(tmp_path / "more_good", range(300, 320))
    write_pictures(tmp_path / "checked/good", range(400, 405))
    write_pictures(tmp_path / "checked/dent", range(500, 503), defect=True)
    write_mvtec_tree(tmp_path / "mvtec", "toy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AD_WEIGHTS", str(weights))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path


def run(program, *arguments):
    assert warm.run(program, *arguments, said="said") == 0, Path("said").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_examples_of_a_page_run(page, home):
    written = page.read_text()
    blocks = _BLOCK.findall(written)
    assert blocks or "```" not in written
    for file, language, text in blocks:
        if file:
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            (home / file).write_text(text)
        if language == "csv":
            continue
        if language == "python" and "def test_" not in text:  # those need the package installed
            # As a file, so that what it defines can be found where it is registered by path.
            script = home / "example.py"
            script.write_text(_HERE + text)
            run(_SCRIPT, script)
        for line in text.splitlines() if language == "console" else ():
            if line.startswith("$ ad "):
                run(_AD, *shlex.split(line.removeprefix("$ ad ")))


def test_the_cells_of_the_notebook_run_in_their_order(tmp_path, monkeypatch):
    notebook = json.loads((ROOT / "docs/first-hour.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "cells.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells))
    run(_SCRIPT, script)
    said = Path("said").read_text()
    assert said.count(" defective\n") == 3
    assert (tmp_path / "first_run/report.html").is_file()
    texts = ["".join(cell["source"]) for cell in notebook["cells"]]
    links = [link for text in texts for link in re.findall(r"\]\((\S+?)\)", text)]
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
    assert "docs/first-hour.ipynb" in (ROOT / "README.md").read_text()


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert all(f"docs/{page.name}" in readme for page in PAGES[1:])


def test_the_rates_that_draws_of_held_out_pictures_give_are_those_of_the_beta_distribution():
    text = (ROOT / "docs/thresholds.md").read_text()
    row = re.compile(
        r"^\| (\d+) \| 1 in (\d+), (\S+) % \| (\S+) % to (\S+) % \| (\S+) % \|$", re.MULTILINE
    )
    rows = [[*map(float, cells)] for cells in row.findall(text)]
    assert len(rows) == 5
    for held_out, one_in, percent, *found in rows:
        above = round((held_out + 1) / one_in)  # scores of the held-out and the new, above the rank
        rates = 100 * stats.beta(above, held_out + 1 - above).ppf([0.25, 0.75, 0.95])
        assert percent == 100 / one_in
        assert found == [round(rate, 1) for rate in rates]


def test_the_tables_of_figures_and_defaults_are_those_of_records_and_catalogues():
    """`python benchmarks/tables.py` fills them."""
    assert [page.name for page in tables.stale()] == []


_INDENTED = re.compile(r"^    ad (.*)$", re.MULTILINE)


@pytest.mark.parametrize("words", _INDENTED.findall((ROOT / "docs/choosing.md").read_text()))
def test_the_commands_of_the_guide_to_choose_by_are_taken(words):
    """They are not run, which would take hours: models, options and settings are looked up."""
    name, *rest = words.split()
    with get_command(app).commands[name].make_context(name, rest) as context:
        given = context.params
    for model in filter(None, (given.get("model"), *(given.get("models") or "").split(","))):
        check_model(model, given.get("set_") or [])
    assert name != "models" or not given["task"] or set(given["task"]) <= set(TASKS)


def test_a_budget_is_counted_in_steps_and_in_pictures():
    def told(model, words, data="mtd"):
        row = {"dataset": data, "model": model, "command": f"ad train x y {model} {words} --end"}
        return str(budget_of(row)), is_whole(row)

    # 50 epochs of 761 pictures, 16 at once: 50 * 48; of 28 pictures 50 * 2.
    assert told("stfpm", "--steps 300") == ("300 of 2,400: 12 %", False)
    assert told("stfpm", "") == ("2,400 of 2,400", True)
    assert told("stfpm", "--steps 24") == ("24 of 2,400: 1 %", False)
    assert told("stfpm", "--steps 12") == ("12 of 2,400: 0.5 %", False)
    assert told("stfpm", "--steps 1000", "hazelnut_toy") == ("1,000 of 100: 10 x", True)
    assert told("stfpm", "--epochs 25") == ("1,200 of 2,400: 50 %", False)
    # 381 steps of 2 see the pictures once, as 48 steps of 16 do.
    assert told("stfpm", "--batch-size 2 --steps 381") == ("381 of 2,400: 2 %", False)
    assert told("stfpm", "--img-size 128") == ("2,400 of 2,400", False)
    assert told("stfpm", "--set lr=0.1") == ("2,400 of 2,400", False)
    # What learns without gradients is another model, not one that has learnt less.
    assert told("patchcore", "--set coreset_ratio=0.01") == ("None", True)
    assert told("patchcore", "--img-size 128") == ("None", False)
    # Of 78 labelled defects an epoch has 624 pictures: 39 of 16.
    apart = "mtd, a fifth of its defects apart"
    assert told("supersimplenet-supervised", "--steps 195", apart) == ("195 of 1,950: 10 %", False)
    assert told("supersimplenet", "--steps 240", apart) == ("240 of 2,400: 10 %", False)
