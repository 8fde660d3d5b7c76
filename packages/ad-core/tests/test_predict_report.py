"""The page that predicting writes: which pictures it shows, and what it says of them."""

import base64
import csv

import numpy as np
import pytest
from PIL import Image
from report_pages import Page, pixels

from ad.core import load, train
from ad.core.jobs import inspect as inspection
from ad.core.jobs.inspect import inspect
from ad.core.report import predictions
from ad.core.report.predictions import NewPictures
from ad.core.testing.pictures import make_picture
from ad.runtime.calibration.by_rate import calibrate
from ad.runtime.findings import Finding
from ad.runtime.framing import Framing, Size


class Seen:
    """What the page asks of a detector's configuration."""

    model, white_level, framing = "toy", None, Framing(size=Size(8, 8))


def webp(address):
    return pixels(base64.b64decode(address.split(",")[1]))


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train(
        "mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run", holdout=0.3
    )


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (16, 12), (90, 90, 90)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def page_of(folder, findings, calibration, config=Seen):
    page = NewPictures(calibration, config, "")
    for finding in findings:
        page.see(finding)
    return Page(page.write(folder, run="run", notes=[])).data


def findings_of(path, scores, calibration):
    return [
        Finding(
            path=path,
            score=float(score),
            normalized=calibration and calibration.normalize(score),
            anomalous=calibration and calibration.is_anomalous(score),
            map=np.full((8, 8), score, np.float32),
        )
        for score in np.asarray(scores, np.float32)
    ]


def test_predicting_writes_what_it_found_to_look_at(trained, toy_root, run_ad, tmp_path):
    new = toy_root / "toy/test"
    (new / "broken<b>.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    status, _, err = run_ad("predict", trained.run, new, "--output", out)
    assert status == 3  # one could not be read
    assert f"report to look at: {out / 'report.html'}" in err
    data = Page(out / "report.html").data
    with (out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["score"]]
    rows.sort(key=lambda row: -float(row["score"]))
    assert [one["name"] for one in data["gallery"]] == [
        str(row["path"]).removeprefix(f"{new}/") for row in rows
    ]
    assert [one["score"] for one in data["gallery"]] == [float(row["score"]) for row in rows]
    assert data["scores"] == sorted(float(row["score"]) for row in rows)
    assert data["numDefective"] == sum(row["verdict"] == "defective" for row in rows)
    assert data["shownDefective"] == data["numDefective"]
    assert data["calibration"]["threshold"] == trained.threshold
    ((name, why),) = data["unread"]
    assert (name, data["numUnread"]) == ("broken<b>.png", 1)
    assert "cannot be read" in why
    assert any(note.startswith("Threshold") for note in data["notes"])
    for one, row in zip(data["gallery"], rows, strict=True):
        (finding,) = load(trained.run).predict(row["path"])
        assert one["regions"] == [list(region) for region in finding.regions[:20]]
        assert one["numRegions"] == finding.num_regions
        if finding.anomalous:  # heat is where the regions are, in the picture's own proportions
            x0, y0, x1, y1, *_ = finding.regions[0]
            heat = webp(one["heat"])[..., 0]
            assert heat[y0:y1, x0:x1].mean() > 127 > np.median(heat)


def test_a_prediction_that_is_stopped_leaves_a_page_of_what_it_had_found(
    trained, toy_root, run_ad, tmp_path, monkeypatch
):
    plain = inspection.write_numbered

    def until_the_third(folder, name, content):
        if name.startswith("0003-"):  # whichever thread comes to it first
            raise KeyboardInterrupt
        return plain(folder, name, content)

    monkeypatch.setattr(inspection, "write_numbered", until_the_third)
    out, new = tmp_path / "out", toy_root / "toy/test/good"
    status, _, err = run_ad("predict", trained.run, new, "--output", out)
    assert status == 130
    assert f"stopped after 2 of 4 pictures; what was found is in {out}" in err
    data = Page(out / "report.html").data
    with (out / "predictions.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [one["name"] for one in data["gallery"]] == [
        row["path"].rpartition("/")[2] for row in sorted(rows, key=lambda r: -float(r["score"]))
    ]
    assert len(rows) == data["numScored"] == 2
    assert data["notes"][0].startswith("This was stopped by Ctrl-C after 2 of 4 pictures")


def test_colours_of_heat_maps_that_are_not_written_are_refused(run_ad, tmp_path):
    status, _, err = run_ad("predict", "run", tmp_path, "--colours", "picture", "--no-heatmaps")
    assert status == 1
    assert "`--colours picture` is for heat maps, and `--no-heatmaps` writes none." in err


def test_no_report_leaves_none(trained, toy_root, run_ad, tmp_path):
    out = tmp_path / "out"
    _, _, err = run_ad(
        "predict", trained.run, toy_root / "toy/test/good", "--output", out, "--no-report"
    )
    assert not (out / "report.html").exists()
    assert "report to look at" not in err
    found = inspect(trained.run, [toy_root / "toy/test/good"], output=tmp_path / "b", report=False)
    assert found.to_json()["report"] is None


def test_a_bounded_number_is_shown_and_the_highest_scores_are_among_it(
    picture, tmp_path, monkeypatch
):
    for name, number in (("DEFECTIVE", 5), ("OTHERS", 3), ("_SCORES", 50), ("_UNREAD", 2)):
        monkeypatch.setattr(predictions, name, number)
    calibration = calibrate([0.0, 1.0], [0.0, 1.0])
    scores = np.random.default_rng(0).permutation(np.linspace(-1, 2, 301)).astype(np.float32)
    findings = findings_of(picture, scores, calibration)
    lost = [Finding(path=picture, score=None, error=f"why {n}") for n in range(7)]
    data = page_of(tmp_path, [*findings, *lost], calibration)
    above = np.sort(scores[scores > calibration.threshold])[::-1]
    below = np.sort(scores[scores <= calibration.threshold])[::-1]
    assert [one["score"] for one in data["gallery"]] == [*above[:5], *below[:3]]
    assert (data["numScored"], data["numDefective"], data["shownDefective"]) == (301, len(above), 5)
    assert (len(data["scores"]), min(data["scores"]), max(data["scores"])) == (50, -1, 2)
    assert [why for _, why in data["unread"]] == ["why 0", "why 1"]
    assert data["numUnread"] == 7


def test_what_is_called_good_is_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    calibration = calibrate([0.0, 1.0], [0.0, 1.0])
    found = findings_of(tmp_path / "a.png", [9.0, 0.5], calibration)
    sides = []
    for one in page_of(tmp_path, found, calibration)["gallery"]:
        sides.append([max(webp(one[key]).shape) for key in ("picture", "heat", "own")])
    assert sides == [[256, 128, 128], [96, 64, 64]]


def test_the_largest_page_is_as_small_as_the_docs_say(tmp_path):
    """Noise is the worst that a picture can do to a compressed file."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    calibration = calibrate([0.0, 1.0], [0.0, 1.0])
    sizes = []
    for score in (9.0, 0.5):
        (finding,) = findings_of(tmp_path / "a.png", [score], calibration)
        map_ = rng.random((256, 256), dtype=np.float32) * 3
        finding = Finding(**{**{k: getattr(finding, k) for k in finding.__slots__}, "map": map_})

        class Large(Seen):
            framing = Framing(size=Size(256, 256))

        (one,) = page_of(tmp_path, [finding], calibration, Large)["gallery"]
        sizes.append(sum(len(one[key]) for key in ("picture", "heat", "own")))
    assert sizes[0] * predictions.DEFECTIVE + sizes[1] * predictions.OTHERS < 11e6


def test_without_threshold_scores_rank_all_and_nothing_is_called_anything(picture, tmp_path):
    data = page_of(tmp_path, findings_of(picture, [1.0, 3.0, 2.0], None), None)
    assert [one["score"] for one in data["gallery"]] == [3, 2, 1]
    assert [one["own"] for one in data["gallery"]] == [None] * 3  # the heat is its own range
    assert (data["calibration"], data["numDefective"], data["shownDefective"]) == (None, 0, 0)


def test_pictures_of_a_model_without_maps_are_shown_too(whole, toy_root, tmp_path):
    train("mvtec", "toy", whole, data_root=toy_root, output_dir=tmp_path / "run")
    found = inspect(tmp_path / "run", [toy_root / "toy/test"], output=tmp_path / "out")
    data = Page(found.report).data
    assert len(data["gallery"]) == 8
    assert {one["heat"] for one in data["gallery"]} == {None}
    assert not any((tmp_path / "out/heatmaps").iterdir())


def test_a_missed_defect_is_coloured_in_its_own_range_and_the_picture_says_so(
    trained, toy_root, tmp_path, run_ad
):
    """Below the threshold nothing is coloured, whatever the map shows; in its own range it is."""
    new = tmp_path / "new"
    new.mkdir()
    Image.fromarray(make_picture(9, size=32)[0]).save(new / "a.png")
    given = ("predict", trained.run, new, "--threshold", "99", "--output")
    sheets = {}
    for colours in ("threshold", "picture"):
        out = tmp_path / colours
        status, _, _ = run_ad(*given, out, "--colours", colours)
        assert status == 0
        (sheet,) = (out / "heatmaps").iterdir()
        with Image.open(sheet) as image:
            sheets[colours] = np.asarray(image.convert("RGB")).astype(int)
    plain = sheets["threshold"][:256, :256]
    assert (sheets["threshold"][:256, -256:] == plain).all()
    moved = np.abs(sheets["picture"][:256, -256:] - plain).max(axis=-1)
    assert moved.max() > 100
    said = {colours: (sheet[256:] < 128).sum() for colours, sheet in sheets.items()}
    assert said["picture"] > 1.3 * said["threshold"]  # "colours: this picture's own range"
    status, _, err = run_ad(*given, tmp_path / "x", "--colours", "own")
    assert status == 2
    assert "threshold" in err
    assert "picture" in err
