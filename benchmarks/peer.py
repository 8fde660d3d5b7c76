"""Side by side with anomalib: the same work on the same pictures, in turns, in fresh processes.

    python benchmarks/peer.py [--only ROW,ROW] [--quick] [--rounds N] [--environment DIR]
                              [--output FILE]

`uv` makes the environment with anomalib and the torch of this one, in a temporary folder or in
DIR, which is kept and used again; a package index is asked for nothing else. Weights are
``resnet18.tv_in1k.safetensors`` in the folder `AD_WEIGHTS`, on both sides, or random on both.
Pictures are made by code. CPU seconds are those of all threads together, the least of the rounds;
a row whose sides did not do the same work is an error. Beside both stands the limit, the bare work
that neither can be below: `peer_limit` says what that is. With ``--only``, other rows of FILE stay.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peer_work import UNTAUGHT
from processes import Cost, measured

ANOMALIB = "2.7.0"
SHARED = ("torch", "torchvision", "timm", "numpy", "pillow", "scipy")
"""Packages that both sides have in the same version."""
HERE = Path(__file__).parent
PROCESS = "process"
"""The phase that is the whole process, from its start to its end."""
LIMIT = ("limit", "shipped")
FORMS = (("anomalib", "fp32"), ("ours", "fp32"), ("anomalib", "bf16"), ("ours", "shipped"), LIMIT)
UNLIMITED = (("anomalib", "fp32"), ("ours", "shipped"))
PLAIN = (*UNLIMITED, LIMIT)
KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Has the C library keep its memory, so that no bare work is paid for what the system gives."""


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of work that both sides do."""

    phases: Mapping[str, str]
    """What is told of it, by the name of the phase; `{}` takes the counts."""
    counts: Mapping[str, int] = field(default_factory=dict)
    quick: Mapping[str, int] = field(default_factory=dict)
    """What is less in a quick run."""
    forms: tuple[tuple[str, str], ...] = FORMS
    memory: str = ""
    """What the peak memory of the process is told as; empty where it says little."""
    work: str = ""
    """The function of all sides, if it has another name than the row."""
    rounds: int = 1
    """At least so many: what is over in seconds varies by much."""

    def taken(self, quick: bool) -> dict[str, int]:
        """The counts of a run."""
        return {**self.counts, **(self.quick if quick else {})}


EIGHT = {"batch": 8, "at_once": 8, "test": 32}
FEW = {"train": 64, "test": 8}
ROWS: dict[str, Row] = {
    "help": Row({PROCESS: "`--help`"}, forms=UNLIMITED, work="show_help", rounds=3),
    "import": Row({PROCESS: "import of one model's class"}, forms=PLAIN, work="import_class",
                  rounds=3),
    "torch": Row({PROCESS: "`import torch`, alone"}, forms=UNLIMITED, work="import_torch",
                 rounds=3),
    "verdict": Row({PROCESS: "start to verdict on one picture, PaDiM"}, {"batch": 8}, forms=PLAIN,
                   memory="start to verdict on one picture, peak memory", rounds=3),
    "padim": Row({"fit": "PaDiM, fit of {train} pictures", "test": "PaDiM, test, a picture"},
                 {**EIGHT, "train": 400, "features": 100}, FEW, memory="PaDiM, peak memory"),
    "patchcore": Row({"fit": "PatchCore, fit of {train} pictures, bank {bank:,}",
                      "test": "PatchCore, test, a picture, bank {bank:,}"},
                     {**EIGHT, "train": 100, "bank": 1024}, {**FEW, "bank": 64}),
    "patchcore-large": Row({"fit": "PatchCore, fit of {train} pictures, bank {bank:,}",
                            "test": "PatchCore, test, a picture, bank {bank:,}"},
                           {**EIGHT, "train": 400, "bank": 40_960, "picks": 250},
                           {**FEW, "bank": 6_553, "picks": 50},
                           memory="PatchCore, peak memory, {train} pictures",
                           work="patchcore"),
    "dfkde": Row({"fit": "DFKDE, fit of {train} pictures", "test": "DFKDE, test, a picture"},
                 {**EIGHT, "train": 400}, FEW, forms=(*FORMS[:2], *FORMS[3:])),  # theirs needs fp32
    "stfpm": Row({"step": "STFPM, a step of {batch}", "test": "STFPM, test, a picture"},
                 {**EIGHT, "steps": 12}, {"steps": 3, "test": 8}, memory="STFPM, peak memory"),
    "reverse-distillation": Row({"step": "Reverse Distillation, a step of {batch}",
                                 "test": "Reverse Distillation, test, a picture"},
                                {**EIGHT, "steps": 12}, {"steps": 3, "test": 8},
                                work="reverse_distillation"),
    "efficientad": Row({"step": "EfficientAD-S, a step of {batch}",
                        "test": "EfficientAD-S, test, a picture"},
                       {**EIGHT, "batch": 1, "steps": 8, "test": 16}, {"steps": 2, "test": 8}),
    "draem": Row({"step": "DRAEM at 128 pixels, a step of {batch}",
                  "test": "DRAEM at 128 pixels, test, a picture"},
                 {**EIGHT, "batch": 4, "steps": 4, "test": 16}, {"steps": 2, "test": 8}),
    "metrics": Row({"auroc": "pixel AUROC of {pixels:,} pixels",
                    "aupro": "pixel AUPRO of {pixels:,} pixels"},
                   {"pixels": 35_520_512}, {"pixels": 2_097_152}, forms=PLAIN),
    "reading": Row({"jpeg512": "JPEG of 512 pixels to batches of 256, a picture",
                    "jpeg1000": "JPEG of 1,000 pixels to batches of 256, a picture"},
                   {"batch": 8, "files": 160}, {"files": 32}, forms=PLAIN),
}  # fmt: skip


def peer_environment(folder: Path) -> Path:
    """Its Python, in an environment that is made if it is not there or of other versions.

    Raises:
        subprocess.CalledProcessError: If it cannot be made.
    """
    python, mark = folder / "bin/python", folder / "made-of.txt"
    pins = [f"anomalib=={ANOMALIB}"]
    pins += [f"{name}=={version(name).partition('+')[0]}" for name in SHARED]
    if not mark.exists() or mark.read_text().split() != pins:
        subprocess.run(["uv", "venv", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run(["uv", "pip", "install", "--python", python, *pins], check=True)
        mark.write_text("\n".join(pins))
    return python


@dataclass(frozen=True, slots=True)
class Sides:
    """How each side is started."""

    peer: Path
    """The other side's Python."""
    folder: Path
    """Where both work."""
    weights: str

    def do(
        self, work: str, side: str, form: str, counts: Mapping[str, int]
    ) -> tuple[dict[str, Any], Cost]:
        """One side's work in a fresh process: its answer, and what the process cost."""
        answer, log = (self.folder / name for name in ("answer.json", "log.txt"))
        order = {"row": work, "side": side, "form": form, "counts": dict(counts),
                 "folder": str(self.folder), "weights": self.weights,
                 "answer": str(answer)}  # fmt: skip
        python, script = sys.executable, HERE / "peer_ours.py"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if side == "anomalib":
            python, script = str(self.peer), HERE / "peer_anomalib.py"
            environment.pop("PYTHONPATH", None)
            environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        elif side == "limit":
            script = HERE / "peer_limit.py"
            environment |= KEPT
        try:
            cost = measured([python, str(script), json.dumps(order)], environment, str(log))
        except RuntimeError:
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
            raise
        return json.loads(answer.read_text()), cost


def compared(name: str, sides: Sides, quick: bool, rounds: int) -> list[dict[str, Any]]:
    """A row's phases, all forms in turns.

    Raises:
        RuntimeError: If a side failed, or they did not do the same work.
    """
    row = ROWS[name]
    counts = row.taken(quick)
    takes: dict[str, list[dict[str, Any]]] = {" ".join(form): [] for form in row.forms}
    for _ in range(max(rounds, row.rounds)):
        for side, form in row.forms:
            answer, cost = sides.do(row.work or name, side, form, counts)
            whole = {"cpu": cost.cpu_seconds, "wall": cost.wall_seconds}
            answer["seconds"].setdefault(PROCESS, whole)
            answer["memory"] = answer["memory"] or cost.peak_memory_bytes
            takes[f"{side} {form}"].append(answer)
    limit = " ".join(LIMIT)
    facts = {form: of[0]["facts"] for form, of in takes.items() if form != limit}
    common, *others = facts.values()
    if any(each != common for each in others):
        told = "\n".join(f"{form}: {json.dumps(each)}" for form, each in facts.items())
        msg = f"The sides did not do the same work in `{name}`:\n{told}"
        raise RuntimeError(msg)
    found: list[dict[str, Any]] = []
    for phase, words in row.phases.items():
        seconds = {
            kind: {
                form: [take["seconds"][phase][kind] for take in of] for form, of in takes.items()
            }
            for kind in ("cpu", "wall")
        }
        found.append({"phase": phase, "what": words, "unit": "s", **seconds})
    if row.memory:
        memory = {form: [take["memory"] for take in of] for form, of in takes.items()}
        found.append({"phase": "memory", "what": row.memory, "unit": "B", "memory": memory})
    told_of = {form: of[0]["told"] for form, of in takes.items()}
    same = {"same": common, "counts": counts, "told": told_of}
    return [{"row": name, **one, "what": one["what"].format(**counts), **same} for one in found]


def least(row: dict[str, Any], form: str) -> float:
    """The least of a form's rounds, CPU seconds or bytes; 0 if the row has no such form."""
    values: list[float] = row["cpu" if row["unit"] == "s" else "memory"].get(form, [0.0])
    return min(values)


def main() -> None:
    """Measure, print, write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(ROWS),
                        help=f"of {', '.join(ROWS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="few pictures and steps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--environment", type=Path, help="anomalib's; kept and used again")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if unknown := set(options.only) - set(ROWS):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up, as Ctrl-C does
    weights = Path(os.environ.get("AD_WEIGHTS", ""), "resnet18.tv_in1k.safetensors").absolute()
    rows: list[dict[str, Any]] = []
    try:
        with tempfile.TemporaryDirectory() as place:
            python = peer_environment((options.environment or Path(place, "peer")).absolute())
            sides = Sides(python, Path(place), str(weights) if weights.is_file() else "random")
            prepare(sides, options.only, options.quick)
            for name in options.only:
                for row in compared(name, sides, options.quick, options.rounds):
                    rows.append({**row, "peer": f"anomalib {ANOMALIB}",
                                 "weights": "random" if name in UNTAUGHT
                                            else Path(sides.weights).name})  # fmt: skip
                    forms = (" ".join(form) for form in ROWS[name].forms)
                    told = ", ".join(f"{form} {least(row, form):.4g}" for form in forms)
                    print(f"{row['what']:55} {row['unit']}: {told}", flush=True)
    finally:  # what was measured before a row failed is kept
        if options.output and rows:
            write(rows, options.output)


def prepare(sides: Sides, names: list[str], quick: bool) -> None:
    """Make what rows work on, as much of it as the largest takes."""
    sizes: dict[str, int] = {"train": 16, "files": 1, "pixels": 0}
    for name in names:
        for key, count in ROWS[name].taken(quick).items():
            sizes[key] = max(count, sizes.get(key, 0))
    sides.do("prepare", "ours", "fp32", sizes)
    if "verdict" in names:
        for side in ("anomalib", "ours"):
            sides.do("prepare_verdict", side, "fp32", {"batch": 8})


def write(rows: list[dict[str, Any]], file: Path) -> None:
    """Put rows into a record, in the place of those of the same name; each has its command."""
    # With torch, whose memory processes started before would inherit.
    from record import command, record

    before = json.loads(file.read_text())["rows"] if file.exists() else []
    order, new = list(ROWS), {row["row"] for row in rows}
    kept = [row for row in before if row["row"] in order and row["row"] not in new]
    rows = [{**row, "command": command()} for row in rows]
    record("peer", sorted([*rows, *kept], key=lambda row: order.index(row["row"])), file)


if __name__ == "__main__":
    main()
