"""What a run has written down about itself, and reading it back: ``run.json``, ``log.jsonl``."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, final

from ad.core.callbacks import Callback, LoopState
from ad.core.errors import ModelFileError, OutputError
from ad.core.saved.files import LARGEST_LINES
from ad.runtime.files import read_limited
from ad.runtime.package import is_exported
from ad.runtime.paths import given_path

RUN = "run directory"
"""What `ad.runtime.files.read_limited` calls the folder of a run."""

LOG = "log.jsonl"
"""The log, which whoever works on a run has claimed."""


def run_around(run: Path) -> Path:
    """A run's directory, also where the ``model`` folder in it was given."""
    inside = run.name == "model" and not (run / "run.json").exists()
    return run.parent if inside and (run.parent / "run.json").is_file() else run


def check_saved(run: Path) -> None:
    """Refuse a run whose training was stopped before it saved a model.

    Raises:
        ModelFileError: If there is no model yet; it says how to go on.
    """
    begun, ended = (run / "run.json").is_file(), (run / "metrics.json").is_file()
    if os.path.lexists(run / "model") or not begun or ended:
        return
    command = read_run(run).get("command")
    again = command if isinstance(command, str) else "ad train ..."
    msg = (
        f"The training of `{run}` has not ended: there is no model in it yet.\n"
        f"hint: if it was stopped, go on with it: {again} --resume {shlex.quote(str(run))}"
    )
    raise ModelFileError(msg)


def model_folder(run: str | Path) -> Path:
    """The folder of the saved model: that of a run, or the one that is given.

    Raises:
        ModelFileError: If there is a file in its place, or the run's training has not ended.
    """
    folder = given_path(run, "the run")
    if is_exported(folder):
        msg = (
            f"`{folder}` is an exported model, which runs without torch: "
            f"`ad.runtime.load({str(folder)!r})` in Python, `ad predict` on the command line. "
            "`ad.core.load` takes the run that it was exported from."
        )
        raise ModelFileError(msg)
    check_saved(folder)
    if (folder / "model").is_file():
        msg = f"`{folder / 'model'}` is a file: a run's model is a folder. `{folder}` is no run."
        raise ModelFileError(msg)
    return folder / "model" if (folder / "model").is_dir() else folder


def read_run(run: Path) -> dict[str, Any]:
    """What a run was made of, from its ``run.json``.

    Raises:
        ModelFileError: If there is none, or it is not one that a run wrote.
    """
    try:
        record: dict[str, Any] = json.loads(read_limited(run / "run.json", RUN))
        settings = record["settings"]
        for key, value, kind in (
            ("dataset", settings["dataset"], str),
            ("category", settings["category"], str),
            ("seed", settings["seed"], int),
            ("data_root", settings["data_root"], (str, type(None))),
            ("training", record["data"]["training"], list),
        ):
            if not isinstance(value, kind):
                raise TypeError(key)
    except ModelFileError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        msg = (
            f"`{run}` is no run directory: its `run.json` cannot be read ({error}). "
            "Give a run directory that `ad train` wrote."
        )
        raise ModelFileError(msg) from error
    return record


@final
class RunLog(Callback):
    """``log.jsonl``: one JSON object a line with the time; each line is whole when it is there.

    Args:
        path: The file; it is added to.
        quiet: Write nothing: another process does.
    """

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path = path
        self.quiet = quiet

    def write(self, event: str, **values: object) -> None:
        """Add a line."""
        if self.quiet:
            return
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values})
        try:
            _append(self.path, line.encode() + b"\n")
        except OSError as error:
            raise OutputError(unwritable(self.path, error)) from error

    def on_epoch_end(self, state: LoopState) -> None:
        """Add an epoch's line; see `ad.core.callbacks.Callback`."""
        self.write("epoch", **asdict(state))


def _append(path: Path, line: bytes) -> None:
    """Add a whole line to a file, or nothing."""
    # Without a buffer, which would be written once more when the file is closed after a failure.
    with path.open("a+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":  # the process that wrote the last line was killed
                line = b"\n" + line
        left = line
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(size)
            raise


def read_log(run: Path) -> list[dict[str, Any]]:
    """The events of a run's ``log.jsonl``, in their order; none without one.

    A line that is not whole is left out: what wrote it was killed, or found the disk full.
    """
    path = run / LOG
    events = []
    content = read_limited(path, RUN, largest=LARGEST_LINES) if path.is_file() else b""
    for line in content.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append(event)
    return events


def read_notes(run: Path) -> list[str]:
    """What the trainer had users know of the learning, as the run's log has it; see `Trainer`."""
    events = {event["event"]: event for event in read_log(run)}  # the last one of each kind
    return [str(note) for note in events.get("saved", {}).get("notes", [])]


def read_data_notes(run: Path) -> list[str]:
    """What it found odd about its pictures when it began; none of a run of an older version."""
    begun = [event for event in read_log(run) if event["event"] in ("start", "resume")]
    return [str(note) for note in begun[-1].get("notes", [])] if begun else []


class Costs(NamedTuple):
    """What a run took, as its log has it; None where it does not say."""

    fit_seconds: float | None
    """Learning; of a resumed run, the last part."""
    seconds_per_picture: float | None
    """Decoding and scoring a test picture."""
    peak_memory_bytes: int | None
    """Largest memory of the process, learning and testing: of the GPU, if it ran on one, and of
    the machine otherwise."""
    resumed: bool
    """Whether it learnt in several parts."""


def read_costs(run: Path) -> Costs:
    """What a run took, from its ``log.jsonl``; all of it unknown without one."""
    events = {event["event"]: event for event in read_log(run)}  # the last one of each kind
    tested = events.get("tested", {})
    return Costs(
        fit_seconds=events.get("fitted", {}).get("seconds"),
        seconds_per_picture=tested.get("seconds", {}).get("test_per_image"),
        peak_memory_bytes=tested.get("peak_memory_bytes"),
        resumed="resume" in events,
    )


def calibrations_since(run: Path) -> list[dict[str, Any]]:
    """The events of a run's log that set its thresholds anew since it was trained, in their order.

    Those that were taken back are not among them, so that the last one is what holds.
    """
    events = read_log(run)
    saved = max((at for at, one in enumerate(events) if one["event"] == "saved"), default=-1)
    found: list[dict[str, Any]] = []
    for event in events[saved + 1 :]:
        if event["event"] == "calibrate":
            found.append(event)
        elif event["event"] == "undo":  # it went back to what there was, over equal ones too
            while found and found[-1]["after"] != event["after"]:
                found.pop()
    return found


def unwritable(log: Path, error: OSError) -> str:
    """Say why a log cannot be written."""
    return f"The log `{log}` cannot be written ({error.strerror})."
