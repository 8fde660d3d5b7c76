"""What `benchmarks/peer.py` refuses and tells, with sides that do nothing; its bare work."""

import json

import peer
import peer_limit
import pytest
import tables
from processes import Cost, measured


class Sides:
    """Answers as of two sides whose second round is the faster one."""

    def __init__(self, **facts):
        self.facts = facts
        self.turns = []

    def do(self, work, side, form, counts):
        self.turns.append(f"{side} {form}")
        cpu = 8.0 / len(self.turns)
        seconds = {phase: {"cpu": cpu, "wall": 2 * cpu} for phase in ("fit", "test")}
        facts = {"bank": counts.get("bank"), **(self.facts if side == "ours" else {})}
        answer = {"seconds": seconds, "facts": facts, "told": {"threads": 1}, "memory": 0}
        if side == "limit":  # which does not do the work, and counts its memory
            answer |= {"facts": {}, "memory": 2}
        return answer, Cost(1, 2, 3)


def test_sides_take_turns_and_the_least_of_the_rounds_counts():
    sides = Sides()
    rows = peer.compared("patchcore-large", sides, quick=True, rounds=2)
    turns = ["anomalib fp32", "ours fp32", "anomalib bf16", "ours shipped", "limit shipped"]
    assert sides.turns == 2 * turns
    assert [row["phase"] for row in rows] == ["fit", "test", "memory"]
    assert rows[0]["what"] == "PatchCore, fit of 64 pictures, bank 6,553"
    assert rows[0]["cpu"]["ours fp32"] == [8 / 2, 8 / 7]
    assert [peer.least(rows[0], form) for form in turns] == [8 / n for n in (6, 7, 8, 9, 10)]
    assert peer.least(rows[2], "ours fp32") == 3
    assert peer.least(rows[2], "limit shipped") == 2
    json.dumps(rows)


def test_sides_that_did_not_do_the_same_work_are_an_error_with_what_each_did():
    with pytest.raises(RuntimeError, match=r"not do the same work in `patchcore`") as told:
        peer.compared("patchcore", Sides(bank=63), quick=True, rounds=1)
    lines = str(told.value).splitlines()[1:]
    assert lines[0] == 'anomalib fp32: {"bank": 64}'
    assert lines[3] == 'ours shipped: {"bank": 63}'


def test_rows_that_are_measured_anew_take_the_place_of_the_old_ones(tmp_path, monkeypatch):
    file = tmp_path / "peer.json"
    monkeypatch.setattr("sys.argv", ["peer.py"])
    peer.write([{"row": "stfpm", "turn": 1}, {"row": "help", "turn": 1}], file)
    monkeypatch.setattr("sys.argv", ["peer.py", "--only", "draem,help"])
    peer.write([{"row": "draem", "turn": 2}, {"row": "help", "turn": 2}], file)
    rows = json.loads(file.read_text())["rows"]
    assert [(row["row"], row["turn"]) for row in rows] == [("help", 2), ("stfpm", 1), ("draem", 2)]
    commands = [row["command"] for row in rows]
    assert commands == [f"python peer.py{' --only draem,help' * new}" for new in (1, 0, 1)]


def test_what_a_row_says_of_itself_goes_before_what_its_process_cost():
    class Process(Sides):
        def do(self, work, side, form, counts):
            answer, cost = super().do(work, side, form, counts)
            own = {"process": {"cpu": 0.5, "wall": 0.5}} if side == "limit" else {}
            return {**answer, "seconds": own}, cost

    seconds, memory = peer.compared("verdict", Process(), quick=True, rounds=1)
    assert peer.least(seconds, "ours shipped") == 1  # what `Cost` says
    assert peer.least(seconds, "limit shipped") == 0.5
    assert len(seconds["cpu"]["ours shipped"]) == 3  # rounds, of what is over so soon
    assert memory["memory"]["limit shipped"] == [2, 2, 2]


def test_the_table_has_the_limit_the_most_it_allows_and_how_near_ours_is(monkeypatch):
    cpu = {"anomalib fp32": [12_822.0], "ours shipped": [40.0, 30.0], "limit shipped": [6.0]}
    told = {"anomalib fp32": {"extrapolated": ["fit"]}}
    row = {"what": "a fit", "phase": "fit", "unit": "s", "cpu": cpu, "told": told}
    monkeypatch.setattr(tables, "load", lambda _: {"rows": [row]})
    cells = [each.strip() for each in tables.peer().splitlines()[2].split("|")[1:-1]]
    assert cells[:6] == ["a fit", "about 12,800 s", "", "", "30 s", "6 s"]
    assert cells[6:] == ["", "", "427.4", "2137.0", "5.0"]


def test_the_table_of_pictures_that_come_alone_has_nothing_compiled(monkeypatch):
    base = {"model": "stfpm", "batch_size": 1}
    rows = [{**base, "precision": "fp32", "seconds_per_image": 0.02},
            {**base, "precision": "bf16", "seconds_per_image": 0.012},
            {**base, "precision": "bf16", "seconds_per_image": 0.007, "compiled": True},
            {**base, "precision": "fp32", "seconds_per_image": 0.5, "batch_size": 8}]  # fmt: skip
    monkeypatch.setattr(tables, "load", lambda _: {"rows": rows})
    assert tables.latency().splitlines()[2] == "| `stfpm` | 20 ms | 12 ms |"


def test_every_row_has_its_function_on_all_sides():
    for side in ("ours", "anomalib"):
        code = (peer.HERE / f"peer_{side}.py").read_text()
        for name, row in peer.ROWS.items():
            assert f"def {row.work or name}(" in code
    limited = {row.work or name for name, row in peer.ROWS.items() if peer.LIMIT in row.forms}
    assert set(peer_limit.ROWS) == limited


def test_a_process_that_fails_is_an_error_and_what_it_printed_is_kept(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(RuntimeError, match=r"^`/bin/sh -c echo no; exit 3` failed: status 768\.$"):
        measured(["/bin/sh", "-c", "echo no; exit 3"], log=str(log))
    assert log.read_text() == "no\n"
    cost = measured(["/bin/sh", "-c", ":"])
    assert 0 <= cost.cpu_seconds < cost.wall_seconds + 1
    assert cost.peak_memory_bytes > 2**18
