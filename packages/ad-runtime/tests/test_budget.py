"""How much memory may be taken: by the variable, by what is free, by groups of processes."""

import os

import pytest

from ad.runtime import budget
from ad.runtime.budget import at_most, free_memory, memory_budget
from ad.runtime.errors import SettingError


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1234", 1234), ("500M", 500 * 2**20), ("1.5 GiB", 3 * 2**29), ("2kb", 2048)],
)
def test_the_budget_is_what_the_variable_says(monkeypatch, text, size):
    monkeypatch.setenv("AD_MEMORY", text)
    assert memory_budget() == size


def test_without_the_variable_the_budget_is_an_eighth_of_free_memory(monkeypatch):
    monkeypatch.delenv("AD_MEMORY", raising=False)
    monkeypatch.setattr(budget, "free_memory", lambda: 800)
    assert memory_budget() == 100
    monkeypatch.setattr(budget, "free_memory", lambda: None)
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
    real = budget.Path

    def path(text):
        return own if text == "/proc/self/cgroup" else real(text)

    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    monkeypatch.setattr(budget, "Path", path)
    assert budget._allowed(tmp_path) == [350]
    (inner / "memory.max").write_text("640")
    assert budget._allowed(tmp_path) == [90, 350]
    own.write_text("0::/nowhere\n")
    assert budget._allowed(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="read from Linux's /proc")
def test_free_memory_is_less_than_all_memory():
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_cap_is_lower_where_the_variable_or_free_memory_says_so(monkeypatch):
    monkeypatch.delenv("AD_MEMORY", raising=False)
    for free, cap in ((None, 100), (201, 100), (120, 60)):
        monkeypatch.setattr(budget, "free_memory", lambda free=free: free)
        assert at_most(100) == cap
    monkeypatch.setenv("AD_MEMORY", "30")
    assert (at_most(100), at_most(20)) == (30, 20)
