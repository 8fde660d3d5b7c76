"""The report that compares several runs."""

import json

import numpy as np
import pytest
from PIL import Image
from report_pages import Page

from ad.core import evaluate, recalibrate, train, write_report
from ad.core.errors import ModelFileError
from ad.core.testing.pictures import make_picture


@pytest.fixture
def two_runs(mean_picture, toy_root, tmp_path):
    """The same model twice: the second one has no threshold that divides the pictures."""
    runs = [tmp_path / name for name in ("a", "b")]
    for run, gain in zip(runs, (1.0, 2.0), strict=True):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, holdout=0.1,
              model={"gain": gain})  # fmt: skip
    return runs


def test_runs_are_compared_by_what_they_wrote(two_runs, tmp_path):
    page = write_report(two_runs, output=tmp_path / "both.html")
    data = Page(page).data
    assert data["columns"] == ["mvtec toy"]
    for run, shown in zip(two_runs, data["runs"], strict=True):
        written = json.loads((run / "metrics.json").read_text())
        assert shown["columns"] == {"mvtec toy": written["categories"]["toy"]}
        assert shown["mean"] == written["metrics"]
        assert shown["verdicts"] == written["verdicts"]
        assert shown["link"] == f"{run.name}/report.html"
        assert len(shown["good"]) == len(shown["defective"]) == 4
    assert data["settings"] == [{"name": "gain", "values": ["1.0", "2.0"]}]
    assert data["notes"] == []


def test_a_threshold_that_was_set_anew_is_the_one_reports_tell_of(two_runs, tmp_path):
    (tmp_path / "normals").mkdir()
    for n in range(300, 319):
        Image.fromarray(make_picture(n, size=32)[0]).save(tmp_path / f"normals/{n}.png")
    changed = recalibrate(two_runs[0], normals=tmp_path / "normals").after
    note = f"Threshold {changed.threshold:.4g}; {changed.promise()}."
    now = evaluate(two_runs[0], report=False).verdicts._asdict()
    assert now != json.loads((two_runs[0] / "metrics.json").read_text())["verdicts"]
    shown = Page(write_report(two_runs, output=tmp_path / "both.html")).data["runs"][0]
    assert (shown["threshold"], shown["verdicts"]) == (changed.threshold, now)
    (told,) = (one for one in shown["notes"] if "Threshold" in one)
    assert told.startswith(f"{note} Regions in good pictures: ")
    data = Page(write_report(two_runs[0])).data
    assert [one for one in data["notes"] if "Threshold" in one] == [told]
    facts = {name: value for group in data["facts"] for name, value in group["facts"]}
    assert facts["pictures that the threshold was set on"] == "19 good"


def test_pictures_that_runs_get_wrong_are_listed_worst_first(two_runs, tmp_path):
    lines = (two_runs[1] / "scores.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    missed = [r for r in records if r["label"]][:2]
    missed[0]["score"] = missed[1]["score"] = -1.0
    (two_runs[1] / "scores.jsonl").write_text("\n".join(map(json.dumps, records)))
    other = [json.loads(line) for line in (two_runs[0] / "scores.jsonl").read_text().splitlines()]
    next(o for o in other if o["path"] == missed[1]["path"])["score"] = -1.0
    (two_runs[0] / "scores.jsonl").write_text("\n".join(map(json.dumps, other)))
    data = Page(write_report(two_runs, output=tmp_path / "both.html")).data
    defective = [one for one in data["wrong"] if one["defective"]]
    assert [one["name"] for one in defective] == ["square/001.png", "square/000.png"]
    assert [one["called"] for one in defective] == [[False, False], [True, False]]
    assert data["numWrong"] == len(data["wrong"])


def test_runs_on_other_pictures_are_not_comparable_and_it_says_so(two_runs, tmp_path):
    path = two_runs[0] / "scores.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    (note,) = Page(write_report(two_runs, output=tmp_path / "both.html")).data["notes"]
    assert "not tested on the same pictures of mvtec toy (7, 8 pictures)" in note


def test_many_scores_become_quantiles(two_runs, tmp_path):
    path = two_runs[0] / "scores.jsonl"
    line = json.loads(path.read_text().splitlines()[0])
    scores = np.random.default_rng(0).normal(size=3000)
    lines = [json.dumps({**line, "path": f"/x/{n}.png", "score": s}) for n, s in enumerate(scores)]
    path.write_text("\n".join(lines))
    dots = Page(write_report(two_runs, output=tmp_path / "both.html")).data["runs"][0]
    dots = dots["good"] or dots["defective"]
    assert len(dots) == 200
    assert (dots[0], dots[-1]) == (scores.min(), scores.max())


def test_a_run_that_is_not_finished_cannot_be_compared(two_runs, tmp_path):
    (two_runs[1] / "metrics.json").unlink()
    with pytest.raises(ModelFileError, match=r"b` is no finished run: it has no `metrics\.json`"):
        write_report(two_runs, output=tmp_path / "both.html")


def test_results_that_cannot_be_read_are_refused(two_runs, tmp_path):
    (two_runs[1] / "scores.jsonl").write_text('{"path": 3}')
    with pytest.raises(ModelFileError, match="results of `.*b` cannot be read"):
        write_report(two_runs, output=tmp_path / "both.html")


def test_runs_without_scores_or_threshold_can_be_compared(
    mean_picture, two_runs, toy_root, tmp_path
):
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "c", holdout=0)
    (two_runs[0] / "scores.jsonl").unlink()
    (two_runs[0] / "report.html").unlink()
    data = Page(write_report([*two_runs, tmp_path / "c"], output=tmp_path / "all.html")).data
    first, _, last = data["runs"]
    assert (first["good"], first["link"]) == ([], None)
    assert (last["threshold"], last["verdicts"]) == (None, None)
    assert {"name": "holdout", "values": ["0.1", "0.1", "0.0"]} in data["settings"]
