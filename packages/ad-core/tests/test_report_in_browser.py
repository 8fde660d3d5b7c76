"""The report's pages in a real browser, driven over its DevTools pipe."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ad.core import evaluate, train, write_report
from ad.core.report.page import data_uri
from ad.core.report.webp import encoded
from ad.core.testing.pictures import make_picture, write_mvtec_tree
from ad.runtime.bench.benchmark import Benchmark, Speed, save
from ad.runtime.framing import Size


@pytest.fixture
def trained(mean_picture, tmp_path):
    root = write_mvtec_tree(tmp_path / "data", size=32, good=6, bad=40)
    return train("mvtec", "toy", mean_picture, data_root=root, output_dir=tmp_path / "run")


@pytest.fixture
def page(browser, trained):
    browser.open(trained.report)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []


def test_times_that_were_saved_are_a_table(browser, trained):
    saved = Benchmark(
        model="m",
        size=Size(64, 48),
        pictures=7,
        machine="a machine",
        cores=2,
        speeds=(
            Speed(
                engine="torch <b> fp32",
                threads=2,
                p50=12.345,
                p95=20.0,
                p99=30.0,
                per_second=81.0,
                cpu_seconds=0.0246,
                memory=None,
                start_seconds=3.21,
            ),
        ),
    )
    browser.open(write_report(trained.run))
    assert browser.run("document.getElementById('speeds').hidden")
    save(saved, trained.run)
    browser.open(write_report(trained.run))
    rows = browser.run(
        "[...document.querySelectorAll('#speeds tr')].map((row) => "
        "[...row.cells].map((cell) => cell.textContent))"
    )
    assert rows[1:] == [
        ["torch <b> fp32", "2", "12.35", "20", "30", "81", "24.6", "-", "3.21"],
    ]  # fmt: skip
    assert rows[0][:3] == ["engine", "threads", "p50 ms"]
    assert "7 pictures of 64 x 48" in browser.text("#speeds p")
    browser.resize(390, 844)
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.complaints() == []


def counts(page):
    cells = ("passed", "alarms", "missed", "found")
    return {name: int(page.text(f"#{name}")) for name in cells}


def expected(run, threshold):
    """The same counts by Python, from the scores that the run wrote."""
    lines = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    called = [(line["label"], line["score"] > threshold) for line in lines]
    names = {(0, False): "passed", (0, True): "alarms", (1, False): "missed", (1, True): "found"}
    return {name: called.count(key) for key, name in names.items()}


def threshold_of(page):
    return page.run("Number(document.getElementById('number').value)")


def cards(page):
    return page.run(
        "[...document.querySelectorAll('#gallery .card')].map(c => [c.querySelector('.name')"
        ".textContent, c.querySelector('.badge').textContent])"
    )


def test_the_page_opens_at_the_saved_threshold(page, trained):
    assert threshold_of(page) == trained.threshold
    assert counts(page) == expected(trained.run, trained.threshold)
    verdicts = trained.evaluation.verdicts
    assert page.text("#lead") == (
        f"At its threshold it finds {verdicts.found} of 40 defective pictures and calls "
        f"{verdicts.false_alarms} of 6 good ones defective."
    )
    assert page.text("h1") == "mean-picture on mvtec toy"
    assert page.run("document.getElementById('moved').hidden")
    figures = page.run("[...document.querySelectorAll('#figures .value')].map(v => v.textContent)")
    assert figures == [f"{value:.3f}" for value in trained.metrics.values()]


def test_arrow_keys_move_the_threshold_by_one_picture(page, trained):
    page.run("document.getElementById('slider').focus()")
    before = counts(page)
    for presses in (1, 2, 3):
        page.press("ArrowRight")
        now = counts(page)
        assert now == expected(trained.run, threshold_of(page))
        assert now["passed"] + now["missed"] == before["passed"] + before["missed"] + presses
    page.press("ArrowLeft", 3)
    assert counts(page) == before
    assert not page.run("document.getElementById('moved').hidden")
    assert "which the saved model keeps" in page.text("#moved")


def test_moving_the_threshold_moves_verdicts_rates_kinds_and_order(page, trained):
    page.run("document.getElementById('slider').focus()")
    page.press("ArrowRight", 20)
    threshold, now = threshold_of(page), counts(page)
    assert now == expected(trained.run, threshold)
    assert now["missed"] > 0
    assert f"{now['found']} of 40 defective pictures" in page.text("#rates")
    assert page.run(
        "[...document.querySelectorAll('#kinds tbody tr')].map(r => r.children[2].textContent)"
    ) == [str(now["alarms"]), str(now["found"])]
    lines = [json.loads(line) for line in (trained.run / "scores.jsonl").read_text().splitlines()]
    wrong = {
        "/".join(line["path"].split("/")[-2:]): (
            threshold - line["score"] if line["label"] else line["score"] - threshold
        )
        for line in lines
    }
    order = sorted(wrong, key=lambda name: -wrong[name])
    shown = cards(page)
    assert [name for name, _ in shown] == order[: len(shown)]
    assert shown[0][1] == "missed: square"
    mistakes = [badge for _, badge in shown if badge.startswith(("missed", "false alarm"))]
    assert len(mistakes) == min(len(shown), now["missed"] + now["alarms"])


@pytest.mark.parametrize(
    ("button", "free_of"), [("Every defect found", "missed"), ("No false alarm", "alarms")]
)
def test_a_button_finds_the_threshold_without_errors_of_a_kind(page, trained, button, free_of):
    page.run(
        "[...document.querySelectorAll('#presets button')].find(b => b.textContent === "
        f"'{button}').click()"
    )
    assert counts(page)[free_of] == 0
    assert counts(page) == expected(trained.run, threshold_of(page))
    page.run("document.querySelector('#presets button').click()")
    assert threshold_of(page) == trained.threshold


def test_the_best_f1_is_the_best_of_all_thresholds(page, trained):
    page.run("[...document.querySelectorAll('#presets button')].at(-1).click()")

    def f1(at):
        return 2 * at["found"] / (2 * at["found"] + at["missed"] + at["alarms"])

    assert f1(counts(page)) == pytest.approx(trained.metrics["image_f1max"])


KEEP = "getComputedStyle(document.getElementById('keep')).display !== 'none'"


def command_of(page):
    """What follows ``ad calibrate`` in the command beside the slider."""
    return page.text("#keep-command").removeprefix("ad calibrate RUN ").split()


@pytest.mark.parametrize("moves", [1, 4, 11, -1])
def test_the_command_beside_the_slider_gives_the_detector_the_verdicts_that_it_shows(
    page, trained, run_ad, moves
):
    assert not page.run(KEEP)  # the saved one needs no command
    page.run("document.getElementById('slider').focus()")
    page.press("ArrowRight" if moves > 0 else "ArrowLeft", abs(moves))
    assert page.run(KEEP)
    shown, at = counts(page), threshold_of(page)
    option, number = command_of(page)
    assert (option, float(number)) != ("--threshold", at)  # which is the score of a picture
    assert len(number.strip("0.")) <= 8
    assert f"--threshold {number}" in page.text("#next")
    assert f"threshold={number})" in page.text("#next")
    run_ad("calibrate", trained.run, option, number)
    verdicts = evaluate(trained.run, report=False).verdicts
    assert (verdicts.found, verdicts.false_alarms) == (shown["found"], shown["alarms"])


def test_every_threshold_is_typed_so_that_it_separates_the_same_pictures(page, trained):
    lines = [json.loads(line) for line in (trained.run / "scores.jsonl").read_text().splitlines()]
    scores = np.unique([line["score"] for line in lines])
    between = (scores[1:] + scores[:-1]) / 2
    wanted = [-3.0, *scores, *between, *np.nextafter(scores, 9), *np.nextafter(scores, -9), 77.121]
    for threshold in wanted:
        page.run(
            f"document.getElementById('number').value = {float(threshold)!r};"
            "document.getElementById('number').dispatchEvent(new Event('change'))"
        )
        number = float(command_of(page)[1])
        assert ((scores > number) == (scores > threshold)).all()
        assert np.abs(scores - number).min() > 1e-4 * np.diff(scores).min()
    assert number == 77.12  # four digits are enough there
    page.run("document.querySelector('#presets button').click()")
    assert not page.run(KEEP)


def test_the_command_can_be_copied_by_keyboard(page):
    page.run("[...document.querySelectorAll('#presets button')].at(-1).click()")
    page.run("window.copied = []; navigator.clipboard.writeText = async text => copied.push(text);"
             "document.getElementById('keep-copy').focus()")  # fmt: skip
    page.press("Enter")
    assert page.run("copied") == [page.text("#keep-command")]
    assert page.text("#keep-copy") == "Copied"
    page.run("navigator.clipboard.writeText = async () => { throw new Error('no'); }")
    page.press("Enter")
    page.settle()
    assert page.text("#keep-copy") == "Marked"
    assert page.run("getSelection().toString()") == page.text("#keep-command")


def test_the_gallery_shows_more_and_less_when_asked(page):
    assert len(cards(page)) == 24
    page.run("document.getElementById('more').focus()")
    page.press("Enter")
    assert len(cards(page)) == 46
    assert (
        page.run("document.activeElement.querySelector('.name').textContent")
        == (cards(page)[24][0])
    )
    page.run("const s = document.getElementById('show'); s.value = 'passed';"
             "s.dispatchEvent(new Event('change'))")  # fmt: skip
    assert {badge for _, badge in cards(page)} <= {"passed: good"}


def test_a_picture_can_be_looked_at_by_keyboard_alone(page):
    page.run("document.getElementById('outline').focus()")
    page.press("Tab")
    assert page.run("document.activeElement.className").startswith("card")
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.press("Enter")
    assert page.run("document.getElementById('viewer').open")
    names = [name for name, _ in cards(page)]
    assert page.text("#viewer-title") == names[0]
    page.press("ArrowRight", 2)
    page.settle()
    assert page.text("#viewer-title") == names[2]
    page.press("Escape")
    assert not page.run("document.getElementById('viewer').open")
    assert page.run("document.activeElement.querySelector('.name').textContent") == names[2]


def test_the_map_covers_the_defect_and_can_be_made_to_vanish(page):
    hottest = (
        "(() => { const c = document.querySelector('.card .heat'); const p = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return Math.max(...p.filter((_, i) => "
        "i % 4 === 3)); })()"
    )
    assert page.run(hottest) > 100
    outline = hottest.replace(".heat", ".mask")
    assert page.run(outline) == 255
    opacity = "getComputedStyle(document.querySelector('.card .heat')).opacity"
    assert page.run(opacity) == "0.75"
    page.run("const o = document.getElementById('opacity'); o.value = 0;"
             "o.dispatchEvent(new Event('input'))")  # fmt: skip
    assert page.run(opacity) == "0"


def test_the_outline_by_the_detectors_own_test_is_blue_and_can_be_switched_off(
    browser, trained, tmp_path
):
    page = trained.report.read_text()
    assert page.count('"outlines":""') == 1
    one = data_uri(encoded(Image.new("L", (32, 32), 255), lossless=True))
    page = page.replace('"outlines":""', '"outlines":"brighter than half"')
    page = page.replace('"outline":null', f'"outline":"{one}"')
    (tmp_path / "with.html").write_text(page)
    browser.open(tmp_path / "with.html")
    assert browser.complaints() == []
    corner = (
        "[...document.querySelector('.card .outline').getContext('2d')"
        ".getImageData(0, 0, 1, 1).data]"
    )
    assert browser.run(corner) == [0x4D, 0xA3, 0xFF, 255]
    assert "brighter than half" in browser.run("document.body.innerText")
    shown = "getComputedStyle(document.querySelector('.card .outline')).display"
    assert browser.run(shown) == "block"
    browser.run("document.getElementById('own').click()")
    assert browser.run(shown) == "none"
    browser.open(trained.report)
    assert "own test" not in browser.run("document.body.innerText")


@pytest.mark.parametrize("size", [(60, 20), (20, 60)])
def test_long_pictures_keep_their_shape_and_stay_in_their_frame(
    browser, mean_picture, tmp_path, size
):
    root = write_mvtec_tree(tmp_path / "data", size=32)
    for path in (root / "toy").rglob("*.png"):
        with Image.open(path) as image:
            image.resize(size).save(path)
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=root, output_dir=run)
    browser.open(run / "report.html")
    browser.run("document.querySelector('.card').click()")
    boxes = browser.run(
        "['.card .frame', '.card .layers', '#viewer', '#viewer .layers'].map(s => {"
        "const b = document.querySelector(s).getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom]; })"
    )
    for (left, top, right, bottom), inner in ((boxes[0], boxes[1]), (boxes[2], boxes[3])):
        assert left <= inner[0] < inner[2] <= right
        assert top <= inner[1] < inner[3] <= bottom
        assert (inner[2] - inner[0]) / (inner[3] - inner[1]) == pytest.approx(
            size[0] / size[1], rel=0.02
        )
    frame = boxes[0]
    assert frame[2] - frame[0] == pytest.approx(frame[3] - frame[1], abs=1)


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_the_page_never_scrolls_sideways(page, trained, width):
    page.open(trained.report, width=width, height=700)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('.card').click()")
    assert page.run("document.getElementById('viewer').getBoundingClientRect().width") <= width


def test_light_and_dark_follow_the_system(page, trained):
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.run(colour) == "rgb(255, 255, 255)"
    page.open(trained.report, dark=True)
    assert page.run(colour) != "rgb(255, 255, 255)"


def test_all_verdicts_can_be_saved(page, trained):
    page.run(
        "window.saved = new Promise(done => { URL.createObjectURL = blob => {"
        " blob.text().then(done); return 'data:,'; }; });"
        "HTMLAnchorElement.prototype.click = () => {};"
        "document.getElementById('save').click()"
    )
    header, *rows = page.run("window.saved").split("\r\n")
    assert header.startswith('"folder","picture","category","kind","truth","score"')
    assert len(rows) == 46
    now = expected(trained.run, trained.threshold)
    assert sum(row.endswith('"found"') for row in rows) == now["found"]


def test_names_of_strangers_are_shown_and_do_nothing(browser, mean_picture, tmp_path):
    kind = '"><img src=x onerror=window.harm=1>'
    names = ["a<script>window.harm=1<.png", os.fsdecode(b"caf\xe9.png"), "=cmd().png"]
    for folder, files in (("good", [f"{n}.png" for n in range(10)]), (kind, names)):
        (tmp_path / "parts" / folder).mkdir(parents=True)
        for n, name in enumerate(files):
            picture, _ = make_picture(n, size=32, defect=folder == kind)
            Image.fromarray(picture).save(tmp_path / "parts" / folder / name)
    run = tmp_path / "run"
    train("folder", "all", mean_picture, data_root=tmp_path / "parts", output_dir=run)
    browser.open(run / "report.html")
    shown = [name for name, _ in cards(browser)]
    assert f"{kind}/{names[0]}" in shown
    assert f"{kind}/caf\ufffd.png" in [name.replace("\udce9", "\ufffd") for name in shown]
    write_report([run, run], output=tmp_path / "both.html")
    browser.open(tmp_path / "both.html")
    for path in (run / "report.html", tmp_path / "both.html"):
        browser.open(path)
        assert browser.run("window.harm") is None
        assert browser.complaints() == []
        assert browser.requests() == []


def test_a_script_that_got_into_the_page_would_not_run(browser, trained, tmp_path):
    """The policy holds even where the escaping would not."""
    html = trained.report.read_text().replace("<h1", "<script>window.harm = 1</script><h1")
    (tmp_path / "harmed.html").write_text(html)
    browser.open(tmp_path / "harmed.html")
    assert browser.run("window.harm") is None
    assert "Content Security Policy" in str(browser.complaints())


@pytest.mark.parametrize("kind", ["no threshold", "no pictures"])
def test_a_run_with_less_in_it_has_a_page_too(browser, mean_picture, tmp_path, kind):
    root = write_mvtec_tree(tmp_path / "data", size=32)
    holdout = 0
    if kind == "no pictures":
        for folder in ("good", "square"):
            for path in (root / "toy/test" / folder).iterdir():
                path.unlink()
    run = tmp_path / "run"
    train("mvtec", "toy", mean_picture, data_root=root, output_dir=run, holdout=holdout)
    browser.open(run / "report.html")
    hidden = browser.run("document.getElementById('gallery-part').hidden")
    assert hidden == (kind == "no pictures")
    if not hidden:
        assert "no threshold of its own" in browser.text("#moved")
        assert "no scale yet" in browser.text("#keep-words")
        assert command_of(browser) == ["--normals", "DIR"]
        assert counts(browser)["found"] == 4
    assert browser.complaints() == []


def test_several_runs_stand_side_by_side(browser, mean_picture, trained, tmp_path):
    other = tmp_path / "other run"
    train("mvtec", "toy", mean_picture, data_root=tmp_path / "data", output_dir=other,
          model={"gain": 2.0}, holdout=0.5)  # fmt: skip
    page = write_report([trained.run, other], output=tmp_path / "both.html")
    browser.open(page, width=320)
    assert browser.run("document.documentElement.scrollWidth") <= 320
    sides = browser.run(  # models stay in view beside their last column
        "['verdicts', 'wrong'].map(id => { const part = document.getElementById(id);"
        "part.scrollLeft = 9999; return [part.scrollLeft, part.getBoundingClientRect().left,"
        "part.querySelector('tbody th').getBoundingClientRect().left]; })"
    )
    assert all(moved > 0 and left == edge for moved, edge, left in sides)
    cells = "[...document.querySelectorAll('#figures td')].map(c => c.textContent)"
    assert browser.run(cells)[0].startswith(f"{trained.metrics['image_auroc']:.3f}")
    browser.run("const f = document.getElementById('figure'); f.value = 'aupro';"
                "f.dispatchEvent(new Event('change'))")  # fmt: skip
    assert browser.run(cells)[0].startswith(f"{trained.metrics['aupro']:.3f}")
    assert "gain" in browser.text("#settings")
    assert browser.complaints() == []
    link = browser.run("document.querySelectorAll('#runs a')[1].href")
    assert link == (other / "report.html").as_uri()
