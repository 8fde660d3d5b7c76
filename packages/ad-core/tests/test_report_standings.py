"""Many runs as models and categories: the table, its page, and which differences are real."""

import json
from itertools import product

import numpy as np
import pytest
from made_runs import make_run, scores_of
from report_pages import Page

from ad.core import ModelRegistry, train
from ad.core.report.comparison import read_compared, write_comparison
from ad.core.report.standings import grid, keys_of, written
from ad.core.testing.mean_picture import MeanPictureTrainer
from ad.core.testing.pictures import write_mvtec_tree

LABELS = np.repeat([0, 1], [30, 20])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A run to make others from."""
    home = tmp_path_factory.mktemp("template")
    name = "mean-picture"
    ModelRegistry.register(
        name, f"{MeanPictureTrainer.__module__}:MeanPictureTrainer", {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )  # fmt: skip
    root = write_mvtec_tree(home / "data", size=32)
    run = train("mvtec", "toy", name, data_root=root, output_dir=home / "run").run
    ModelRegistry.unregister(name)
    return run


@pytest.fixture
def made(template, tmp_path):
    """Make a run; models are better the later they come in the alphabet."""

    def make(model="a", category="toy", seed=0, *, shift=None, **given):
        number = sum(1 for one in tmp_path.iterdir() if one.is_dir())
        shift = ord(model[0]) - ord("a") if shift is None else shift
        scores = scores_of(1000 * ord(model[0]) + seed, LABELS, shift=shift)
        given = {"scores": scores, "labels": LABELS, **given}
        folder = tmp_path / f"{number:03}"
        return make_run(folder, template, model=model, category=category, seed=seed, **given)

    return make


def auroc_of(run):
    return json.loads((run / "metrics.json").read_text())["metrics"]["image_auroc"]


def test_rows_are_models_with_settings_and_columns_are_categories(made):
    runs = {key: made(*key) for key in product("ab", ("x", "y"), (0, 1, 2))}
    _, rows, columns, *_ = read_compared(list(runs.values()))
    assert [row.label for row in rows] == ["a", "b"]
    assert columns == ["mvtec x", "mvtec y"]
    found = grid(rows, columns, "image_auroc")
    for row, model in enumerate("ab"):
        values = {c: [auroc_of(runs[model, c, seed]) for seed in range(3)] for c in "xy"}
        for column, category in enumerate("xy"):
            cell = found.cells[row][column]
            own = values[category]
            assert cell[:3] == pytest.approx((np.mean(own), np.std(own, ddof=1), 3))
        over = np.mean(list(values.values()), axis=0)
        assert found.means[row][:3] == pytest.approx((over.mean(), over.std(ddof=1), 3))
    assert found.covered == [2, 2]


def test_the_best_are_those_that_no_other_is_better_than_as_it_is_shown(made):
    runs = [made("a", scores=LABELS * 1.0), made("b", scores=LABELS * 2.0), made("c", shift=0)]
    _, rows, columns, *_ = read_compared(runs)
    found = grid(rows, columns, "image_auroc")
    assert [cells[0].best for cells in found.cells] == [True, True, False]
    assert [cell.best for cell in found.means] == [True, True, False]
    (alone,) = read_compared(runs[:1])[1:2]
    assert not grid(alone, columns, "image_auroc").cells[0][0].best


def test_of_times_and_memory_the_least_is_best(made):
    runs = [made("a", seconds=0.25), made("b", seconds=0.02)]
    _, rows, columns, *_ = read_compared(runs)
    found = grid(rows, columns, "seconds_per_picture")
    assert [cells[0].best for cells in found.cells] == [False, True]
    assert keys_of(read_compared(runs).runs) == [
        "image_auroc", "seconds_per_picture", "fit_seconds", "peak_memory_bytes",
    ]  # fmt: skip
    texts = [written(value, "seconds_per_picture") for value in (0.25, 0.02, 0.00123, None)]
    assert texts == ["250", "20.0", "1.23", "–"]
    assert written(3 * 2**29, "peak_memory_bytes") == "1.50"


def test_a_mean_over_fewer_categories_is_never_the_best(made):
    runs = [made("a", "x"), made("a", "y"), made("b", "x")]
    _, rows, columns, *_ = read_compared(runs)
    found = grid(rows, columns, "image_auroc")
    assert found.means[1].mean > found.means[0].mean
    assert [cell.best for cell in found.means] == [False, False]  # the other has nobody to beat
    assert found.covered == [2, 1]


def test_means_over_as_many_but_other_categories_are_not_compared(made):
    """Of two models with a category each, none is the best, however far apart they are."""
    _, rows, columns, *_ = read_compared([made("a", "x"), made("b", "y")])
    found = grid(rows, columns, "image_auroc")
    assert found.covered == [1, 1]
    assert [cell.best for cell in found.means] == [False, False]


def test_models_are_told_apart_by_the_settings_in_which_they_differ(made):
    runs = [made("a", gain=1.0), made("a", gain=2.0), made("a", seed=1, gain=2.0), made("b")]
    labels = [row.label for row in read_compared(runs).rows]
    assert labels == ["a[gain=1.0]", "a[gain=2.0]", "b"]
    given = ["a", "a[g]", "a[g]", "b"]
    assert [row.label for row in read_compared(runs, given).rows] == ["a", "a[g]", "b"]


def test_a_second_run_with_a_seed_is_a_row_of_its_own(made):
    runs = [made("a"), made("a"), made("a", seed=1)]
    rows = read_compared(runs).rows
    assert [(row.label, len(row.runs)) for row in rows] == [("a", 2), ("a (2)", 1)]


def test_a_model_that_is_better_is_said_to_be_and_chance_is_called_chance(made):
    same = made("a", shift=1.0)
    runs = [same, made("c", scores=scores_of(1000 * 97, LABELS, shift=1.02)), made("z", shift=6)]
    contrasts = read_compared(runs).contrasts
    words = {(one.first, one.second): one.words() for one in contrasts.pairs}
    gap = auroc_of(runs[2]) - auroc_of(same)
    assert words["z", "a"].startswith(f"z over a: +{gap:.3f} (95 %: ")
    assert words["z", "a"].endswith(") on these pictures; more than chance of the pictures.")
    assert words["c", "a"].endswith("; may be chance.")
    assert any("One category: " in note for note in contrasts.notes)
    assert any("One seed: " in note for note in contrasts.notes)


def test_categories_are_counted_and_seeds_have_a_range(made):
    categories = "stuvwxyz"
    runs = [made(m, c, s) for m, c, s in product("ad", categories, (0, 1))]
    (pair,) = read_compared(runs).contrasts.pairs
    assert (pair.first, pair.signs.ahead, pair.signs.p) == ("d", 8, 2 / 2**8)
    assert "; better in 8 of 8 categories, p = 0.0078; +" in pair.words()
    assert " by seed; more than chance" in pair.words()
    assert list(pair.categories) == [f"mvtec {c}" for c in categories]
    per_seed = [np.mean([auroc_of(r) for r in runs if
                         json.loads((r / "run.json").read_text())["settings"]["seed"] == s
                         and json.loads((r / "run.json").read_text())["settings"]["model"] == m])
                for m, s in product("da", (0, 1))]  # fmt: skip
    assert pair.seeds == pytest.approx((per_seed[0] - per_seed[2], per_seed[1] - per_seed[3]))
    assert pair.overall.difference == pytest.approx(np.mean(pair.seeds))


def test_models_that_saw_other_pictures_are_not_compared(made):
    fewer = made("b", scores=[0.0, 1.0], labels=[0, 1])
    contrasts = read_compared([made("a"), fewer]).contrasts
    assert contrasts.pairs == []
    assert contrasts.notes[0].startswith("1 of 1 pairs were never tested on the same pictures")
    runs = [made("a", "x"), made("b", "x"), made("a", "y"), made("b", "y", seed=1)]
    (pair,) = read_compared(runs).contrasts.pairs
    assert pair.left_out == 1
    assert "; 1 category left out; " in pair.words()
    assert pair.signs is None


def test_of_many_models_the_first_is_compared_with_each_other(made):
    contrasts = read_compared([made(model) for model in "abcdefgh"]).contrasts
    assert len(contrasts.pairs) == 7
    assert len({one.first for one in contrasts.pairs}) == 1
    (only,) = [read_compared([made("a")]).contrasts]
    assert only.pairs == []
    assert "nothing to compare" in only.notes[0]


@pytest.fixture(scope="module")
def large(template, tmp_path_factory):
    """The page of 15 categories, 5 models and 3 seeds."""
    home = tmp_path_factory.mktemp("large")
    runs = []
    for number, (category, model, seed) in enumerate(
        product([f"category-{n:02}" for n in range(15)], "abcde", range(3))
    ):
        scores = scores_of(number, LABELS, shift=ord(model) - ord("a"))
        runs.append(make_run(home / f"runs/{number:03}", template, model=model, category=category,
                             seed=seed, scores=scores, labels=LABELS))  # fmt: skip
    page = home / "page.html"
    write_comparison(page, read_compared(runs))
    return page


def test_225_runs_are_a_page_of_5_rows(large):
    data = Page(large).data
    assert len(data["rows"]) == 5
    assert len(data["columns"]) == 15
    assert len(data["runs"]) == data["numRuns"] == 225
    assert all(len(figure["rows"]) == 5 for figure in data["figures"])
    assert {len(cell["runs"]) for row in data["figures"][0]["rows"] for cell in row[:15]} == {3}
    assert len(data["wrong"]) <= 100 < data["numWrong"]
    assert {one["column"] for one in data["wrong"]} == set(data["columns"])
    pictures = [one["picture"] for one in data["wrong"] if one["picture"]]
    assert 0 < len(pictures) <= 60
    assert sum(map(len, pictures)) <= 4 / 3 * 300_000 + 100 * 30
    assert len(data["contrasts"]["pairs"]) == 10
    assert large.stat().st_size < 1_500_000


def test_more_runs_than_can_be_listed_are_counted(made, tmp_path, monkeypatch):
    monkeypatch.setattr("ad.core.report.comparison._LISTED", 1)
    monkeypatch.setattr("ad.core.report.comparison._ALL_DOTS", 10)
    write_comparison(tmp_path / "page.html", read_compared([made("a"), made("b")]), ["a note"])
    data = Page(tmp_path / "page.html").data
    assert (len(data["runs"]), data["numRuns"], len(data["rows"])) == (1, 2, 2)
    assert len(data["runs"][0]["good"]) == 10
    assert data["notes"] == ["a note"]


def test_225_runs_can_be_read_on_a_telephone_and_each_is_found(browser, large):
    browser.open(large, width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    head = browser.run(
        "[...document.querySelectorAll('#figures thead th')].map(c => c.textContent)"
    )
    assert head == ["model", "mean", *(f"category-{n:02}" for n in range(15))]
    first = "document.querySelector('#figures tbody tr')"
    assert browser.run(f"{first}.cells[2].textContent.match(/± 0.\\d+ \\(3\\)/) !== null")
    links = browser.run(f"[...{first}.cells[2].querySelectorAll('a')].map(a => a.href)")
    reports = sorted((large.parent / "runs").glob("*/report.html"))
    assert links == [path.as_uri() for path in reports[:3]]
    browser.run(
        "const f = document.getElementById('figure'); f.value = 'seconds_per_picture';"
        "f.dispatchEvent(new Event('change'))"
    )
    assert browser.run(f"{first}.cells[1].textContent").startswith("10.0 (best) ± 0.00 (3)")
    assert browser.run("document.querySelectorAll('#pairs details').length") == 10
    browser.run("document.querySelector('#runs details').open = true")
    browser.settle()
    assert browser.run("document.querySelectorAll('#runs article').length") == 45
    assert browser.run("document.querySelectorAll('#wrong img').length") > 0
    unnamed = "[...document.querySelectorAll('details')].filter(d => !d.firstChild.textContent)"
    assert browser.run(f"{unnamed}.length") == 0
    assert browser.complaints() == []
    assert browser.requests() == []
