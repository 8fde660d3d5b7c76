"""What grows with the number of pictures: in memory, on disk, and where there is no room."""

import gc
import os
import tempfile
from collections import namedtuple

import numpy as np
import pytest

from ad.runtime import spill
from ad.runtime.errors import OutputError, SettingError
from ad.runtime.spill import Arrays, Column, check_room, free_memory, memory_budget


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
    assert [one is None for one in kept[3:6]] == [False, True, False]
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


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1234", 1234), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("2kb", 2048)],
)
def test_the_budget_is_what_the_variable_says(monkeypatch, text, size):
    monkeypatch.setenv("AD_MEMORY", text)
    assert memory_budget() == size


def test_without_the_variable_the_budget_is_an_eighth_of_free_memory(monkeypatch):
    monkeypatch.delenv("AD_MEMORY", raising=False)
    monkeypatch.setattr(spill, "free_memory", lambda: 800)
    assert memory_budget() == 100
    monkeypatch.setattr(spill, "free_memory", lambda: None)
    assert memory_budget() == 2**30


@pytest.mark.parametrize("text", ["much", "-1G", "4 X", "1e9", "50%"])
def test_a_budget_that_is_no_number_of_bytes_is_refused(monkeypatch, text):
    monkeypatch.setenv("AD_MEMORY", text)
    words = rf"`AD_MEMORY` says how much memory .* such as 500M or 4G; got `{text}`\. .* unset"
    with pytest.raises(SettingError, match=words):
        memory_budget()


def test_free_memory_is_what_the_narrowest_group_around_the_process_has_left(tmp_path, monkeypatch):
    outer, inner = tmp_path / "a", tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for place, limit, used, cached in ((outer, "1000", 700, 50), (inner, "max", 600, 50)):
        (place / "memory.max").write_text(f"{limit}\n")
        (place / "memory.current").write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    real = spill.Path

    def path(text):
        return own if text == "/proc/self/cgroup" else real(text)

    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    monkeypatch.setattr(spill, "Path", path)
    assert spill._allowed(tmp_path) == [350]
    (inner / "memory.max").write_text("640")
    assert spill._allowed(tmp_path) == [90, 350]
    own.write_text("0::/nowhere\n")
    assert spill._allowed(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="read from Linux's /proc")
def test_free_memory_is_less_than_all_memory():
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
