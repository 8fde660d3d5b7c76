"""Good pictures only, the commonest start: what is shown and said without test pictures."""

import base64
import json

import numpy as np
import pytest
from PIL import Image
from report_pages import Page, pixels

from ad.core import evaluate, load, train, write_report
from ad.core.cli.console import say_verdicts
from ad.core.errors import DataError, ModelFileError
from ad.core.testing.pictures import make_picture
from ad.core.thresholds.verdicts import Verdicts
from ad.runtime.pictures.reading import read_picture

PICTURES = 12


@pytest.fixture
def parts(tmp_path):
    (tmp_path / "parts").mkdir()
    for n in range(PICTURES):
        picture = Image.fromarray(make_picture(n, size=32)[0])
        picture.save(tmp_path / f"parts/{n:02d}.png")
    return tmp_path / "parts"


@pytest.fixture
def learn(mean_picture, parts, tmp_path):
    def learn(holdout):
        run = tmp_path / f"run-{holdout}"
        return train(
            "folder", "all", mean_picture, data_root=parts, output_dir=run, holdout=holdout
        )

    return learn


def heat(address):
    return pixels(base64.b64decode(address.split(",")[1]))[..., 0] / 255


def test_cross_fitted_pictures_are_shown_with_the_maps_of_detectors_that_had_not_seen_them(
    learn, parts, tmp_path
):
    run = learn("cross").run
    data = Page(run / "report.html").data
    assert data["shows"] == "good"
    assert data["names"] == [f"{n:02d}.png" for n in range(PICTURES)]
    all_ = np.stack([read_picture(parts / name) / 255 for name in data["names"]])
    others = [np.delete(all_, n, axis=0).mean(axis=0) for n in range(PICTURES)]
    maps = np.abs(all_ - np.stack(others)).max(axis=-1)  # each by the mean of the others
    scores = maps.max(axis=(1, 2))
    assert data["scores"] == pytest.approx(scores.tolist(), abs=1e-5)
    assert data["calibration"]["threshold"] == pytest.approx(scores.max(), abs=1e-5)
    assert "Each of 12 good pictures was scored by a detector that had not seen it" in data["lead"]
    assert "None is above the threshold, which was set on these scores" in data["lead"]
    assert [one["index"] for one in data["gallery"]] == [*range(PICTURES)]
    for one, map_ in zip(data["gallery"], maps, strict=True):
        own = (map_ - map_.min()) / np.ptp(map_)
        assert np.abs(heat(one["own"]) - own).mean() < 0.05  # lossy
        assert heat(one["heat"]).max() < 0.6
    # Made again, those detectors are gone: the scores are theirs all the same, and it is said why
    # there are no maps.
    again = Page(write_report(run, output=tmp_path / "a.html")).data
    assert (again["scores"], again["lead"]) == (data["scores"], data["lead"])
    assert {one["heat"] for one in again["gallery"]} == {None}
    assert "these detectors are gone" in again["without"]
    assert not any("Scored again" in note for note in again["notes"])
    (run / "good_scores.jsonl").write_text("{}\n")
    with pytest.raises(ModelFileError, match=r"good_scores.jsonl` cannot be read .* away: then"):
        write_report(run, output=tmp_path / "b.html")
    (run / "good_scores.jsonl").unlink()
    none = Page(write_report(run, output=tmp_path / "b.html")).data
    assert (none["shows"], none["scores"]) == ("nothing", [])


def test_held_out_pictures_are_shown_as_the_saved_model_sees_them(learn, tmp_path, run_ad):
    run = learn(0.25).run
    data = Page(run / "report.html").data
    assert (data["shows"], len(data["scores"])) == ("good", 3)
    assert max(data["scores"]) == pytest.approx(data["calibration"]["threshold"], abs=1e-4)
    found = load(run).predict([f"{data['root']}/{name}" for name in data["names"]])
    assert data["scores"] == [finding.score for finding in found]
    assert all(one["heat"] and one["own"] for one in data["gallery"])
    assert data["lead"].startswith("No test pictures. 3 good pictures were held out to set")
    again = Page(write_report(run, output=tmp_path / "a.html")).data
    assert again["gallery"] == data["gallery"]
    # A threshold from elsewhere was not set on them, and the hint names what can be run.
    status, _, err = run_ad("calibrate", run, "--threshold", "0.01")
    assert status == 0
    assert f"hint: the verdicts of the new one: ad report {run}" in err
    renewed = Page(write_report(run, output=tmp_path / "b.html")).data
    assert renewed["shows"] == "good, others since"
    assert "3 of them are above the threshold, which was set on others since" in renewed["lead"]


def test_a_report_can_be_made_where_training_was_told_to_make_none(learn, mean_picture, parts):
    run = learn("cross").run
    scores = Page(run / "report.html").data["scores"]
    later = run.with_name("later")
    train(
        "folder",
        "all",
        mean_picture,
        data_root=parts,
        output_dir=later,
        holdout="cross",
        report=False,
    )
    assert Page(write_report(later)).data["scores"] == scores


def test_where_all_pictures_were_learnt_from_it_is_said_why_none_is_shown(learn):
    data = Page(learn(0).report).data
    assert (data["shows"], data["gallery"]) == ("nothing", [])
    assert "what a detector has learnt from scores lower" in data["lead"]


def test_nowhere_is_anything_of_nothing(parts, mean_picture, run_ad, tmp_path):
    run = tmp_path / "run"
    given = ("train", "folder", "all", mean_picture, "--data-root", parts, "--output", run)
    status, out, err = run_ad(*given)
    assert status == 0
    status, _, said = run_ad("report", run)
    assert status == 0
    notes = json.loads((run / "metrics.json").read_text())["notes"]
    page = json.dumps(Page(run / "report.html").data)
    for text in (out, err, said, *notes, page):
        assert "0 of 0" not in text
        assert " of 0 " not in text
    assert "at the threshold" not in err
    with pytest.raises(DataError, match=r"no test pictures.*\nhint: .* ad report"):
        evaluate(run)


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (Verdicts(1, 2, 3, 4), "1 of 2 defective pictures found, 3 of 4 good ones called"),
        (Verdicts(1, 2, 0, 0), "1 of 2 defective pictures found\n"),
        (Verdicts(0, 0, 3, 4), "3 of 4 good pictures called defective\n"),
        (Verdicts(0, 0, 0, 0), ""),
    ],
)
def test_verdicts_are_told_of_kinds_that_there_are(verdicts, said, capsys):
    say_verdicts(verdicts)
    err = capsys.readouterr().err
    assert said in err
    assert " of 0" not in err
    assert bool(err) == bool(said)
