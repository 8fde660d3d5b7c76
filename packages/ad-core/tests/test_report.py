import base64
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ad.core import evaluate, load, train, write_report
from ad.core.calibrate import calibrate
from ad.core.data.batches import Batch
from ad.core.data.pictures import read_mask, read_picture, upright_size
from ad.core.data.samples import Sample
from ad.core.errors import DataError, ModelFileError, OutputError, SettingError
from ad.core.heatmaps import colour_table
from ad.core.metrics import auroc
from ad.core.report import gallery as gallery_module
from ad.core.report.gallery import EASIEST, HARDEST, OF_EACH_KIND, Gallery
from ad.core.report.page import data_uri, to_script_json, write_page
from ad.core.testing.pictures import make_picture, write_mvtec_tree


class Page(HTMLParser):
    """What a browser would see in a report: its elements, scripts, data and policy."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self._inside = [], {}, None
        self.feed(path.read_bytes().decode())
        self.data = json.loads(self.texts["application/json"])

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        if tag in ("script", "style", "title"):
            self._inside = given.get("type", tag)
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, text):
        if self._inside:
            self.texts[self._inside] = self.texts.get(self._inside, "") + text


def samples_of(labels, *, category="toy"):
    return [
        Sample(f"{n}.png", label, "test", category, f"kind{n % 3}" if label else "good")
        for n, label in enumerate(labels)
    ]


def show(gallery, scores, *, order=None, size=8, maps=None, batch_size=5):
    """Let a gallery see plain pictures, each as bright as its index."""
    order = range(len(scores)) if order is None else order
    for at in range(0, len(order), batch_size):
        rows = list(order[at : at + batch_size])
        pictures = torch.stack([torch.full((size, size, 3), row % 256).byte() for row in rows])
        own = None if maps is None else maps[rows]
        gallery.see(Batch(rows, pictures), np.asarray(scores, np.float32)[rows], own)


def pixels(webp):
    return np.asarray(Image.open(io.BytesIO(webp)))


@pytest.fixture
def trained(mean_picture, toy_root, tmp_path):
    return train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run")


# --- which pictures are shown ------------------------------------------------------------------


def test_the_gallery_keeps_the_hardest_and_the_clearest_of_many():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 700).tolist(), rng.normal(size=700).round(2)
    samples = samples_of(labels)
    gallery = Gallery(samples, None)
    show(gallery, scores)
    wanted = set()
    for label in (0, 1):
        own = [n for n in range(700) if labels[n] == label]
        wrong = {n: -scores[n] if label else scores[n] for n in own}
        hardest = sorted(own, key=lambda n: (-wrong[n], n))
        wanted |= {*hardest[:HARDEST], *sorted(own, key=lambda n: (wrong[n], n))[:EASIEST]}
        for group in {samples[n].group for n in own}:
            wanted |= {*[n for n in hardest if samples[n].group == group][:OF_EACH_KIND]}
    assert {shown.index for shown in gallery.shown} == wanted


def test_the_gallery_shows_all_of_few_pictures():
    gallery = Gallery(samples_of([0, 1] * 60), None)
    show(gallery, np.arange(120))
    assert [shown.index for shown in gallery.shown] == [*range(120)]


def test_what_is_kept_does_not_grow_with_the_number_of_kinds_or_pictures():
    samples = [Sample(f"{n}", 1, "test", "toy", f"kind{n}") for n in range(1500)]
    gallery = Gallery(samples, None)
    show(gallery, np.random.default_rng(0).normal(size=1500), batch_size=100)
    limit = HARDEST + EASIEST + gallery_module.KINDS * OF_EACH_KIND
    assert len(gallery.shown) <= limit


def test_galleries_of_several_processes_make_one():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 500).tolist(), rng.normal(size=500).astype(np.float32)
    samples = samples_of(labels)
    whole, *shares = (Gallery(samples, None) for _ in range(4))
    show(whole, scores)
    for rank, share in enumerate(shares):
        show(share, scores, order=range(rank, 500, 3))
    shares[0].merge([share.shown for share in shares])
    assert shares[0].shown == whole.shown


def test_equal_scores_keep_the_first_pictures():
    gallery = Gallery(samples_of([0] * 300), None)
    show(gallery, np.zeros(300))
    assert [shown.index for shown in gallery.shown] == [*range(HARDEST)]


def test_a_map_is_shown_around_the_pixel_threshold():
    calibration = calibrate([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    ramp = np.linspace(-6, 10, 64, dtype=np.float32)
    maps = np.broadcast_to(ramp, (1, 64, 64))
    gallery = Gallery(samples_of([1]), calibration)
    show(gallery, [3.0], size=64, maps=maps)
    heat = pixels(gallery.shown[0].heat)[..., 0] / 255
    wanted = np.broadcast_to(calibration.normalize_map(ramp), (64, 64))
    assert heat == pytest.approx(wanted, abs=0.03)


def test_a_map_without_threshold_has_its_own_range():
    maps = np.stack([np.full((8, 8), 7.0), np.arange(64.0).reshape(8, 8)]).astype(np.float32)
    gallery = Gallery(samples_of([1, 0]), None)
    show(gallery, [1.0, 2.0], maps=maps)
    flat, ramp = (pixels(shown.heat)[..., 0] for shown in gallery.shown)
    assert flat.max() <= 3
    assert ramp.min() <= 5
    assert ramp.max() >= 250


def test_large_pictures_are_reduced_and_small_ones_kept():
    gallery = Gallery(samples_of([0, 0]), None)
    show(gallery, [0.0], size=320, maps=np.zeros((2, 320, 320), np.float32), order=[0])
    show(gallery, [0.0, 1.0], size=48, order=[1])
    large, small = gallery.shown
    assert pixels(large.picture).shape == (256, 256, 3)
    assert pixels(large.heat).shape[:2] == (128, 128)
    assert pixels(small.picture).shape == (48, 48, 3)
    assert small.heat is None


def test_a_full_gallery_makes_a_file_that_can_be_sent():
    """Noise is the worst that a picture can do to a compressed file."""
    rng = np.random.default_rng(0)
    gallery = Gallery(samples_of([0, 1]), None)
    noise = torch.from_numpy(rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    maps = rng.random((2, 256, 256), dtype=np.float32)
    gallery.see(Batch([0, 1], noise), np.zeros(2, np.float32), maps)
    largest = max(len(data_uri(s.picture) + data_uri(s.heat)) for s in gallery.shown)
    assert largest * (2 * (HARDEST + EASIEST) + gallery_module.KINDS * OF_EACH_KIND) < 15e6


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_pictures_shape_is_that_of_what_is_read(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == read_picture(tmp_path / "a.jpg").shape[1::-1]


def test_the_colours_of_the_page_are_those_of_heat_maps():
    table = colour_table()
    assert table.shape == (256, 4)
    assert table[0, 3] == 0  # nothing found: nothing covered
    assert tuple(table[255]) == (200, 0, 30, round(0.75 * 255))


# --- the page ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["</script><script>alert(1)</script>", "<!--<script>", "&lt;", "\u2028", "\udce9", '"', "日本"],
)
def test_texts_in_the_data_can_neither_end_nor_start_anything(text):
    written = to_script_json({text: [text]})
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert json.loads(written) == {text: [text]}


def test_a_page_runs_its_own_script_only_and_loads_nothing(tmp_path):
    title = "</title><script>alert(1)</script>\udce9"
    write_page(tmp_path / "a.html", "run", title, {"a": "{{style}}"})
    page = Page(tmp_path / "a.html")
    assert page.data == {"a": "{{style}}"}
    assert page.tags.count("script") == 2
    assert page.texts["title"].startswith("</title><script>")
    for kind, text in (("style", page.texts["style"]), ("script", page.texts["module"])):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    text = (tmp_path / "a.html").read_text()
    assert "{{" not in text.replace('"{{style}}"', "")
    outside = set(re.findall(r"https?://[^\s\"'`]+", text)) - {"http://www.w3.org/2000/svg"}
    assert not outside


def test_a_page_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_page(tmp_path / "nowhere" / "a.html", "run", "", {})


# --- the report of one run ---------------------------------------------------------------------


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


def test_good_pictures_alone_have_a_report_without_pictures(mean_picture, tmp_path):
    (tmp_path / "parts").mkdir()
    for n in range(10):
        Image.fromarray(make_picture(n, size=32)[0]).save(tmp_path / "parts" / f"{n}.png")
    run = tmp_path / "run"
    result = train("folder", "all", mean_picture, data_root=tmp_path / "parts", output_dir=run)
    for page in (result.report, write_report(run, output=tmp_path / "a.html")):
        data = Page(page).data
        assert (data["scores"], data["gallery"], data["kinds"]) == ([], [], [])
        assert "The data have no test pictures: there are no figures." in data["notes"]


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


# --- the report of several runs ----------------------------------------------------------------


@pytest.fixture
def two_runs(mean_picture, toy_root, tmp_path):
    """The same model twice: the second one has no threshold that divides the pictures."""
    runs = [tmp_path / name for name in ("a", "b")]
    for run, gain in zip(runs, (1.0, 2.0), strict=True):
        train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=run,
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
