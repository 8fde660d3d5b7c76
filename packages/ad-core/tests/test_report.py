"""The report of one run."""

import base64
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from report_pages import Page, pixels, samples_of

from ad.core import evaluate, load, train, write_report
from ad.core.errors import DataError, ModelFileError, OutputError, SettingError
from ad.core.metrics import auroc
from ad.core.report.gallery import Gallery
from ad.core.testing.pictures import make_picture, write_mvtec_tree
from ad.runtime.pictures.drawn import read_mask
from ad.runtime.pictures.reading import read_picture


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


def test_train_writes_a_report_of_what_it_found(trained):
    assert trained.report == trained.run / "report.html"
    data = Page(trained.report).data
    lines = [json.loads(line) for line in (trained.run / "scores.jsonl").read_text().splitlines()]
    assert data["scores"] == [line["score"] for line in lines]
    assert [os.path.join(data["root"], name) for name in data["names"]] == [
        line["path"] for line in lines
    ]
    kinds = [data["kinds"][kind] for kind in data["kindOf"]]
    assert [kind["group"] for kind in kinds] == [line["group"] for line in lines]
    assert [kind["defective"] for kind in kinds] == [line["label"] == 1 for line in lines]
    assert data["calibration"]["threshold"] == trained.threshold
    assert {one["key"]: one["value"] for one in data["figures"]} == trained.metrics
    assert all(one["meaning"] for one in data["figures"])
    assert data["notes"] == list(trained.notes)
    assert data["title"] == "mean-picture on mvtec toy"
    assert data["command"] == json.loads((trained.run / "run.json").read_text())["command"]
    assert data["times"] is None


def test_the_gallery_of_a_report_holds_picture_map_and_mask(trained, toy_root):
    data = Page(trained.report).data
    assert [one["index"] for one in data["gallery"]] == [*range(8)]
    for one in data["gallery"]:
        path = toy_root / "toy/test" / data["names"][one["index"]]
        decoded = [pixels(base64.b64decode(one[key].split(",")[1])) for key in ("picture", "heat")]
        assert one["size"] == [32, 32]
        assert decoded[0].shape == (32, 32, 3)
        gap = decoded[0].astype(float) - read_picture(path)
        assert np.abs(gap).mean() < 12  # lossy
        if path.parent.name == "good":
            assert one["mask"] is None
            continue
        mask_file = toy_root / "toy/ground_truth/square" / f"{path.stem}_mask.png"
        mask = pixels(base64.b64decode(one["mask"].split(",")[1]))[..., 0] > 127
        assert (mask == read_mask(mask_file, path, 256)).all()
        heat = decoded[1][..., 0]
        inside = read_mask(mask_file, path, 32)
        assert heat[inside].min() > heat[~inside].mean()


def test_each_kind_of_defect_is_ranked_against_the_good_ones_of_its_category(
    mean_picture, toy_root, tmp_path
):
    write_mvtec_tree(toy_root, "other", size=32, seed=7)
    (toy_root / "toy/test/square").rename(toy_root / "toy/test/dent")
    (toy_root / "toy/ground_truth/square").rename(toy_root / "toy/ground_truth/dent")
    run = tmp_path / "run"
    result = train("mvtec", "all", mean_picture, data_root=toy_root, output_dir=run)
    data = Page(result.report).data
    assert data["title"] == "mean-picture on mvtec data"
    assert [one["name"] for one in data["categories"]] == ["other", "toy"]
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    for kind in data["kinds"]:
        own = [
            line for line in lines
            if line["category"] == kind["category"] and line["group"] in ("good", kind["group"])
        ]  # fmt: skip
        wanted = auroc([line["score"] for line in own], [line["label"] for line in own])
        assert kind["auroc"] == (wanted if kind["defective"] else None)
    assert {kind["group"] for kind in data["kinds"]} == {"good", "dent", "square"}


def test_no_report_leaves_none(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    result = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, report=False)
    assert result.report is None
    evaluate(run, report=False)
    assert not (run / "report.html").exists()
    evaluate(run)
    assert (run / "report.html").exists()


def test_a_report_made_again_says_so_and_has_the_times(trained):
    before = Page(trained.report).data
    assert write_report(trained.run) == trained.report
    after = Page(trained.report).data
    again = "Scored again with the saved model, after training."
    assert after["notes"] == [again, *before["notes"]]
    assert [name for name, _ in after["times"]][:2] == ["learning", "testing"]
    assert after["scores"] == before["scores"]
    assert after["gallery"] == before["gallery"]
    first = trained.report.read_bytes()
    write_report(trained.run)
    assert trained.report.read_bytes() == first


def test_figures_that_changed_are_pointed_out(trained):
    path = trained.run / "metrics.json"
    record = json.loads(path.read_text())
    record["metrics"]["image_auroc"] = 0.5
    path.write_text(json.dumps(record))
    evaluate(trained.run)
    note = Page(trained.report).data["notes"][0]
    assert "differ from those that training found" in note
    assert "image_auroc 0.500 then, 1.000 now" in note


def test_a_report_can_be_made_of_a_run_that_was_never_tested(trained):
    for name in ("metrics.json", "scores.jsonl", "report.html", "log.jsonl"):
        (trained.run / name).unlink()
    data = Page(write_report(trained.run, output=trained.run.parent / "a.html")).data
    assert len(data["scores"]) == 8
    assert data["times"] == []
    assert any(note.startswith("Threshold") for note in data["notes"])


def test_a_resumed_runs_time_is_said_to_be_a_part(trained):
    log = trained.run / "log.jsonl"
    log.write_text('{"event": "resume"}\n' + log.read_text())
    times = dict(Page(write_report(trained.run)).data["times"])
    assert times["learning"].endswith("since it was last resumed")


def test_without_holdout_a_report_has_no_threshold(mean_picture, toy_root, tmp_path):
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run, holdout=0)
    data = Page(run / "report.html").data
    assert data["calibration"] is None
    assert data["localises"]


def test_names_of_strangers_stay_texts(mean_picture, tmp_path):
    kind = 'x"><img src=y onerror=alert(1)>'
    names = ["</script><script>alert(2)</script>.png", os.fsdecode(b"caf\xe9.png"), "日本.png"]
    for folder, count in (("good", 10), (kind, 3)):
        (tmp_path / "parts" / folder).mkdir(parents=True)
        for n in range(count):
            path = tmp_path / "parts" / folder / (names[n] if count == 3 else f"{n}.png")
            path.parent.mkdir(parents=True, exist_ok=True)  # a slash in a name makes folders
            Image.fromarray(make_picture(n, size=32, defect=count == 3)[0]).save(path)
    run = tmp_path / "run"
    train("folder", "all", mean_picture, data_root=tmp_path / "parts", output_dir=run)
    page = Page(run / "report.html")
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert {os.path.join(kind, name) for name in names} <= set(page.data["names"])
    write_report([run, run], output=tmp_path / "both.html")
    assert Page(tmp_path / "both.html").tags.count("script") == 2


def test_a_score_that_is_not_finite_is_named(trained):
    from ad.core.report.run import write_run_report

    samples = samples_of([1, 1])
    evaluation = SimpleNamespace(metrics={}, categories={}, resolution=8, scores=(1.0, np.inf))
    with pytest.raises(DataError, match=r"score of `1\.png` is inf"):
        write_run_report(
            trained.report,
            record=json.loads((trained.run / "run.json").read_text()),
            config=load(trained.run).config,
            samples=samples,
            evaluation=evaluation,
            gallery=Gallery(samples, None),
            notes=(),
        )


@pytest.mark.parametrize(
    ("runs", "settings", "error", "words"),
    [
        ([], {}, SettingError, "no run to report on"),
        (["a"], {"output": "a.png"}, SettingError, r"must end in `\.html`; got `a\.png`"),
        (["a"], {"output": "no/a.html"}, OutputError, "no folder `.*no` to write the report into"),
        (["a", "b"], {"data_root": "x"}, SettingError, "`data_root` is for one run.* got 2 runs"),
        (["a", "b"], {}, ModelFileError, "`a` is no run directory"),
    ],
)
def test_what_cannot_be_reported_is_refused(runs, settings, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        write_report(runs, **settings)


def test_a_run_directory_that_cannot_be_written_says_how_to_go_on(trained, monkeypatch):
    trained.report.unlink()
    trained.report.mkdir()  # in the way
    with pytest.raises(OutputError, match="hint: the figures alone .*: ad evaluate --no-report"):
        evaluate(trained.run)
