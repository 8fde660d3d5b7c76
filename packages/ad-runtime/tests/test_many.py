"""Many pictures: nothing is lost or counted twice, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from deadly import load, load_dead
from grey_pictures import check, read, write_pictures
from tiny_export import calibration, make_export

from ad.runtime.cli import main
from ad.runtime.errors import OutputError, SettingError, WorkerError
from ad.runtime.many.ledger import Ledger
from ad.runtime.many.predicting import RETRIES, finished, predict_many
from ad.runtime.many.tasks import Answer, Task


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("many") / "export").path


def test_who_dies_costs_nothing_but_the_picture_that_kills(export, tmp_path):
    names = [*(f"p{n}" for n in range(9)), "deadly", "odd"]
    levels = write_pictures(tmp_path / "p", names)
    (tmp_path / "p/broken.png").write_bytes(b"x")
    levels[str(tmp_path / "p/broken.png")] = None
    result = predict_many(
        export, [tmp_path / "p"], output=tmp_path / "r.jsonl", workers=2, maps=tmp_path / "maps",
        threads=1, load=load,
    )  # fmt: skip
    lines = check(result.output, levels, {"deadly", "odd", "broken"})
    errors = {Path(line["path"]).stem: line["error"] for line in lines if line["error"]}
    assert "alone was killed by SIGKILL while it did" in errors["deadly"]
    assert "An error that nobody foresaw: TypeError: odd.png" in errors["odd"]
    assert "The picture" in errors["broken"]
    assert result.verdicts["error"] == 3
    assert (result.pictures, result.before) == (12, 0)
    for line in lines:
        if line["error"] is None:
            with np.load(line["map"]) as saved:
                assert saved["map"].shape == (8, 8)
                assert float(saved["map"].max()) == pytest.approx(line["score"])
                assert str(saved["path"]) == line["path"]


def test_shards_are_parts_and_the_head_says_so(export, tmp_path):
    levels = write_pictures(tmp_path / "p", [f"p{n}" for n in range(5)])
    found = []
    for k in (1, 2):
        predict_many(export, [tmp_path / "p"], output=tmp_path / f"{k}.jsonl", shard=(k, 2))
        head, lines = read(tmp_path / f"{k}.jsonl")
        assert (head["kind"], head["shard"]) == ("ad-results", [k, 2])
        found.append([line["path"] for line in lines])
    assert sorted(found[0] + found[1]) == sorted(levels)
    assert [len(one) for one in found] == [3, 2]
    resumed = {"output": tmp_path / "2.jsonl", "shard": (2, 2), "resume": True}
    with pytest.raises(OutputError, match="holds regions from another area on, or none"):
        predict_many(export, [tmp_path / "p"], min_area=9, **resumed)
    with pytest.raises(SettingError, match="`min_area` must be 1 or more pixels; got 0"):
        predict_many(export, [tmp_path / "p"], output=tmp_path / "3.jsonl", min_area=0)
    result = predict_many(export, [tmp_path / "p"], output=tmp_path / "9.jsonl", shard=(9, 9))
    assert (result.pictures, len(read(tmp_path / "9.jsonl")[1])) == (0, 0)


class Crew:
    """Scores in this process; dies as a function of the task says."""

    def __init__(self, dies):
        self.dies, self.tasks, self.given = dies, [], []

    def free(self, task):
        return len(self.tasks) < 2

    @property
    def busy(self):
        return bool(self.tasks)

    def give(self, task):
        self.tasks.append(task)
        self.given.append(task)

    def ended(self):
        task = self.tasks.pop()
        if self.dies(task):
            return [(task, Answer(died="died"))]
        return [(task, Answer(lines=tuple({"path": path} for path in task.paths)))]


def test_a_chunk_is_tried_again_twice_and_then_picture_by_picture():
    chunks = [Task(chunk=n, paths=(f"{n}a", f"{n}b", f"{n}c"), names=()) for n in range(3)]
    crew = Crew(lambda task: "1b" in task.paths)
    found = dict((task.chunk, lines) for task, lines in finished(crew, chunks))
    assert [[line["path"] for line in found[n]] for n in range(3)] == [
        [f"{n}a", f"{n}b", f"{n}c"] for n in range(3)
    ]
    assert found[1][1]["verdict"] == "error"
    assert "score" not in found[1][0]
    whole = [task for task in crew.given if task.chunk == 1 and task.place is None]
    assert len(whole) == 1 + RETRIES
    alone = [task.paths for task in crew.given if task.place is not None]
    assert sorted(alone) == [("1a",), ("1b",), ("1c",)]


def test_one_that_dies_before_it_is_ready_is_an_error(export, tmp_path):
    write_pictures(tmp_path / "p", ["a"])
    with pytest.raises(WorkerError, match="killed by SIGKILL before it had loaded the model, 3 ti"):
        predict_many(export, [tmp_path / "p"], output=tmp_path / "r.jsonl", load=load_dead)
    assert not (tmp_path / "r.jsonl").exists()


HEAD = {"export": "e", "inputs": "i", "pictures": 5, "size": 2}


def test_whole_chunks_are_kept_wherever_a_work_was_cut_off(tmp_path):
    file = tmp_path / "r.jsonl"
    chunks = {2: ["e"], 0: ["a", "b"], 1: ["c", "d"]}
    ends = []
    with Ledger(file, HEAD, resume=False) as ledger:
        ledger.begin()
        for chunk, paths in chunks.items():
            ends.append(file.stat().st_size)
            ledger.add(chunk, [{"path": path, "verdict": "good"} for path in paths])
    whole = file.read_bytes()
    ends.append(len(whole))
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        with Ledger(file, {**HEAD, "size": 7}, resume=True) as ledger:
            done = max(0, sum(end <= cut for end in ends) - 1)
            assert ledger.done == {*[*chunks][:done]}
            assert sum(ledger.verdicts.values()) == (0, 1, 3, 5)[done]
            assert file.read_bytes() == whole[: ends[done] if cut >= ends[0] else 0]
            if cut >= ends[0]:
                assert [ledger.of(chunk) for chunk in ledger.chunks] == [
                    range(2), range(2, 4), range(4, 5),
                ]  # fmt: skip
    assert file.read_bytes() == whole


def test_two_do_not_write_to_one_file(tmp_path):
    with Ledger(tmp_path / "r.jsonl", HEAD, resume=False) as ledger:
        ledger.begin()
        with pytest.raises(OutputError, match="Another process writes to"):
            Ledger(tmp_path / "r.jsonl", HEAD, resume=True)


def test_another_work_is_not_gone_on_with(export, tmp_path):
    write_pictures(tmp_path / "p", "abcd")
    file = tmp_path / "r.jsonl"
    predict_many(export, [tmp_path / "p"], output=file)
    whole = file.read_bytes()
    other = make_export(tmp_path / "other", calibration=calibration(0.7)).path
    (tmp_path / "q").mkdir()
    write_pictures(tmp_path / "q", "ab")
    p, q = tmp_path / "p", tmp_path / "q"
    for given, words in [
        ((other, [p], {}), "another exported model, or this one before it was changed (`export`"),
        ((export, [p, q], {}), "another list of pictures"),
        ((export, [p], {"shard": (1, 2)}), "another shard (`shard` is None there, now [1, 2])"),
        ((export, [p], {"threshold": 0.2}), "by another threshold"),
        ((export, [p], {"maps": tmp_path / "m"}), "maps in another folder, or none"),
    ]:
        with pytest.raises(OutputError) as error:
            predict_many(given[0], given[1], output=file, resume=True, **given[2])
        assert words in str(error.value)
        assert file.read_bytes() == whole
        assert not (tmp_path / "m").exists()
    with pytest.raises(OutputError, match="exists already and is never overwritten. Go on with it"):
        predict_many(export, [p], output=file)
    lines = whole.splitlines(keepends=True)
    for damaged, words in [
        ([b"x\n", *lines[1:]], "is no file of results that could be gone on with"),
        ([b"x"], "Line 1 of"),
        ([lines[0], lines[1], lines[1]], "Line 3 of"),
        ([lines[0], b"x\n", lines[2]], "Line 2 of"),
        ([lines[0], lines[1].replace(b'"chunk": 0', b'"chunk": 9')], "Line 2 of"),
    ]:
        file.write_bytes(b"".join(damaged))
        with pytest.raises(OutputError) as error:
            predict_many(export, [p], output=file, resume=True)
        assert words in str(error.value)
        assert file.read_bytes() == b"".join(damaged)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": 0}, "`workers` must be a whole number from 1"),
        ({"executor": "dask"}, "`executor` must be local or ray"),
        ({"shard": (3, 2)}, "with K from 1 to N; got 3/2"),
        ({"batch_size": 0}, "`batch_size` must"),
        ({"output": "r.csv"}, "are written to .jsonl; got `r.csv`"),
    ],
)
def test_settings_that_cannot_be_are_refused(export, tmp_path, settings, words):
    with pytest.raises(SettingError) as error:
        predict_many(export, [tmp_path], **{"output": tmp_path / "r.jsonl", **settings})
    assert words in str(error.value)


def test_maps_of_a_model_without_maps_are_refused(tmp_path):
    whole = make_export(tmp_path / "e", localises=False).path
    write_pictures(tmp_path / "p", ["a"])
    with pytest.raises(SettingError, match="has no maps to save. Leave `--save-maps` "):
        predict_many(whole, [tmp_path / "p"], output=tmp_path / "r.jsonl", maps=tmp_path / "m")
    assert not (tmp_path / "r.jsonl").exists()


def test_the_command_writes_a_file_and_says_what_is_in_it(export, tmp_path, capsys):
    levels = write_pictures(tmp_path / "p", "abc")
    out = tmp_path / "r.jsonl"
    command = ["predict", str(export), str(tmp_path / "p")]
    for extra, status in [
        (["--workers", "1", "--output", str(out), "--json"], 0),
        (["--workers", "1", "--output", str(out), "--resume", "--json"], 0),
    ]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *extra])
        assert ended.value.code == status
        found = json.loads(capsys.readouterr().out)
        assert (found["pictures"], found["verdicts"]) == (3, {"defective": 1, "good": 2})
    assert found["before"] == 3
    check(out, levels)
    for extra, words in [
        (["--resume"], "add `--output FILE.jsonl`"),
        (["--workers", "1", "--heatmaps", "h"], "Take `--save-maps`"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main([*command, *extra])
        assert ended.value.code == 1
        assert words in capsys.readouterr().err


CODE = """
import sys
from deadly import load
from ad.runtime.many.ledger import Ledger
from ad.runtime.many.predicting import predict_many
if __name__ == "__main__":
    predict_many(*sys.argv[1:2], sys.argv[2:3], output=sys.argv[3], resume=True, load=load,
                 threads=1)
"""


def test_a_killed_work_is_gone_on_with(export, tmp_path):
    levels = write_pictures(tmp_path / "p", [f"slow{n:02d}" for n in range(40)])
    out = tmp_path / "r.jsonl"
    (tmp_path / "work.py").write_text(CODE)
    paths = [str(Path(__file__).parent / "shared"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, tmp_path / "work.py", export, tmp_path / "p", out]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stderr=subprocess.PIPE
    )
    try:
        until = time.monotonic() + 60
        while not out.exists() or out.read_bytes().count(b"\n") < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
    before = len(read(out)[1])
    result = predict_many(export, [tmp_path / "p"], output=out, resume=True)
    assert 1 <= before < 40
    assert result.before == before // 10 * 10
    check(out, levels)
