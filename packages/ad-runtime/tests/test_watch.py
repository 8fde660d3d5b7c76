"""A watched folder: each picture has one line and lies where that says, whenever it was killed."""

import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from grey_pictures import write_pictures
from PIL import Image
from tiny_export import calibration, make_export

from ad.runtime import load
from ad.runtime.cli import main
from ad.runtime.errors import DataError, OutputError, SettingError
from ad.runtime.watch import journal, moving
from ad.runtime.watch.journal import Identity, Journal
from ad.runtime.watch.watching import Watched, destinations_of
from ad.runtime.watch.webhook import Webhook


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("watch") / "export").path


@pytest.fixture(scope="module")
def runtime(export):
    return load(export, threads=1)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def add(path, level):
    """A grey picture that appears whole."""
    Image.new("L", (8, 8), level).save(path.with_name("half.part"), "png")
    path.with_name("half.part").replace(path)


def look(runtime, folder, **settings):
    """What is found in one go, and what is said."""
    said = []
    with Watched(runtime, folder, tell=said.append, **settings) as watched:
        return [*watched.lines(interval=0.01, once=True)], said


def written(folder):
    _, *lines = (folder.parent / f"{folder.name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_lines_have_the_regions_of_pictures(runtime, folder):
    add(folder / "b.png", 204)
    ((line,), _) = look(runtime, folder)
    assert line["num_regions"] == 1
    assert line["regions"] == [
        {"x0": 0, "y0": 0, "x1": 8, "y1": 8, "area": 64, "peak": pytest.approx(0.8)}
    ]
    assert written(folder) == [line]
    add(folder / "c.png", 204)
    ((line,), _) = look(runtime, folder, min_area=65)
    assert (line["num_regions"], line["regions"]) == (0, [])
    with pytest.raises(SettingError, match="`min_area` must be 1 or more pixels; got 0"):
        look(runtime, folder, min_area=0)


def test_each_picture_has_one_line_and_a_replaced_one_another(runtime, folder):
    (folder / "sub").mkdir()
    add(folder / "a.png", 51)
    add(folder / "sub/b.png", 204)
    (folder / "broken.png").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    lines, _ = look(runtime, folder)
    found = {Path(line["path"]).name: (line["verdict"], line["score"]) for line in lines}
    assert found["a.png"] == ("good", pytest.approx(0.2))
    assert found["b.png"] == ("defective", pytest.approx(0.8))
    assert found["broken.png"] == ("error", None)
    assert len(lines) == 3
    assert written(folder) == lines
    assert look(runtime, folder)[0] == []
    add(folder / "a.png", 153)
    ((again,), _) = look(runtime, folder)
    assert (Path(again["path"]).name, again["score"]) == ("a.png", pytest.approx(0.6))
    assert len(written(folder)) == 4


def test_a_half_written_picture_waits(runtime, folder, monkeypatch):
    add(folder / "a.png", 51)
    whole = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(whole[:20])
    naps = []

    def sleep(_):
        naps.append(len(naps))
        if naps[-1] < 3:
            (folder / "a.png").write_bytes(whole[: 30 + 10 * naps[-1]])
        elif naps[-1] == 3:
            (folder / "a.png").write_bytes(whole)

    monkeypatch.setattr("ad.runtime.watch.watching.time.sleep", sleep)
    with Watched(runtime, folder) as watched:
        line = next(watched.lines())
    assert (line["verdict"], line["size"]) == ("good", len(whole))
    assert len(naps) == 5


def test_once_leaves_what_is_still_written(runtime, folder, monkeypatch):
    (folder / "a.png").write_bytes(b"x")
    monkeypatch.setattr(
        "ad.runtime.watch.watching.time.sleep", lambda _: (folder / "a.png").write_bytes(b"xy")
    )
    lines, said = look(runtime, folder)
    assert lines == written(folder) == []
    assert said == [f"`{folder / 'a.png'}` is still being written and is left"]


def test_pictures_are_moved_by_verdict_and_over_nothing(runtime, folder, tmp_path):
    names = ("good", "defective", "unreadable")
    destinations = {name: tmp_path / name for name in names}
    (folder / "sub").mkdir()
    add(folder / "sub/a.png", 51)
    add(folder / "b.png", 204)
    (folder / "c.png").write_bytes(b"x")
    (tmp_path / "defective").mkdir()
    (tmp_path / "defective/b.png").write_bytes(b"mine")
    lines, said = look(runtime, folder, destinations=destinations)
    assert said == []
    assert below(folder) == []
    assert [below(tmp_path / name) for name in names] == [
        ["sub/a.png"], ["b-2.png", "b.png"], ["c.png"],
    ]  # fmt: skip
    assert (tmp_path / "defective/b.png").read_bytes() == b"mine"
    assert all(Path(line["moved_to"]).is_file() for line in lines)


def test_marks_stand_beside_pictures(runtime, folder):
    add(folder / "a.png", 51)
    (line,), _ = look(runtime, folder, mark=True)
    mark = folder / "a.png.verdict.json"
    assert json.loads(mark.read_text()) == line
    mark.unlink()  # as if killed before it was written
    assert look(runtime, folder, mark=True)[0] == []
    assert json.loads(mark.read_text()) == line


class KilledError(BaseException):
    """The process ends here."""


STEPS = [
    (journal, "append", "before"),
    (journal, "append", "half"),
    (journal, "append", "after"),
    (moving.os, "link", "before"),
    (moving.os, "link", "after"),
    (moving.Path, "unlink", "after"),
    (moving, "sync_folder", "before"),
]


@pytest.mark.parametrize(("home", "name", "when"), STEPS)
def test_a_kill_at_any_step_loses_and_repeats_nothing(
    runtime, folder, tmp_path, monkeypatch, home, name, when
):
    pictures = {f"{n}.png": 40 + 60 * n for n in range(4)}
    for picture, level in pictures.items():
        add(folder / picture, level)
    destinations = {"good": tmp_path / "good", "defective": tmp_path / "bad"}
    whole, calls = getattr(home, name), []

    def killed(*given, **settings):
        calls.append(given)
        if len(calls) != 3:
            return whole(*given, **settings)
        if when == "half":
            given[0].write(given[2][: len(given[2]) // 2])
        if when == "after":
            whole(*given, **settings)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(home, name, killed)
        with pytest.raises(KilledError):
            look(runtime, folder, destinations=destinations)
    _, said = look(runtime, folder, destinations=destinations)
    assert said == []
    lines = written(folder)
    assert sorted(Path(line["path"]).name for line in lines) == sorted(pictures)
    assert below(folder) == []
    assert below(tmp_path / "good") == ["0.png", "1.png"]
    assert below(tmp_path / "bad") == ["2.png", "3.png"]
    for line in lines:
        assert Path(line["moved_to"]).is_file()
        assert line["score"] == pytest.approx(pictures[Path(line["path"]).name] / 255)


def test_a_process_that_is_killed_again_and_again_counts_every_picture_once(
    runtime, export, folder, tmp_path
):
    out, random_ = tmp_path / "in.jsonl", random.Random(0)
    command = [sys.executable, "-m", "ad.runtime.cli", "watch", export, folder, "--threads", "1"]
    command += ["--interval", "0.01", "--move", f"good={tmp_path / 'good'}"]
    number = 0
    for _ in range(2):
        before = out.read_bytes().count(b"\n") if out.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until = time.monotonic() + 60
            while not out.exists() or out.read_bytes().count(b"\n") < before + 3:
                add(folder / f"{number}.png", number % 256)
                number += 1
                assert process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.01)
            time.sleep(random_.uniform(0, 0.02))
        finally:
            process.kill()
            process.wait()
    look(runtime, folder, destinations={"good": tmp_path / "good"})
    lines = written(folder)
    names = [f"{one}.png" for one in range(number)]
    assert sorted(Path(line["path"]).name for line in lines) == sorted(names)
    assert sorted(below(folder) + below(tmp_path / "good")) == sorted(names)
    for line in lines:
        level = int(Path(line["path"]).stem) % 256
        assert line["score"] == pytest.approx(level / 255)
        assert (line["moved_to"] is not None) == (level <= 127)


def test_a_cut_journal_is_gone_on_with_wherever_it_was_cut(tmp_path):
    file, ends = tmp_path / "j.jsonl", []
    identities = [Identity(tmp_path / f"\udcff{n}", n, 10**18 + n) for n in range(3)]
    with Journal(file, "e", tmp_path) as one:
        for identity in identities:
            ends.append(file.stat().st_size)
            one.add(identity, {"moved_to": None})
    whole = file.read_bytes()
    ends.append(len(whole))
    near = {end + step for end in ends for step in (-1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 9), *near, len(whole)} - {-1, len(whole) + 1}):
        file.write_bytes(whole[:cut])
        with Journal(file, "e", tmp_path) as one:
            known = max(0, sum(end <= cut for end in ends) - 1)
            assert [identity in one for identity in identities] == [n < known for n in range(3)]
            assert Identity(identities[0].path, 9, 10**18) not in one
        assert file.read_bytes() == whole[: ends[known]]


def test_another_journal_is_refused(runtime, export, folder, tmp_path):
    look(runtime, folder)
    other = load(make_export(tmp_path / "other", calibration=calibration(0.7)).path, threads=1)
    output = tmp_path / "in.jsonl"
    whole = output.read_bytes()
    (tmp_path / "in2").mkdir()
    with pytest.raises(OutputError, match="is the journal of another exported model"):
        Watched(other, folder)
    with pytest.raises(OutputError, match=r"of another folder .* Name another file: `--output`"):
        Watched(runtime, tmp_path / "in2", output=output)
    assert output.read_bytes() == whole
    with Watched(runtime, folder), pytest.raises(OutputError, match="one alone watches a folder"):
        Watched(runtime, folder)
    for content, words in [
        (b"path,score\n", "is no journal of a watched folder"),
        (b"path", "Line 1 of"),
        (whole + b"x\n" + whole, "Line 2 of"),
        (whole + b"{}\n", "Line 2 of"),
    ]:
        output.write_bytes(content)
        with pytest.raises(OutputError) as error:
            Watched(runtime, folder)
        assert words in str(error.value)
        assert output.read_bytes() == content


def test_what_cannot_be_watched_is_refused_in_words(runtime, folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match="does not exist; give the folder to watch"):
        Watched(runtime, tmp_path / "missing")
    with pytest.raises(DataError, match="is a file; give the folder to watch"):
        Watched(runtime, tmp_path / "file")
    for destinations, words in [
        ({"good": folder}, "they would be found again. Name one outside of it"),
        ({"bad": tmp_path / "x"}, "good=DIR, defective=DIR, unreadable=DIR; got `bad`"),
    ]:
        with pytest.raises(SettingError, match=words):
            Watched(runtime, folder, destinations=destinations)
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(SettingError, match="lies in the watched folder"):
        Watched(runtime, folder, destinations={"good": tmp_path / "in/new"})
    with pytest.raises(OutputError, match="cannot be made"):
        Watched(runtime, folder, destinations={"good": tmp_path / "file"})
    with pytest.raises(SettingError, match="do not go together"):
        Watched(runtime, folder, destinations={"good": tmp_path / "x"}, mark=True)
    with Watched(runtime, folder) as watched, pytest.raises(SettingError, match="`interval` must"):
        next(watched.lines(interval=0))
    for url in ("file:///etc/passwd", "localhost:9000", "http://", "http://u:p@h/", "http://h:x/"):
        with pytest.raises(SettingError, match="`--webhook` takes an address such as"):
            Watched(runtime, folder, webhook=url)
    status = os.stat(tmp_path)

    class Elsewhere(type(tmp_path)):
        def stat(self, **settings):
            return os.stat_result([*status[:2], status.st_dev + 1, *status[3:10]])

    with pytest.raises(SettingError, match="is on another file system than"):
        Watched(runtime, folder, destinations={"good": Elsewhere(tmp_path / "other")})
    for text in ("good", "good=", "good=a,good=b"):
        with pytest.raises(ValueError, match="it takes good=DIR"):
            destinations_of(text)


def test_a_file_in_the_way_of_a_planned_move_keeps_both(runtime, folder, tmp_path, monkeypatch):
    add(folder / "a.png", 51)
    destinations = {"good": tmp_path / "good"}
    with monkeypatch.context() as patch:
        patch.setattr("ad.runtime.watch.watching.move", lambda *_: None)
        look(runtime, folder, destinations=destinations)
    (tmp_path / "good/a.png").write_bytes(b"mine")
    lines, said = look(runtime, folder, destinations=destinations)
    assert lines == []
    assert "is another file. Move it by hand" in said[0]
    assert (folder / "a.png").exists()
    assert (tmp_path / "good/a.png").read_bytes() == b"mine"


@pytest.fixture
def listener(monkeypatch):
    """An address on this machine, what it was sent, and the statuses it answers with."""
    got, statuses = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", got, statuses
        server.shutdown()
        thread.join()


def test_an_address_is_told_of_every_picture(runtime, folder, listener):
    url, got, _ = listener
    write_pictures(folder, "ab")
    lines, said = look(runtime, folder, webhook=url)
    assert got == lines
    assert said == []


def test_an_address_that_fails_is_tried_three_times_and_let_go(listener):
    url, got, statuses = listener
    said = []
    statuses += [500, 200, 500, 500, 500]
    with Webhook(url, said.append, pause=0.001) as hook:
        for path in "abc":
            hook.send({"path": path})
    assert [one["path"] for one in got] == ["a", "a", "b", "b", "b", "c"]
    assert said == [
        f"`{url}` was not told of a picture (HTTP Error 500: Internal Server Error), in 3 tries"
    ]


def test_an_address_that_does_not_answer_keeps_nobody_waiting(runtime, folder):
    said = []
    hook = Webhook("http://127.0.0.1:9/", said.append)  # whose thread has not even begun
    for number in range(1001):
        hook.send({"path": number})
    assert said == ["`http://127.0.0.1:9/` is too slow: of `1000` it is not told"]


def test_the_command_prints_a_line_a_picture(export, folder, capsys, tmp_path):
    add(folder / "a.png", 51)
    (folder / "b.png").write_bytes(b"x")
    command = ["watch", str(export), str(folder), "--once", "--interval", "0.01"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--threads", "1", "--move", f"unreadable={tmp_path / 'no'}"])
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert [line.split()[:2] for line in captured.out.splitlines()] == [
        ["good", "0.2"], ["error", "-"],
    ]  # fmt: skip
    assert "0 pictures are known" in captured.err
    assert "error: The picture" in captured.err
    assert below(tmp_path / "no") == ["b.png"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--move", "good"])
    assert ended.value.code == 2
    assert "it takes good=DIR" in capsys.readouterr().err
