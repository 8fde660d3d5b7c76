"""Drift: told once where scores have changed, and hardly ever where they have not."""

import itertools
import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from grey_pictures import write_totals
from serving import Served, runtime_of
from tiny_export import make_export

from ad.runtime import load
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.conformal import promised_rate, rank_of
from ad.runtime.cli import main
from ad.runtime.drift import Stream, compare, stream
from ad.runtime.drift.two_samples import compare_samples
from ad.runtime.errors import ModelFileError, calibrate_command
from ad.runtime.watch.watching import Watched


def calibrated(scores, rate="1/20", **changes):
    """A calibration by these scores, with a threshold a hair above the one that sets it."""
    scores = np.sort(np.float32(scores))
    threshold = float(scores[rank_of(scores.size, Fraction(rate)) - 1]) + 1e-6
    rate = float(Fraction(rate))
    fields = {
        "threshold": threshold, "scale": 1.0, "pixel_threshold": threshold, "pixel_scale": 1.0,
        "rate": rate, "promised_rate": promised_rate(scores.size, rate),
        "num_images": scores.size, "scores": tuple(float(str(score)) for score in scores),
    }  # fmt: skip
    return Calibration(**{**fields, **changes})


def normal(seed, count, mean=0.5, deviation=0.05):
    return np.random.default_rng(seed).normal(mean, deviation, count).astype(np.float32)


@pytest.mark.parametrize(("n", "m"), [(1, 3), (3, 3), (4, 3), (2, 6), (5, 4)])
def test_the_chance_of_a_difference_is_its_share_of_all_orders(n, m):
    distances, signs = [], []
    for places in itertools.combinations(range(n + m), n):
        of_first = np.cumsum(np.isin(range(n + m), places)) / n
        of_second = np.cumsum(~np.isin(range(n + m), places)) / m
        apart = of_first - of_second
        distances.append(np.abs(apart).max())
        signs.append(apart.max() > -apart.min())
    for order, places in enumerate(itertools.combinations(range(n + m), n)):
        others = [place for place in range(n + m) if place not in places]
        found = compare_samples(np.float32(places), np.float32(others))
        assert found.distance == pytest.approx(distances[order])
        at_least = np.mean(np.array(distances) >= distances[order] - 1e-9)
        assert found.chance == pytest.approx(at_least)
        if signs[order]:
            assert found.higher


THEN = normal(0, 199)


@pytest.mark.parametrize("rate", ["1/100", "1/5", "2/5"])
def test_nothing_is_told_of_pictures_like_those_of_calibration(rate):
    one = calibrated(THEN, rate)
    for seed in range(1, 4):
        found = compare(one, normal(seed, 1000))
        assert (found.found, found.lines(), found.why) == (False, (), None)
        assert found.calibrated == rank_of(199, Fraction(rate)) - 1
        assert 0 < found.above / 1000 < 2 * found.promised + 0.02
    by_hand = compare(one.by_hand(0.5), normal(1, 1000))
    assert (by_hand.found, by_hand.promised, by_hand.chance_above) == (False, None, None)
    assert by_hand.calibrated == (THEN <= 0.5).sum()


CAUSE = "either parts are worse, or pictures differ (light, focus, camera)"
MISSED = "pictures differ (light, focus, camera): defects may be missed"


def test_scores_that_rose_or_fell_or_spread_are_told_with_their_figures():
    one = calibrated(THEN, "1/100")
    rose = compare(one, THEN[:150] + np.float32(0.04))
    assert rose.lines() == (
        f"drift: the median score of good pictures rose from {np.median(np.sort(THEN)[:-2]):.4g} "
        f"to {rose.quartiles[1]:.4g}",
        CAUSE,
    )
    assert (rose.other, rose.many, rose.difference.higher) == (True, False, True)
    fell = compare(one, normal(1, 100, 0.46))
    assert fell.lines()[0].endswith(f" to {fell.quartiles[1]:.4g}")
    assert " fell from 0.5021 to 0.46" in fell.lines()[0]
    assert fell.lines()[1] == MISSED
    narrow = compare(one, normal(1, 100, float(rose.quartiles_calibrated[1]), 0.01))
    assert "drift: half of good scores 0." in narrow.lines()[0]
    assert narrow.lines()[0].endswith("at calibration")
    told = json.loads(json.dumps(rose.to_json()))
    assert (told["found"], told["told"], told["why"]) == (True, list(rose.lines()), None)
    assert told["chance"] == rose.difference.chance < 0.001
    for categories in (1, 3):
        for found in (rose, fell, narrow):
            lines = replace(found, categories=categories).lines()
            assert len(lines) == 2
            assert max(map(len, lines)) <= 80
            assert ("one category is more frequent" in lines[1]) == (categories == 3)


def test_cross_fitted_scores_must_be_ten_times_as_rare():
    one = calibrated(THEN[:30])
    chances = []
    for mean in np.linspace(0.5, 0.6, 40):
        new = normal(1, 30, mean)
        held_out, crossed = compare(one, new), compare(replace(one, folds=10), new)
        chances.append(crossed.difference and crossed.difference.chance)
        assert held_out.other == (chances[-1] is not None and chances[-1] < 1e-3)
        assert crossed.other == (chances[-1] is not None and chances[-1] < 1e-4)
    assert any(chance and 1e-4 <= chance < 1e-3 for chance in chances)


def test_defective_pictures_are_no_drift_until_they_are_more_than_half():
    one = calibrated(THEN)
    good, bad = np.sort(normal(1, 100))[:80], np.linspace(1, 2, 81)
    some = compare(one, np.concatenate([good, bad[:75]]))
    assert (some.found, some.above, some.pictures) == (False, 75, 155)
    assert some.chance_above < 1e-6
    most = compare(one, np.concatenate([good, bad]))
    assert most.lines() == (
        "drift: 81 of 161 pictures are above the threshold; 1 in 20 good ones may be",
        CAUSE,
    )
    # Where 1 in 2 is promised by 19 pictures, 14 of 20 are not rare.
    loose = compare(
        calibrated(THEN[:19], "1/2"), np.concatenate([THEN[:19].min() - bad[:6], bad[:14]])
    )
    assert (loose.above, loose.pictures, loose.many) == (14, 20, False)


def test_small_samples_and_old_files_are_not_judged():
    one = calibrated(THEN)
    few = compare(one, normal(1, 19, 2.0))
    assert (few.found, few.lines()) == (None, ())
    assert "0 pictures called good" in few.why
    assert compare(one, normal(1, 20, 2.0)).many
    assert compare(one, normal(1, 20, 0.3)).other
    assert compare(calibrated(THEN[:10]), normal(1, 99, 0.3)).why.startswith("calibration has 9 ")
    told = compare(calibrated(THEN[:10]), normal(1, 99)).lines()
    assert " ".join(told) == (
        "drift in good scores is not watched: calibration has 9 below the threshold, and it takes "
        f"10; `{calibrate_command()}` with more good pictures sets it anew"
    )
    assert max(map(len, told)) <= 80
    assert compare(calibrated(THEN[:10]), normal(1, 19)).lines() == ()
    assert compare(calibrated(THEN[:11]), normal(1, 99)).lines() == ()
    assert compare(calibrated(THEN[:10]), normal(1, 20, 20)).lines()[0].startswith("drift: 20 of ")
    assert compare(calibrated(THEN[:11]), normal(1, 99, 0.3)).other
    assert compare(None, normal(1, 99)).why.startswith("there is no threshold")
    assert compare(one, []).found is None
    old = replace(one, scores=None)
    told = compare(old, normal(1, 20, 2.0))
    assert told.found is None
    assert told.lines()[1] == f"`{calibrate_command()}` sets it anew"
    assert max(map(len, told.lines())) <= 80
    assert compare(old, normal(1, 19)).lines() == ()


def test_a_picture_that_comes_again_counts_once():
    one = calibrated(THEN)
    some = normal(1, 12, 0.58)
    assert compare(one, np.repeat(some, 100)).pictures == 12
    test_picture = np.full(500, some[0])
    assert not compare(one, np.concatenate([normal(2, 500), test_picture])).found
    # Not so where calibration has such scores, too: these are its own pictures, or steps.
    assert compare(one, [*THEN, *THEN]).pictures == 2 * 199
    assert not compare(one, [*THEN, *THEN]).found
    steps = np.random.default_rng(0).poisson(20, (2, 400))
    whole = compare(calibrated(steps[0]), steps[1])
    assert (whole.pictures, whole.found) == (400, False)
    zero = np.maximum(normal(1, 400, 0), 0)
    assert compare(calibrated(zero[:100], "1/100"), zero[100:]).pictures == 300


def test_a_verdict_is_the_same_as_on_the_picture():
    one = calibrated(THEN).by_hand(0.1)
    a_little_more = float(np.float32(0.1))
    assert one.is_anomalous(a_little_more)
    assert compare(one, [a_little_more, 0.05]).above == 1


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ([0.2, 0.1, 0.3], "`scores` must be null or finite numbers, ascending"),
        ([0.1, float("nan"), 0.3], "`scores` must be null or finite numbers"),
        ([0.1, 1e39, 1e40], "`scores` must be null or finite numbers"),
        ([0.1, 10**400, 10**401], "`scores` must be null or finite numbers"),
        ([0.1, True, 2], "`scores` must be null or finite numbers"),
        ("0.1", "`scores` must be null or finite numbers"),
        ([0.1, 0.2], "`scores` must be 3 of them for 3 images; there are 2"),
        ([], "`scores` must be 3 of them for 3 images; there are 0"),
    ],
)
def test_changed_scores_of_a_saved_calibration_are_refused(scores, words):
    saved = calibrated(THEN[:3]).to_json()
    assert Calibration.from_json(json.loads(json.dumps(saved))) == calibrated(THEN[:3])
    with pytest.raises(ModelFileError, match=words):
        Calibration.from_json({**saved, "scores": scores})
    by_hand = calibrated(THEN[:3]).by_hand(0.5).to_json()
    with pytest.raises(ModelFileError, match="from 1 to 1000 of them for 0 images; there are 1001"):
        Calibration.from_json({**by_hand, "scores": [0.0] * 1001})


def test_a_stream_is_looked_at_seldom_and_its_levels_never_add_up_to_more(monkeypatch):
    looks = []

    def spied(calibration, scores, *, categories, rare):
        looks.append((len(scores), rare))
        return compare(calibration, scores, categories=categories, rare=rare)

    monkeypatch.setattr(stream, "compare", spied)
    watched, at = Stream(calibrated(THEN)), []
    for number, score in enumerate(normal(1, 1200), 1):
        assert watched.add(float(score)) == ()
        if len(looks) > len(at):
            at.append(number)
    assert at == [20, 40, 80, 160, *range(260, 1200, 100)]
    assert [size for size, _ in looks] == [min(number, 500) for number in at]
    spent = 2 * np.cumsum([rare for _, rare in looks])
    assert (spent < 0.01).all()
    assert spent[-1] > 0.009


def feed(watched, scores):
    """What is told, with the number of the picture."""
    return [(n, line) for n, score in enumerate(scores) for line in watched.add(float(score))]


def test_a_stream_tells_a_drift_once_and_again_only_when_it_has_gone():
    watched = Stream(calibrated(THEN))
    assert feed(watched, normal(1, 1000)) == []
    (number, first), (_, cause) = feed(watched, normal(2, 1500, 0.45))
    assert 100 <= number <= 500
    assert (first.split(" from ")[0], cause) == (
        "drift: the median score of good pictures fell", MISSED,
    )  # fmt: skip
    assert watched.drifting
    ((number, over),) = feed(watched, normal(3, 1500))
    assert 300 <= number <= 700
    assert over == "drift is over: good pictures score as at calibration again"
    assert not watched.drifting
    (_, first), _ = feed(watched, normal(4, 1500, 2.0))
    assert first.startswith("drift: ")
    assert " pictures are above the threshold; 1 in 20" in first
    # A picture that is sent again and again says neither that it goes on nor that it is over.
    assert feed(watched, [0.5] * 1000) == []
    assert watched.drifting


def test_a_stream_s_drift_is_over_when_the_difference_is_a_usual_one(monkeypatch):
    found = compare(calibrated(THEN), normal(1, 100, 0.4))
    chances = iter([1e-9, 0.002, 0.04, 1e-9, 0.06, 0.9, 1e-9])

    def made_up(*_, rare, **__):
        difference = found.difference._replace(chance=next(chances))
        return replace(found, difference=difference, other=difference.chance < rare)

    monkeypatch.setattr(stream, "compare", made_up)
    told = feed(Stream(calibrated(THEN)), [0.5] * 460)
    assert [number for number, _ in told] == [19, 19, 259, 459, 459]
    assert "is over" in told[2][1]


def test_a_stream_that_cannot_be_judged_says_so_once():
    told = feed(Stream(replace(calibrated(THEN), scores=None)), normal(1, 700))
    assert [number for number, _ in told] == [19, 19]
    assert told[0][1].startswith("drift cannot be judged")
    told = feed(Stream(calibrated(THEN[:6])), np.full(700, THEN.min()) + np.arange(700) * 1e-6)
    assert [number for number, _ in told] == [19, 19]
    assert "is not watched: calibration has 5 below the threshold" in told[0][1]
    assert feed(Stream(None), normal(1, 700)) == []


DISTRIBUTIONS = {
    "normal": lambda random, count: random.normal(size=count),
    "skewed": lambda random, count: random.exponential(size=count),
    "often 0": lambda random, count: np.maximum(random.normal(size=count), 0),
    "whole numbers": lambda random, count: random.poisson(20, count),
    "fine steps": lambda random, count: np.round(1500 * random.normal(size=count)),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("runs", "length"), [(4, 1500), pytest.param(40, 10_000, marks=pytest.mark.slow)]
)
def test_good_pictures_are_hardly_ever_called_a_drift(name, runs, length):
    random = np.random.default_rng(8)
    told = 0
    for run in range(runs):
        n, rate = ((20, "1/20"), (99, "1/100"), (99, "1/5"), (1000, "1/100"))[run % 4]
        watched = Stream(calibrated(DISTRIBUTIONS[name](random, n), rate))
        scores = np.float32(DISTRIBUTIONS[name](random, length))
        told += any(watched.add(score) for score in scores.tolist())
    assert told <= runs // 40  # by 400 runs each, too, it was below 1 in 100


TOTALS = range(300, 400)
"""Of the good pictures of calibration, see `write_totals`: 100 scores from 0.39 to 0.52."""
BY_TOTALS = calibrated(np.arange(300, 400) / 765, "1/100")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("drift") / "export", calibration=BY_TOTALS).path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code
    return capsys.readouterr()


def test_predicting_tells_it_at_the_end_whoever_predicts(export, tmp_path, capsys):
    write_totals(tmp_path / "dark", range(250, 300, 2))
    write_totals(tmp_path / "same", range(301, 400, 4))
    write_totals(tmp_path / "few", range(250, 260))
    for arguments in ((), ("--output", tmp_path / "many.jsonl", "--workers", 1)):
        asked = ("predict", export, tmp_path / "dark", *arguments)
        out, err = run(capsys, *asked, "--json")
        told = json.loads(out)["drift"]
        first = "drift: the median score of good pictures fell from 0.4562 to 0.3582"
        assert told["told"] == [first, MISSED]
        assert (told["found"], told["pictures"], told["above"]) == (True, 25, 0)
        assert f"{first}\n{MISSED}\n" in err
    # Gone on with, it is of all pictures, those of before as well.
    again = json.loads(run(capsys, *asked, "--resume", "--json").out)
    assert (again["before"], again["drift"]) == (25, told)
    by_hand = run(capsys, "predict", export, tmp_path / "dark", "--threshold", "0.45", "--json")
    assert json.loads(by_hand.out)["drift"]["calibrated"] == 45
    for folder, found in (("same", False), ("few", None)):
        out, err = run(capsys, "predict", export, tmp_path / folder, "--json")
        assert json.loads(out)["drift"]["found"] is found
        assert "drift" not in err


def test_a_watched_folder_tells_it_once_even_if_it_is_watched_again(export, tmp_path):
    runtime, said = load(export, threads=1), []

    def watch():
        with Watched(runtime, tmp_path / "in", tell=said.append) as watched:
            return len([*watched.lines(interval=0.01, once=True)])

    write_totals(tmp_path / "in", range(150, 189))
    assert watch() == 39
    assert said == ["drift: the median score of good pictures fell from 0.4562 to 0.2085", MISSED]
    write_totals(tmp_path / "in", range(200, 245))
    assert watch() == 45
    assert len(said) == 2


def sent(served, totals, category=None):
    """Has so many pictures judged by a server."""
    colours = [[(total + channel) // 3 for channel in range(3)] for total in totals]
    pictures = np.uint8(colours)[:, None, None].repeat(32, 1).repeat(32, 2)
    body = {
        "inputs": [
            {
                "name": "pictures",
                "datatype": "UINT8",
                "shape": list(pictures.shape),
                "data": pictures.ravel().tolist(),
            }
        ],
        "parameters": {} if category is None else {"category": category},
    }
    answer = served.post("/v2/models/bright/infer", json=body)
    assert answer.status_code == 200, answer.text


def metric(served, name, category=""):
    key = f'{name}{{category="{category}",model="bright",version="1"}} '
    lines = served.get("/metrics").text.splitlines()
    return next((float(line.removeprefix(key)) for line in lines if line.startswith(key)), None)


def logged(capsys):
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in lines if line["event"] == "drift"]


def test_a_server_tells_it_once_and_begins_anew_with_another_model(capsys):
    lighter = calibrated(np.arange(250, 350) / 765, "1/100")
    own = {
        "categories": ("nut", "bolt", "cap"),
        "calibration": BY_TOTALS,
        "calibrations": {"nut": lighter},
    }
    made = []

    def runtime():
        made.append(runtime_of(**own))
        return made[-1]

    with Served({"bright": runtime}) as served:
        assert metric(served, "ad_drift") is None
        sent(served, range(250, 269))
        assert served.get("/inspect").json()["models"][0]["drift"][0]["found"] is None
        sent(served, range(269, 290))
        assert metric(served, "ad_drift") == 1
        assert metric(served, "ad_drift_distance") == 1
        assert metric(served, "ad_share_above") == 0
        (line,) = logged(capsys)
        assert (line["model"], line["version"], line["category"]) == ("bright", "1", None)
        assert line["drifting"] is True
        assert line["told"][0].startswith("drift: the median score of good pictures fell from 0.4")
        assert "one category is more frequent" in line["told"][1]
        # A category with a threshold of its own has scores of its own, others those of all.
        sent(served, range(252, 342, 3), "nut")
        with pytest.warns(UserWarning, match="`cap` of `bright` has no threshold of its own"):
            sent(served, range(290, 300), "cap")
        told = served.get("/inspect").json()["models"][0]["drift"]
        assert [(one["category"], one["found"]) for one in told] == [(None, True), ("nut", False)]
        assert metric(served, "ad_drift", "nut") == 0
        assert logged(capsys) == []
        before = served.repository.get("bright")
        served.repository.load("bright")
        assert len(made) == 2
        assert served.get("/inspect").json()["models"][0]["drift"] == []
        served.metrics.drifts.see(before, None, 0.3)  # by a request that began with the old one
        assert served.get("/inspect").json()["models"][0]["drift"] == []
        for category in ("", "nut"):
            assert metric(served, "ad_drift", category) is None
        sent(served, range(250, 290))
        assert len(logged(capsys)) == 1
