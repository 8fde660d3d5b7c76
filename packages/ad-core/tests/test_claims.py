"""Folders of one's own, however many ask at once, and what killed processes leave."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from ad.core.data.synthetic.tree import NOTE, Settings, _as_json, write_tree
from ad.core.errors import OutputError
from ad.core.saved.claims import (
    alone,
    claim,
    clear_leftovers,
    letting_go,
    make_folder,
    make_free_folder,
    temporary_name,
)
from ad.core.saved.files import save_model
from ad.runtime.files import write_atomic

with_locks = pytest.mark.skipif(sys.platform == "win32", reason="nobody is kept out there")

RACE = """
import os, sys, time
from pathlib import Path
from ad.core.saved.claims import letting_go, make_folder
from ad.core.data.synthetic.tree import NOTE, Settings, _as_json, write_tree
from ad.core.errors import OutputError
from ad.core.jobs.run_directory import make_run

def named(folder, empty):
    if empty:
        folder.mkdir(exist_ok=True)
    return make_run("x", folder)

kind, top, tries, racers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
asked = {
    "named": lambda n: named(top / f"named-{n}", empty=False),
    "empty": lambda n: named(top / f"named-{n}", empty=True),
    "default": lambda n: make_run(f"run {n}", None),
    "results": lambda n: make_folder(top / f"results-{n}") or top / f"results-{n}",
}[kind]
os.chdir(top)
for number in range(tries):
    begin = time.monotonic() + 0.01
    children = []
    for racer in range(racers):
        child = os.fork()
        if not child:
            while time.monotonic() < begin:
                pass
            said = "refused"
            try:
                with letting_go():
                    said = asked(number).name
                    (top / f"{racer}-{number}.done").touch()
                    while len(list(top.glob(f"*-{number}.done"))) < racers:
                        time.sleep(0.001)
            except OutputError as error:
                said = "refused" if "Another process" in str(error) else str(error)
                (top / f"{racer}-{number}.done").touch()
            os.write(1, f"{number} {said}\\n".encode())
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
"""


@with_locks
@pytest.mark.parametrize("kind", ["named", "empty", "results"])
def test_of_many_that_ask_for_one_folder_at_once_one_gets_it(tmp_path, kind):
    for number, said in race(kind, tmp_path, tries=8, racers=6).items():
        owned = f"{'results' if kind == 'results' else 'named'}-{number}"
        assert said == {owned: 1, "refused": 5}


@with_locks
def test_of_many_that_ask_for_a_free_folder_at_once_each_gets_its_own(tmp_path):
    for number, said in race("default", tmp_path, tries=8, racers=6).items():
        first = f"run-{number}"
        assert said == {first: 1} | {f"{first}-{k}": 1 for k in range(2, 7)}


def race(kind, folder, *, tries, racers):
    """What each of the processes that started together said, by the number of the try."""
    command = [sys.executable, "-c", RACE, kind, str(folder), str(tries), str(racers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = {str(number): Counter() for number in range(tries)}
    for line in done.stdout.splitlines():
        number, _, name = line.partition(" ")
        said[number][name] += 1
    return said


def test_an_output_folder_that_holds_something_is_refused(tmp_path):
    make_folder(tmp_path / "new")
    make_folder(tmp_path / "new")  # still empty
    (tmp_path / "new" / "x").touch()
    with pytest.raises(OutputError, match="is not empty. Name another one"):
        make_folder(tmp_path / "new")


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(OutputError, match="cannot be made"):
        make_free_folder(tmp_path / "file" / "sub")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(OutputError, match="gone/sub` cannot be made"):
        make_free_folder(tmp_path / "gone" / "sub")


@with_locks
def test_a_folder_is_held_until_the_job_ends_and_without_locks_by_nobody(tmp_path, monkeypatch):
    words = "Another process writes to the output folder .*Name another one"
    with letting_go():
        make_folder(tmp_path / "a")
        with letting_go(), pytest.raises(OutputError, match=words):
            make_folder(tmp_path / "a")
        (tmp_path / "b").mkdir()
        (tmp_path / "b/x").touch()
        with pytest.raises(OutputError, match="is not empty"), letting_go():
            make_folder(tmp_path / "b")
        (tmp_path / "b/x").unlink()
        make_folder(tmp_path / "b")
        monkeypatch.setattr("fcntl.flock", without_locks)
        make_folder(tmp_path / "a")


def test_a_free_folder_gets_the_next_number(tmp_path):
    wanted = tmp_path / "run"
    assert [make_free_folder(wanted).name for _ in range(2)] == ["run", "run-2"]
    (tmp_path / "run-3").symlink_to("nowhere")  # is taken too
    assert make_free_folder(wanted).name == "run-4"


def without_locks(handle, how):
    raise OSError(errno.ENOLCK, "No locks available")


@with_locks
def test_a_file_is_claimed_until_it_is_closed_where_there_are_locks(tmp_path, monkeypatch):
    with (tmp_path / "a").open("ab") as first, (tmp_path / "a").open("ab") as second:
        assert claim(first)
        assert claim(first)
        assert not claim(second)
        assert not claim(second, shared=True)
        first.close()
        assert claim(second)
        with (tmp_path / "a").open("ab") as third:
            assert not claim(third)
            assert claim(second, shared=True)
            assert claim(third, shared=True)
            assert not claim(second)
            monkeypatch.setattr("fcntl.flock", without_locks)
            assert claim(third)


# --- Leftovers ----------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
import ad.core.saved.files as files

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

files.os.fsync = die
if sys.argv[1] == "model":
    files.save_model(Path(sys.argv[2]) / "model", nn.Linear(3, 2), {})
files.write_atomic(Path(sys.argv[2]) / "run.json", b"half")
"""


@with_locks
@pytest.mark.parametrize("what", ["model", "file"])
def test_what_a_killed_process_had_half_written_is_cleared(tmp_path, what):
    done = subprocess.run([sys.executable, "-c", KILLED, what, str(tmp_path)], check=False)
    assert done.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.is_dir() == (what == "model")
    clear_leftovers(tmp_path, tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


@with_locks
def test_what_a_process_is_writing_is_left_alone(tmp_path, monkeypatch):
    seen = []

    def look(handle):
        before = sorted(tmp_path.rglob("*"))
        clear_leftovers(tmp_path)
        seen.append(sorted(tmp_path.rglob("*")) == before)

    monkeypatch.setattr("ad.core.saved.files.os.fsync", look)
    torch.manual_seed(0)
    save_model(tmp_path / "model", nn.Linear(3, 2), {})
    write_atomic(tmp_path / "run.json", b"whole")
    assert len(seen) > 3
    assert all(seen)
    assert (tmp_path / "run.json").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run.json"]


@with_locks
def test_only_what_is_surely_left_by_a_killed_process_is_cleared(tmp_path, monkeypatch):
    kept = [
        tmp_path / ".model.tmp",  # of others
        tmp_path / f".x{'0' * 32}.tmp",
        tmp_path / f"model.{'0' * 32}.tmp",
        temporary_name(tmp_path / "just-made"),  # and not yet claimed
        temporary_name(tmp_path / "link"),
        temporary_name(tmp_path / "pipe"),
    ]
    for path in kept[:3]:
        path.write_text("x")
    kept[3].touch()
    kept[4].symlink_to(kept[0])
    os.mkfifo(kept[5])
    clear_leftovers(tmp_path)
    left = temporary_name(tmp_path / "line\nbreak")
    left.write_text("x")
    with alone(left):
        clear_leftovers(tmp_path)
        assert left.exists()
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", without_locks)
        clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([*kept, left])
    clear_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_name_as_long_as_the_file_system_allows_is_written(tmp_path):
    path = tmp_path / ("\N{CJK UNIFIED IDEOGRAPH-4E00}" * 85)  # 255 bytes
    write_atomic(path, b"whole")
    assert [found.name for found in Path(tmp_path).iterdir()] == [path.name]
    save_model(tmp_path / ("m" * 255), nn.Linear(1, 1), {})


@with_locks
def test_a_tree_of_synthetic_pictures_is_cleared_of_halves(tmp_path):
    settings = Settings(
        categories=("metal",), train=1, test_good=1, test_defective=0, seed=0, size=64
    )
    good = tmp_path / "metal/train/good"
    good.mkdir(parents=True)
    temporary_name(good / "000.png").write_text("half")
    (tmp_path / NOTE).write_text(json.dumps({**_as_json(settings), "complete": False}))
    write_tree(tmp_path, settings, lambda count: None)
    assert [path.name for path in good.iterdir()] == ["000.png"]


def test_a_folder_that_somebody_makes_at_the_same_moment_is_theirs(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def overtaken(path, *arguments, **settings):
        if path.name in ("run", "run-2"):
            mkdir(path)
        mkdir(path, *arguments, **settings)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert make_free_folder(tmp_path / "run").name == "run-3"
