"""What grows with the number of pictures: in memory, on disk, and where there is no room."""

import gc
import json
import os
import tempfile
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ad.runtime import findings, spill
from ad.runtime.console import print_json
from ad.runtime.errors import OutputError
from ad.runtime.findings import Finding
from ad.runtime.regions import Region
from ad.runtime.results import Row, Rows, worst
from ad.runtime.spill import Arrays, Column, check_room


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (2, 5), (3, 4), (1, 0), (3, 4)]
    return [rng.random(shape, dtype=np.float32) for shape in shapes]


def open_files(folder):
    """How many files in a folder this process has open, also those without a name."""
    links = [f"/proc/self/fd/{one}" for one in os.listdir("/proc/self/fd")]
    return sum(str(folder) in os.readlink(link) for link in links if os.path.lexists(link))


@pytest.mark.parametrize("budget", [0, 49, 2**20])
def test_arrays_come_back_as_they_were_put_wherever_they_are(arrays, budget):
    kept = Arrays(7, "maps", budget=budget)
    for number in (5, 0, 3, 2, 6):
        kept.put(number, arrays[number % 5])
    assert (kept.on_disk > 0) == (budget < 2**20)
    assert (len(kept), kept[1], kept[4]) == (7, None, None)
    for number in (0, 2, 3, 5, 6):
        found = kept[number]
        assert found.dtype == np.float32
        assert np.array_equal(found, arrays[number % 5])
    some = kept.some([6, 4, 0])
    assert (len(some), some[1]) == (3, None)
    assert np.array_equal(some[0], arrays[1])
    assert [one is None for one in kept] == [False, True, False, False, True, False, False]
    assert np.array_equal(some[1:][1], arrays[0])


def test_arrays_of_which_none_fits_take_no_memory(arrays):
    kept = Arrays(5, "maps", budget=0)
    for number, array in enumerate(arrays):
        kept.put(number, array)
    assert kept.on_disk == sum(array.nbytes for array in arrays)
    assert not kept._held


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files by Linux's /proc")
def test_a_temporary_file_has_no_name_and_is_closed_with_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    column = Column(np.float32, "metrics")
    column.append(np.ones(9, np.float32))
    assert not [*tmp_path.iterdir()]
    assert open_files(tmp_path) == 1
    del column
    gc.collect()
    assert open_files(tmp_path) == 0


def test_a_column_is_read_and_written_part_by_part():
    column = Column(np.int64, "metrics")
    column.append(np.arange(5))
    column.append(np.arange(5, 12)[::-1])
    column.put(3, np.array([-3, -4]))
    whole = [0, 1, 2, -3, -4, 11, 10, 9, 8, 7, 6, 5]
    assert column.size == 12
    for part in (slice(None), slice(2, 7), slice(1, 11, 3), slice(9, 99), slice(4, 4)):
        assert column[part].tolist() == whole[part]


def test_a_column_does_not_narrow_numbers():
    with pytest.raises(TypeError, match="Cannot cast"):
        Column(np.float32, "metrics").append(np.ones(2))


def test_what_will_not_fit_onto_the_disk_is_refused_before_it_is_written(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda _: usage(2**40, 0, 2**30))
    check_room(2**29, "maps")
    words = (
        r"The maps of this run need 1,073,741,000 bytes in `.*` \(1,073,741,824 are free\)\. Mak"
    )
    with pytest.raises(OutputError, match=words + ".* set TMPDIR to a folder that has it"):
        check_room(1_073_741_000, "maps")


def test_a_disk_that_is_full_meanwhile_is_told_of(monkeypatch):
    column = Column(np.float32, "maps")

    class Full:
        def seek(self, at):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(column._file, "_file", Full())
    words = r"The maps of this run need 36 bytes in .* \(No space left on device\)\. Make room"
    with pytest.raises(OutputError, match=words):
        column.append(np.ones(9, np.float32))


ROWS = [
    Row(
        path=Path("a/\udcff b.png"),  # a name that is no valid text
        score=0.1 + 0.2,
        normalized=0.75,
        verdict="defective",
        heatmap=Path("maps/0001.png"),
        error=None,
        regions=(Region(1, 2, 3, 4, 5, 0.1), Region(0, 0, 9, 9, 1, 7.0)),
        num_regions=200,
    ),
    Row(path=Path("b"), score=-3.5, normalized=0.0, verdict="good", heatmap=None, error=None),
    Row(path=Path("c"), score=None, normalized=None, verdict="error", heatmap=None, error="gone"),
    Row(
        path=Path("d"),
        score=1e-300,
        normalized=None,
        verdict="good",
        heatmap=None,
        error=None,
        regions=(),
        num_regions=0,
    ),
]


@pytest.mark.parametrize("memory", ["0", "2500", "1G"])
def test_rows_are_what_they_were_wherever_they_are(monkeypatch, memory):
    monkeypatch.setenv("AD_MEMORY", memory)
    rows = Rows()
    for row in ROWS:
        rows.add(row)
    assert [*rows] == ROWS
    assert (len(rows), rows[-1], rows[1:3]) == (4, ROWS[3], ROWS[1:3])
    assert bool(rows._held) == (memory == "1G")
    with pytest.raises(IndexError):
        rows[4]
    assert [*rows.scores] == [0.1 + 0.2, -3.5, 1e-300]
    assert rows.verdicts == {"good": 2, "defective": 1, "error": 1}
    assert rows.summary() == "4 pictures: 2 good, 1 defective, 1 not readable"


def test_the_worst_rows_come_first_in_their_order_and_those_without_a_score_last():
    scores = [0.5, None, -1.0, 0.5, 2.0, None, *[0.25] * 20]
    rows = [replace(ROWS[1], path=Path(str(n)), score=score) for n, score in enumerate(scores)]
    assert [row.path.name for row in worst(rows[:6])] == ["4", "0", "3", "2", "1", "5"]
    assert [row.path.name for row in worst(rows)] == ["4", "0", "3", *map(str, range(6, 23))]
    assert worst(iter(rows)) == worst(rows)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_printed_entry_by_entry_is_one_json_object(capsys, count):
    entries = [{"path": "a\n\u00e9", "regions": [{"x": 1}], "none": []}] * count
    print_json({"a": 1, "many": iter(entries), "last": {"b": [], "c": {}}})
    streamed = capsys.readouterr().out
    print_json({"a": 1, "many": entries, "last": {"b": [], "c": {}}})
    assert streamed == capsys.readouterr().out
    assert json.loads(streamed)["many"] == entries


def test_findings_that_are_about_to_fill_the_memory_are_told_of_once(monkeypatch):
    monkeypatch.setattr(findings, "_MANY", 400)
    looks = []
    monkeypatch.setattr(findings, "free_memory", lambda: looks.append(1) or 5000)
    map_ = np.zeros((10, 10), np.float32)  # 400 bytes
    many = [Finding(path=None, score=1.0, map=map_), Finding(path=None, score=None)] * 30
    words = r"the maps of the first 25 take 0\.0 GiB .* `stream` gives one finding at a time"
    with pytest.warns(UserWarning, match=words) as told:
        found = findings.all_findings(iter(many))
    assert len(told) == 1
    assert all(one is other for one, other in zip(found, many, strict=True))
    assert 1 < len(looks) < 6  # not for each finding
    assert len(findings.all_findings(iter(many[:20]))) == 20
