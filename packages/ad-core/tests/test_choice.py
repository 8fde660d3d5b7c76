"""From runs to what is recommended: what counts as chance, and whose cost counts."""

from pathlib import Path

import numpy as np
import pytest

from ad.core.report.choice import _by_seed, candidate, choose
from ad.core.report.choice import shown as shown_of
from ad.core.report.finished import Finished, Scored
from ad.core.report.recommending import Limits
from ad.core.report.standings import Row
from ad.core.saved.record import Costs

COUNT = 40
"""Good pictures, and as many defective ones."""


def run(category, wrong=0, seed=0, ms=10.0, gb=1.0, fit=5.0, pictures="p"):
    """A run whose score puts so many defective pictures below all good ones."""
    auroc = 1 - wrong / COUNT
    names = [f"{pictures}{n}" for n in range(2 * COUNT)]
    bad = [n >= COUNT for n in range(2 * COUNT)]
    scores = [n - (3 * COUNT if COUNT <= n < COUNT + wrong else 0) for n in range(2 * COUNT)]
    costs = {
        "fit_seconds": fit,
        "seconds_per_picture": None if ms is None else ms / 1000,
        "peak_memory_bytes": None if gb is None else int(gb * 1e9),
    }
    scored = [
        Scored(path=name, name=name, defective=defective, group="", score=float(score))
        for name, defective, score in zip(names, bad, scores, strict=True)
    ]
    return Finished(
        folder=Path("x"),
        record={"settings": {"dataset": "d", "seed": seed}},
        metrics={"metrics": {}, "categories": {category: {"image_auroc": auroc}}},
        costs=Costs(**{**dict.fromkeys(Costs._fields), **costs}),
        white_level=None,
        calibration=None,
        scored={category: scored},
    )


def test_a_model_costs_what_it_does_where_it_is_slowest():
    row = Row("m", {}, [
        run("a", 4, seed=0, ms=10, gb=1, fit=3), run("a", 8, seed=1, ms=30, gb=3, fit=5),
        run("b", 0, seed=0, ms=14, gb=2, fit=9), run("b", 0, seed=1, ms=None, gb=None, fit=1),
    ])  # fmt: skip
    one = candidate(row, ["d a", "d b"])
    assert one.auroc == pytest.approx((0.85 + 1) / 2)
    assert one.seconds == pytest.approx(0.020)
    assert one.memory == 3_000_000_000
    assert one.fit == 5
    assert candidate(row, ["d a", "d b", "d c"]).auroc is None


def test_what_drawing_the_pictures_again_may_turn_is_a_tie():
    """Of 40 defective pictures 2 more are missed: chance. 12 more: none."""
    best, near, far = (
        Row(name, {}, [run("a", wrong, ms=ms)])
        for name, wrong, ms in (("best", 1, 30), ("near", 3, 10), ("far", 13, 1))
    )
    found = choose([far, near, best], ["d a"])
    assert found.tied == ("best", "near")
    assert found.label == "near"
    assert found.lines[-1].startswith("One seed: what learning again would change is not known;")
    shown = shown_of([far, near, best], ["d a"], found)["models"]
    assert [one["label"] for one in shown] == ["far", "near", "best"]
    assert [one["chosen"] for one in shown] == [False, True, False]
    assert [one["front"] for one in shown] == [True, True, True]
    assert [one["milliseconds"] for one in shown] == [1, 10, 30]


def test_what_other_seeds_may_turn_is_a_tie():
    """Ahead by 13 and 1 of 40 with two seeds: more than chance of the pictures, not of seeds."""
    rows = [
        Row("best", {}, [run("a", 1, seed=0, ms=30), run("a", 1, seed=1, ms=30)]),
        Row("other", {}, [run("a", 14, seed=0), run("a", 2, seed=1)]),
    ]
    found = choose(rows, ["d a"])
    assert found.tied == ("best", "other")
    assert not found.lines[-1].startswith("One seed")
    assert "more seeds would tell them apart" in found.lines[0]
    rows[1] = Row("other", {}, [run("a", 14, seed=0), run("a", 14, seed=1)])
    assert choose(rows, ["d a"]).tied == ("best",)


def test_models_on_other_pictures_are_told_apart_by_their_figures_and_it_says_so():
    rows = [Row("best", {}, [run("a", 1)]), Row("other", {}, [run("a", 2, pictures="q")])]
    found = choose(rows, ["d a"])
    assert found.label == "best"
    assert found.lines[1].startswith("Whether best is ahead of other by chance is not known")


def test_a_model_of_which_no_run_is_finished_is_told():
    found = choose([Row("m", {}, [run("a")])], ["d a"], Limits(seconds=1), failed=["gone"])
    assert found.label == "m"
    assert found.lines[-1].startswith("gone was not compared: it has no image AUROC")


@pytest.mark.parametrize(
    ("gaps", "turns"),
    [
        ((0.01,), False),  # of one seed nothing is known
        ((0.01, 0.01, 0.01), False),
        ((0.0, 0.0), True),
        # Student's t has 97.5 % below 12.706 with one degree of freedom, 4.303 with two.
        ((1.0, 1.17), False),
        ((1.0, 1.18), True),
        ((1.0, 2.0, 3.0), True),
        ((2.0, 3.0, 4.0), False),
    ],
)
def test_seeds_that_disagree_may_turn_a_difference(gaps, turns):
    assert _by_seed(gaps) is turns
    assert _by_seed(-np.array(gaps)) is turns
