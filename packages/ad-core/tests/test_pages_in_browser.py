"""Predictions, good pictures and the switch of colours in a real browser."""

import numpy as np
import pytest
from PIL import Image

from ad.core import ModelRegistry, train
from ad.core.jobs.inspect import inspect
from ad.core.testing.pictures import make_picture, write_mvtec_tree


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A run and what it predicts on its test pictures, one of which has a faint defect."""
    tmp = tmp_path_factory.mktemp("pages")
    ModelRegistry.register(
        "mean-of-pages",
        "ad.core.testing.mean_picture:MeanPictureTrainer",
        {"gain": 1.0},
        {"num_epochs": 1, "batch_size": 4, "img_size": 32, "normalize": False},
    )
    root = write_mvtec_tree(tmp / "data", size=32, good=6, bad=30)
    faint = make_picture(77, size=32)[0].astype(int)
    faint[8:16, 8:16] += 6
    Image.fromarray(faint.clip(0, 255).astype(np.uint8)).save(root / "toy/test/square/faint.png")
    (root / "toy/ground_truth/square/faint_mask.png").write_bytes(
        (root / "toy/ground_truth/square/000_mask.png").read_bytes()
    )
    run = train("mvtec", "toy", "mean-of-pages", data_root=root, output_dir=tmp / "run").run
    (root / "toy/test/broken.png").write_bytes(b"no picture")
    yield run, inspect(run, [root / "toy/test"], output=tmp / "out")
    ModelRegistry.unregister("mean-of-pages")


@pytest.fixture
def page(browser, found):
    browser.open(found[1].report)
    yield browser
    assert browser.complaints() == []
    assert browser.requests() == []


NAMES = "[...document.querySelectorAll('#gallery .name')].map(n => n.textContent)"
BADGES = "[...document.querySelectorAll('#gallery .badge')].map(n => n.textContent)"


def choose(page, element, value):
    page.run(
        f"(() => {{ const e = document.getElementById('{element}'); e.value = '{value}';"
        "e.dispatchEvent(new Event('change')); })()"
    )
    page.settle()


def most_coloured(page, place):
    """The largest alpha of the map on a card."""
    return page.run(
        f"(() => {{ const c = document.querySelectorAll('#gallery .card')[{place}]"
        ".querySelector('canvas.heat'); const o = new OffscreenCanvas(c.width, c.height)"
        ".getContext('2d', { willReadFrequently: true }); o.drawImage(c, 0, 0);"
        "return Math.max(...o.getImageData(0, 0, c.width, c.height).data"
        ".filter((_, i) => i % 4 === 3)); })()"
    )


def test_predictions_are_shown_with_verdicts_that_the_slider_moves(page, found):
    rows = [row for row in found[1].rows if row.error is None]
    called = sum(row.verdict == "defective" for row in rows)
    assert (
        page.text("#lead") == f"{called} of 37 pictures are called defective; 1 could not be read."
    )
    ranked = sorted(rows, key=lambda row: -row.score)
    assert [name.rsplit("/")[-1] for name in page.run(NAMES)] == [r.path.name for r in ranked[:24]]
    assert page.text("#counts") == (
        f"{called} of 37 pictures called defective, {37 - called} called good."
    )
    assert "broken.png" in page.text("#unread")
    assert "cannot be read" in page.text("#unread")
    page.run("document.getElementById('slider').focus()")
    page.press("ArrowRight", 3)
    assert page.text("#counts").startswith(f"{called - 3} of 37 pictures called defective")
    assert "at which the verdicts in predictions.csv were made" in page.text("#moved")
    assert page.text("#keep-command").startswith("ad calibrate RUN --threshold ")
    choose(page, "show", "good")
    assert page.run(BADGES) == ["good"] * min(24, 37 - called + 3)
    choose(page, "show", "defective")
    assert set(page.run(BADGES)) == {"defective"}


def test_a_prediction_can_be_looked_at_by_keyboard_with_its_regions(page, found):
    names = page.run(NAMES)
    page.run("document.querySelector('#gallery .card').focus()")
    page.press("Enter")
    assert page.text("#viewer-title") == names[0]
    assert "on the scale from 0 to 1" in page.text("#viewer-text")
    best = max((row for row in found[1].rows if row.error is None), key=lambda row: row.score)
    assert page.run("document.querySelectorAll('#viewer-regions tbody tr').length") >= 1
    x, y, width, height = page.run(
        "[...document.querySelectorAll('#viewer-regions tbody tr:first-child td')]"
        ".slice(0, 4).map(c => Number(c.textContent))"
    )
    box = page.run(
        "['x', 'y', 'width', 'height'].map(n => Number(document.querySelector("
        "'#viewer-pictures .regions .box').getAttribute(n)))"
    )
    assert box == [x, y, width, height]
    assert 0 < width <= 32 >= x + width
    assert best.verdict == "defective"
    page.press("ArrowRight")
    assert page.text("#viewer-title") == names[1]
    page.press("Escape")
    assert page.run("document.activeElement.querySelector('.name').textContent") == names[1]
    shown = "getComputedStyle(document.querySelector('#gallery .regions')).display"
    assert page.run(shown) != "none"
    page.run("document.getElementById('boxes').click()")
    assert page.run(shown) == "none"


@pytest.mark.parametrize("report", ["run", "predictions"])
def test_what_was_missed_is_seen_in_its_own_range_of_colours(browser, found, report):
    run, predicted = found
    browser.open(run / "report.html" if report == "run" else predicted.report)
    choose(browser, "show", "passed" if report == "run" else "good")
    assert most_coloured(browser, 0) < 150
    assert "just below the pixel threshold" in browser.text("#ramp-words")
    choose(browser, "colours", "own")
    assert most_coloured(browser, 0) > 150
    assert "says nothing of the threshold" in browser.text("#ramp-words")
    assert browser.run("document.getElementById('viewer-colours').value") == "own"
    browser.run("document.querySelector('#gallery .card').click()")
    assert "in its own range of colours" in browser.text("#viewer-pictures")
    choose(browser, "viewer-colours", "heat")
    assert "own range" not in browser.text("#viewer-pictures")
    assert most_coloured(browser, 0) < 150
    assert browser.complaints() == []


BEYOND = """[...document.body.querySelectorAll('*')].filter(e => e.checkVisibility()
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 80))"""

CROSSED = """Array.from({ length: 51 }, (_, n) => 20 * n).flatMap(value => {
  const slider = document.getElementById('slider');
  slider.value = value;
  slider.dispatchEvent(new Event('input'));
  const boxes = kind => [...document.querySelectorAll('#plot ' + kind)].map(e => e.getBBox());
  const lines = boxes(':is(.cut, .saved)');
  if (!lines.length) return ['no line'];
  return boxes('text').filter(box => lines.some(line => line.x > box.x
    && line.x < box.x + box.width && line.y < box.y + box.height - 1
    && line.y + line.height > box.y + 1)).map(box => value + ': ' + box.y);
})"""
"""Labels that the line of the threshold, or of the saved one, goes through where it is moved to."""


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_page_scrolls_sideways(browser, found, width):
    for path in (found[0] / "report.html", found[1].report):
        browser.open(path, width=width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(CROSSED) == []
        if width >= 390:  # the table of kinds, too, is in view as a whole
            assert browser.run(BEYOND) == []
        browser.run("document.querySelector('#gallery .card').click()")
        assert browser.run("document.getElementById('viewer').scrollWidth") <= width


def test_every_control_of_predictions_has_a_name(page):
    unnamed = (
        "[...document.querySelectorAll('button, select, input, [tabindex]')].filter(e => "
        "e.checkVisibility() && !(e.textContent.trim() || e.labels?.length "
        "|| e.getAttribute('aria-label'))).map(e => e.outerHTML)"
    )
    assert page.run(unnamed) == []
    assert page.run("document.querySelectorAll('h1').length") == 1


def test_predictions_without_threshold_have_no_verdict_and_no_slider(browser, found, tmp_path):
    root = found[0].parent / "data"
    run = train(
        "mvtec", "toy", "mean-of-pages", data_root=root, output_dir=tmp_path / "r", holdout=0
    ).run
    browser.open(inspect(run, [root / "toy/test/good"], output=tmp_path / "out").report)
    assert browser.text("#lead") == "6 pictures scored, without verdicts."
    assert browser.run("document.getElementById('threshold-part').hidden")
    visible = "[...document.querySelectorAll('#gallery .badge')].some(b => b.checkVisibility())"
    assert not browser.run(visible)
    assert "own range of colours" in browser.text("#ramp-words")
    assert browser.complaints() == []


def test_good_pictures_alone_have_a_page_without_a_word_of_defects(browser, found, tmp_path):
    (tmp_path / "parts").mkdir()
    for n in range(8):
        Image.fromarray(make_picture(n, size=32)[0]).save(tmp_path / f"parts/{n}.png")
    run = tmp_path / "run"
    train("folder", "all", "mean-of-pages", data_root=tmp_path / "parts", output_dir=run)
    browser.open(run / "report.html", width=390)
    text = browser.run("document.body.innerText")
    assert "Each of 8 good pictures was scored by a detector that had not seen it" in text
    assert len(browser.run(NAMES)) == 8
    for absent in ("0 of 0", " of 0 ", "undefined", "not defined", "NaN", "Recall", "Kinds"):
        assert absent not in text
    assert "ad evaluate" not in text
    assert "The threshold was set on these pictures" in browser.text("#rates")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.complaints() == []
