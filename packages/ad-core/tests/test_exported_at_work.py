"""What `ad` passes on to ad-runtime: many pictures, a watched folder, times."""

import json
import subprocess
import sys
import warnings

import pytest
from PIL import Image
from report_pages import Page

from ad.core import train, write_report
from ad.core.errors import ModelFileError
from ad.runtime.bench import benchmark as bench
from ad.runtime.bench import measuring


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    pytest.importorskip("onnx", reason="ad-core alone has no engine")
    from tiny_export import make_export

    return make_export(tmp_path_factory.mktemp("at-work") / "export").path


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    for name, level in (("a", 51), ("b", 204)):
        Image.new("L", (8, 8), level).save(tmp_path / f"in/{name}.png")
    return tmp_path / "in"


@pytest.fixture
def in_this_process(monkeypatch):
    """Times are taken here, where plug-ins of tests are known; what was asked for."""
    asked = []

    def apart(way, threads, picture, number):
        asked.append({**way.given, "threads": threads})
        module, _, name = way.opener.partition(":")
        opener = getattr(__import__(module, fromlist=[name]), name)
        given = {**way.given, "threads": threads}
        with warnings.catch_warnings(action="ignore"):
            return measuring.measure(opener, given, picture, pictures=number, began=0.0)

    monkeypatch.setattr(bench, "_apart", apart)
    return asked


def test_an_export_is_at_work_without_torch(export, pictures, tmp_path):
    said = f"{['ad', 'predict', str(export), str(pictures), '--output', str(tmp_path / 'out')]}"
    code = (
        f"import sys; sys.argv = {said}; from ad.core.cli import _run\n"
        "try:\n    _run()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "assert not {'torch', 'scipy', 'timm'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert (tmp_path / "out/predictions.csv").exists()
    assert len(Page(tmp_path / "out/report.html").data["gallery"]) == 2


def test_many_pictures_of_an_export(run_ad, export, pictures, tmp_path):
    given = ("predict", export, pictures, "--output", tmp_path / "r.jsonl", "--workers", 1)
    status, out, _ = run_ad(*given, "--save-maps", tmp_path / "maps", "--json")
    assert status == 0
    assert json.loads(out)["verdicts"] == {"defective": 1, "good": 1}
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
    assert len([*(tmp_path / "maps").iterdir()]) == 2
    again = (*given, "--save-maps", tmp_path / "maps", "--json", "--resume")
    for declined, told in [
        ((), "without heat maps and `report.html`, which are not written of many pictures"),
        (("--no-heatmaps",), "without `report.html`, which"),
        (("--no-heatmaps", "--no-report"), None),
        (("--quiet",), None),
    ]:
        status, out, err = run_ad(*again, *declined)
        assert (status, json.loads(out)["before"]) == (0, 2)
        assert told in err if told else "without" not in err
    for wanted in ("--heatmaps", "--report"):
        status, _, err = run_ad(*again, wanted)
        assert status == 1
        assert f"`{wanted}`: many pictures (`--workers`" in err
        assert "`--save-maps DIR` keeps the maps." in err
    status, _, err = run_ad(*given, "--shard", "1of2")
    assert status == 2
    assert "K/N" in err
    status, _, err = run_ad(*given, "--colours", "picture")
    assert status == 1
    assert "`--colours picture` is for heat maps, and many pictures (`--workers`" in err
    status, _, err = run_ad(*given, "--precision", "bf16")
    assert status == 1
    assert "an exported model has its own" in " ".join(err.split())
    status, _, err = run_ad("predict", tmp_path, pictures, "--resume")
    assert status == 1
    assert "are for what `ad export` wrote" in " ".join(err.split())
    assert "hint: ad export" in err


def test_a_watched_folder(run_ad, export, pictures):
    given = ("watch", export, pictures, "--once", "--interval", 0.01, "--threads", 1)
    status, out, _ = run_ad(*given)
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["good", "defective"]
    assert run_ad(*given)[:2] == (0, "")


def test_times_of_a_run_are_in_its_report(
    run_ad, in_this_process, mean_picture, toy_root, tmp_path, monkeypatch
):
    monkeypatch.setattr("ad.core.devices._fast_cpu", lambda: "bf16, as if it were fast")
    run = train("mvtec", "toy", mean_picture, data_root=toy_root, output_dir=tmp_path / "run").run
    given = ("benchmark", run, "--pictures", 2, "--threads", "1", "--size", "8x9")
    status, out, _ = run_ad(*given, "--json", "--save")
    assert status == 0
    found = json.loads(out)
    assert (found["size"], found["model"]) == ([8, 9], mean_picture)
    assert [one["precision"] for one in in_this_process] == ["bf16", "fp32"]
    assert found["speeds"][0]["engine"].startswith("torch ")
    assert json.loads((run / "benchmark.json").read_text()) == found
    shown = Page(write_report(run)).data["speeds"]
    assert shown["rows"][0][:2] == [found["speeds"][0]["engine"], "1"]
    status, out, _ = run_ad(*given)
    assert out.splitlines()[0].split() == [
        *("engine", "threads", "p50", "p95", "p99", "CPU", "start", "MB"),
    ]  # fmt: skip
    status, _, err = run_ad(*given, "--engine", "openvino")
    assert status == 1
    assert "is a run, which torch computes" in " ".join(err.split())
    (run / "benchmark.json").write_text("{}")
    with pytest.raises(ModelFileError, match="is not what `ad benchmark --save` writes"):
        write_report(run)


def test_times_of_an_export(run_ad, in_this_process, export):
    status, out, _ = run_ad(
        *("benchmark", export, "--pictures", 2, "--threads", "1,2", "--engine", "onnxruntime"),
        "--json",
    )
    assert status == 0
    assert [one["threads"] for one in in_this_process] == [1, 2]
    assert json.loads(out)["size"] == [32, 32]
