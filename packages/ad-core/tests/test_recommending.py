"""Which model to take, from figures made up so that the answer is plain."""

import pytest

from ad.core.report.recommending import Candidate, Limits, recommend


def one(label, auroc, ms=None, gb=None, fit=None):
    seconds, memory = ms and ms / 1000, gb and gb * 1e9
    return Candidate(label=label, auroc=auroc, seconds=seconds, memory=memory, fit=fit)


def take(*candidates, ms=None, gb=None, tie=0.0):
    """Figures that differ by less than `tie` may be equal."""
    limits = Limits(seconds=ms and ms / 1000, memory=gb and gb * 1e9)

    def may_be_equal(first, second):
        assert first.auroc >= second.auroc
        return first.auroc - second.auroc < tie

    return recommend(candidates, limits, may_be_equal=may_be_equal)


EXACT = one("exact", 0.97, 463, 1.8, 413)
GOOD = one("good", 0.966, 64, 1.5, 48)
QUICK = one("quick", 0.926, 23, 1.6, 18)
POOR = one("poor", 0.88, 30, 0.9, 13)


def test_without_limits_and_ties_it_is_the_best():
    found = take(POOR, QUICK, EXACT, GOOD)
    assert found.label == "exact"
    assert found.tied == ("exact",)
    assert found.front == ("quick", "good", "exact")
    assert found.lines == (
        "Take exact: its image AUROC, 0.970, is the highest.",
        "It costs 463 ms a picture, 1.8 GB of memory, 413 s to learn.",
        "Nor is any both faster and better than quick (0.926, 23 ms, 1.6 GB), "
        "good (0.966, 64 ms, 1.5 GB).",
    )


def test_of_those_that_may_be_as_good_it_is_the_fastest():
    found = take(POOR, QUICK, EXACT, GOOD, tie=0.005)
    assert found.label == "good"
    assert found.tied == ("exact", "good")
    assert found.lines[0] == (
        "Take good: its image AUROC, 0.966, is within chance of the highest, 0.970 of exact, and "
        "it is the fastest that may be as good (exact 0.970)."
    )


def test_of_those_as_fast_it_is_the_leanest():
    """22 ms is not known to be more than 21 or 20; 23 is."""
    some = [
        one("a", 0.9, 20, 3),
        one("b", 0.9, 21, 2),
        one("c", 0.9, 22, 2.5),
        one("d", 0.9, 23, 1),
    ]
    found = take(*some, tie=0.1)
    assert found.label == "b"
    assert "of the fastest that may be as good it takes the least memory (a 0.9" in found.lines[0]
    assert found.lines[0].endswith(
        " Between these 4 no difference is more than chance: more test pictures, or harder ones, "
        "would tell them apart."
    )
    unknown = take(one("a", 0.9, 20), one("b", 0.9, 21), tie=0.1)
    assert unknown.label == "a"
    assert unknown.lines[0].startswith(
        "Take a: its image AUROC, 0.900, is the highest, and none that may be as good is faster "
        "(b 0.900). Between"
    )


def test_ties_are_with_the_best_that_meets_the_limits():
    """`poor` may be as good as `quick`, which may be as good as `good`, which is too slow."""
    found = take(EXACT, GOOD, QUICK, POOR, ms=50, tie=0.047)
    assert found.tied == ("quick", "poor")
    assert found.label == "quick"
    assert found.lines[0].startswith(
        "Take quick: its image AUROC, 0.926, is the highest within 50 ms a picture, and it is the "
        "fastest that may be as good (poor 0.880)."
    )
    assert found.lines[2] == (
        "Higher, but beyond 50 ms a picture: exact (0.970, 463 ms, 1.8 GB), good (0.966, 64 ms, "
        "1.5 GB)."
    )


def test_others_that_are_best_for_their_speed_are_named_within_the_limits():
    found = take(EXACT, GOOD, QUICK, ms=100)
    assert found.front == ("quick", "good", "exact")
    assert found.lines[-1] == "Nor is any both faster and better than quick (0.926, 23 ms, 1.6 GB)."


def test_a_limit_is_met_by_what_takes_just_as_much():
    assert take(GOOD, QUICK, ms=64).label == "good"
    assert take(GOOD, QUICK, ms=63.9).label == "quick"
    assert take(GOOD, QUICK, gb=1.5).label == "good"
    assert take(QUICK, POOR, ms=50, gb=1.5).lines[0] == (
        "Take poor: image AUROC 0.880; no other was compared within 50 ms a picture and 1.5 GB."
    )


def test_where_none_meets_the_limits_the_nearest_is_told_and_what_would_have_to_give():
    found = take(EXACT, GOOD, QUICK, ms=15.5, gb=1)
    assert (found.label, found.nearest, found.tied) == (None, "quick", ())
    assert found.lines == (
        "No model meets 15.5 ms a picture and 1 GB.",
        "quick comes nearest: image AUROC 0.926, 23 ms a picture, 1.6 GB of memory, 18 s to learn.",
        "What would have to give: `--latency 23` and `--memory 1.6`; or the work: smaller pictures "
        "(`--img-size`), a smaller backbone, smaller batches (`--batch-size`), an exported model "
        "in another engine (`ad export`, `ad benchmark`).",
    )
    assert "`--latency 470`;" in take(EXACT, ms=450).lines[2]
    assert "`--memory 1.8`;" in take(EXACT, ms=500, gb=1).lines[2]


@pytest.mark.parametrize("ms", [0.0123, 9.96, 23.0, 64.000001, 463, 1001])
def test_the_limit_that_is_advised_is_met(ms):
    words = take(one("a", 0.9, ms), ms=0.001).lines[2]
    advised = float(words.split("--latency ")[1].split("`")[0])
    assert take(one("a", 0.9, ms), ms=advised).label == "a"
    assert advised <= 1.1 * ms + 1e-9


SHAKY = one("shaky", 0.808, 28.6, 0.686)


def test_a_lead_that_only_other_seeds_may_turn_is_not_called_chance_of_the_pictures():
    best = one("best", 0.922, 41.4)
    found = recommend([best, SHAKY], Limits(), may_be_equal=lambda *_: "seeds")
    assert found.lines[0] == (
        "Take shaky: its image AUROC, 0.808, is below the highest, 0.922 of best, by more than "
        "chance of the pictures, but other seeds may turn that round, and it is the fastest that "
        "may be as good (best 0.922). Between these 2 no difference is more than chance: more "
        "seeds would tell them apart."
    )


def test_what_a_worse_model_beats_in_time_and_figure_is_not_taken():
    """`shaky` may be as good as `best` by its spread alone; `worse`, known to be so, beats it."""
    best, worse = one("best", 0.922, 41.4, 0.679), one("worse", 0.811, 14, 0.815)

    def may_be_equal(_, other):
        return "seeds" if other is SHAKY else False

    found = recommend([worse, SHAKY, best], Limits(), may_be_equal=may_be_equal)
    assert (found.label, found.tied) == ("best", ("best", "shaky"))
    assert found.lines[:2] == (
        "Take best: its image AUROC, 0.922, is the highest.",
        "shaky (0.808, 28.6 ms, 0.686 GB) may be as good, too, but worse (0.811, 14 ms, 0.815 GB) "
        "is both faster and better than that.",
    )
    as_fast = one("worse", 0.811, 27)  # 28.6 ms is not known to be more
    assert recommend([as_fast, SHAKY, best], Limits(), may_be_equal=may_be_equal).label == "shaky"
    lower = one("worse", 0.8, 14)
    assert recommend([lower, SHAKY, best], Limits(), may_be_equal=may_be_equal).label == "shaky"


def test_where_chance_is_not_known_that_is_said():
    found = recommend([GOOD, QUICK, POOR], Limits(), may_be_equal=lambda *_: None)
    assert (found.label, found.tied) == ("good", ("good",))
    assert found.lines[1] == (
        "Whether good is ahead of quick, poor by chance is not known: no test on the same pictures "
        "with the same seed."
    )


def test_what_was_not_measured_is_said():
    found = take(one("blind", 0.99), one("half", 0.98, 10), QUICK, one("lost", None, 1, 1), gb=2)
    assert found.label == "quick"
    assert found.lines[-3:] == (
        "blind was not compared: its memory is not known.",
        "half was not compared: its memory is not known.",
        "lost was not compared: it has no image AUROC on all categories.",
    )
    both = take(one("blind", 0.99), one("half", 0.98, 100), QUICK, ms=50, gb=2)
    assert "blind was not compared: its time a picture and memory is not known." in both.lines
    assert "Higher, but beyond 50 ms a picture and 2 GB: half (0.980, 100 ms)." in both.lines
    assert not any(words.startswith("half") for words in both.lines)
    free = take(one("blind", 0.99), QUICK)
    assert free.label == "blind"
    assert free.lines[1] == (
        "It costs a time a picture that is not known, memory that is not known, a time to learn "
        "that is not known."
    )
    assert free.front == ("quick",)
    tied = take(one("blind", 0.99), one("deaf", 0.98), tie=1)
    assert "the highest, and what any of them costs is not known (deaf 0.980)." in tied.lines[0]


def test_where_nothing_can_be_said_that_is_said():
    assert take(one("a", None), gb=1).lines[0] == (
        "No model has an image AUROC on all categories: nothing can be recommended."
    )
    found = take(one("a", 0.9), ms=5)
    assert (found.label, found.nearest) == (None, None)
    assert found.lines == (
        "Of no model is it known whether it meets 5 ms a picture.",
        "a was not compared: its time a picture is not known.",
    )
    assert take(GOOD).lines[0] == "Take good: image AUROC 0.966; no other was compared."


def test_on_the_front_is_what_none_beats_in_both():
    some = [one("a", 0.9, 10), one("b", 0.9, 20), one("c", 0.8, 10), one("d", 0.95, 20)]
    assert take(*some).front == ("a", "d")
    assert take(*reversed(some)).front == ("a", "d")


def test_the_order_in_which_models_are_given_changes_nothing():
    some = [EXACT, GOOD, QUICK, POOR]
    assert take(*some, tie=0.05).lines == take(*reversed(some), tie=0.05).lines


def test_it_is_told_to_programs():
    assert take(GOOD, ms=1).to_json() == {
        "model": None,
        "nearest": "good",
        "tied": [],
        "front": ["good"],
        "words": list(take(GOOD, ms=1).lines),
    }
