"""Times of an exported model: what is computed from them, and what is measured at all."""

import json

import pytest
from tiny_export import make_export

from ad.runtime.bench import measuring
from ad.runtime.bench.benchmark import Benchmark, Speed, benchmark, read, save
from ad.runtime.cli import main
from ad.runtime.errors import ModelFileError, SettingError, WorkerError
from ad.runtime.framing import Size


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("bench") / "export").path


def speed(**changes):
    found = {
        "engine": "onnxruntime 1.32.0 fp32 cpu",
        "milliseconds": [*range(100, 0, -1)],
        "cpu": 0.25,
        "memory": 3 * 10**8,
        "start": 1.5,
    }
    return Speed.of({**found, **changes}, 2)


def of(*speeds):
    return Benchmark(model="m", size=Size(32, 48), pictures=9, machine="x", cores=2, speeds=speeds)


def test_percentiles_are_those_of_the_nearest_rank():
    one = speed()
    assert (one.p50, one.p95, one.p99) == (50, 95, 99)
    assert one.per_second == pytest.approx(1000 * 100 / 5050)
    assert speed(milliseconds=[7]).p50 == speed(milliseconds=[7]).p99 == 7


def test_a_table_has_80_columns():
    long = {"engine": "openvino 2026.4.0-19999-abcdef fp32 cpu", "milliseconds": [123456.789]}
    lines = of(speed(**long, cpu=99.9876, start=123.45), speed(memory=None)).table()
    assert max(map(len, lines)) <= 80
    assert lines[2].split() == [
        *("onnxruntime", "1.32.0", "fp32", "cpu", "2", "50", "95", "99", "250", "1.5", "-"),
    ]


def test_what_is_measured_is_each_picture_and_the_start(tmp_path, monkeypatch):
    clock = {"wall": 100.0, "cpu": 0.0}
    seen = []

    def predict(picture):
        seen.append(picture)
        clock["wall"] += 2 if len(seen) == 1 else 0.25
        clock["cpu"] += 0.5

    monkeypatch.setattr(measuring.time, "time", lambda: clock["wall"])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: clock["wall"])
    monkeypatch.setattr(measuring.time, "process_time", lambda: clock["cpu"])
    found = measuring.measure(
        lambda a: (predict, f"engine {a}"), {"a": 1}, tmp_path, pictures=5, began=99.0
    )
    assert found["engine"] == "engine 1"
    assert found["start"] == 3
    assert found["milliseconds"] == [250] * 5
    assert found["cpu"] == 0.5
    assert found["memory"] > 10**7


def test_the_command_times_a_process_for_each_number_of_threads(export, capsys):
    command = ["bench", str(export), "--engine", "onnxruntime", "--pictures", "3", "--size", "9x7"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--threads", "1,2", "--json", "--save"])
    assert ended.value.code == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [one["threads"] for one in found["speeds"]] == [1, 2]
    assert (found["size"], found["pictures"], found["model"]) == ([9, 7], 3, "bright")
    for one in found["speeds"]:
        assert one["engine"].startswith("onnxruntime ")
        assert 0 < one["p50"] <= one["p95"] <= one["p99"] < 1000 * one["start_seconds"]
        assert one["memory"] > 2 * 10**7
    file = export.with_name("export-benchmark.json")
    assert str(file) in captured.err
    assert read(file) == found
    assert main_fails(["info", str(export)]) == 0  # nothing was added to it


def main_fails(command):
    with pytest.raises(SystemExit) as ended:
        main(command)
    return ended.value.code


def test_what_cannot_be_timed_is_refused(export, tmp_path, monkeypatch):
    for settings, words in [
        ({"engine": "torch"}, "`engine` must be all or one of onnxruntime, openvino; got 'torch'"),
        ({"threads": [0]}, "`threads` must be a whole number from 1"),
        ({"size": (0, 9)}, "`size` must be"),
        ({"pictures": 0}, "`pictures` must be"),
    ]:
        with pytest.raises(SettingError) as error:
            benchmark(export, **settings)
        assert words in str(error.value)
    with pytest.raises(ModelFileError):
        benchmark(tmp_path)
    monkeypatch.setattr("ad.runtime.bench.benchmark.find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"None of the engines .*: onnxruntime, openvino"):
        benchmark(export)
    monkeypatch.setattr("ad.runtime.bench.benchmark.sys.executable", "false")
    with pytest.raises(WorkerError, match="`onnxruntime` ended with status 1"):
        benchmark(export, engine="onnxruntime")
    assert main_fails(["bench", str(export), "--size", "axb"]) == 2
    assert main_fails(["bench", str(export), "--threads", "1,x"]) == 2


def test_a_saved_benchmark_is_read_and_another_file_refused(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    file = save(of(speed(), speed(memory=None)), tmp_path)
    assert file == tmp_path / "benchmark.json"
    values = json.loads(file.read_text())
    assert read(file) == values
    for changed in [
        [],
        {**values, "schema": 2},
        {**values, "speeds": 3},
        {**values, "speeds": [{**values["speeds"][0], "p50": "<b>"}]},
        {**values, "speeds": [{**values["speeds"][0], "engine": 3}]},
        {**values, "size": [1]},
    ]:
        file.write_text(json.dumps(changed))
        with pytest.raises(ModelFileError):
            read(file)
