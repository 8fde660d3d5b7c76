"""The drawing of accuracy against time, in a real browser."""

import json
import shutil

import pytest

from ad.core import train, write_report


@pytest.fixture
def copies(mean_picture, toy_root, tmp_path):
    """One run, twice."""
    folders = [tmp_path / name for name in ("fast", "slow")]
    train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=folders[0])
    shutil.copytree(*folders)
    return folders


def test_models_are_drawn_by_time_and_accuracy_and_told_in_a_table(browser, copies, tmp_path):
    _, slow = copies
    events = [json.loads(line) for line in (slow / "log.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "tested":
            event["seconds"]["test_per_image"] = 2.5
            event["peak_memory_bytes"] = 3_000_000_000
    (slow / "log.jsonl").write_text("\n".join(map(json.dumps, events)))
    metrics = json.loads((slow / "metrics.json").read_text())
    metrics["categories"]["toy"]["image_auroc"] = 0.25
    (slow / "metrics.json").write_text(json.dumps(metrics))
    browser.open(write_report(copies, output=tmp_path / "both.html"), width=1280)
    rows = browser.run(
        "[...document.querySelectorAll('#speeds tbody tr')].map((row) => "
        "[...row.cells].map((cell) => cell.textContent))"
    )
    assert rows[0][5] == "none is both faster and better"
    assert rows[1][1:4] == ["0.250", "2500", "3"]
    assert rows[1][5] == ""
    points = (
        "[...document.querySelectorAll('#scatter circle')].map((one) => one.getAttribute('{}'))"
    )
    (left, right), (high, low) = (
        [float(at) for at in browser.run(points.format(name))] for name in ("cx", "cy")
    )
    assert left < right
    assert high < low
    assert browser.run(points.format("class")) == ["good", "soft"]
    assert "against time a picture of 2 models" in browser.run(
        "document.querySelector('#scatter svg').getAttribute('aria-label')"
    )
    assert not browser.run("document.querySelector('.chosen')")
    browser.resize(390, 800)
    browser.settle()
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert browser.run("document.querySelector('#scatter svg').clientWidth") <= 390
    assert browser.complaints() == []


def test_no_name_stands_below_the_point_of_another(browser, copies, tmp_path):
    for copy, seconds in zip(copies, (0.0100, 0.0104), strict=True):
        events = [json.loads(line) for line in (copy / "log.jsonl").read_text().splitlines()]
        for event in events:
            if event["event"] == "tested":
                event["seconds"]["test_per_image"] = seconds
        (copy / "log.jsonl").write_text("\n".join(map(json.dumps, events)))
    browser.open(write_report(copies, output=tmp_path / "both.html"), width=390)
    names, points = (
        browser.run(
            f"[...document.querySelectorAll('#scatter {kind}')].map(e => e.getBBox())"
            ".map(b => [b.x, b.x + b.width, b.y + b.height / 2])"
        )
        for kind in ("text:not(.soft)", "circle")
    )
    assert len(points) == 2
    assert names
    for left, right, level in names:
        assert not [at for at, end, y in points if left < (at + end) / 2 < right and y < level + 9]


def test_where_no_time_was_measured_nothing_is_drawn(browser, copies, tmp_path):
    for copy in copies:
        (copy / "log.jsonl").unlink()
    browser.open(write_report(copies, output=tmp_path / "both.html"))
    assert browser.run("document.getElementById('speeds-section').hidden")
    assert browser.complaints() == []
