"""`ad-runtime watch` and `ad watch`: pictures scored as they appear in a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ad.runtime.commands.once import Parser
from ad.runtime.console import put, say
from ad.runtime.errors import counted
from ad.runtime.printable import in_one_line

TEXT = (
    "Score what appears in a folder, until it is stopped; a kill loses and repeats no picture. "
    "Started again, it goes on."
)


def add_watch(commands: Any) -> None:  # noqa: ANN401  argparse has no public name for it
    """Add the command to those of a parser."""
    command = commands.add_parser("watch", help="Score what appears in a folder.", description=TEXT)
    add_options(command)
    command.set_defaults(run=run)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("export", metavar="EXPORT", help="What `ad export` wrote.")
    add("folder", metavar="FOLDER", help="To watch, with its sub-folders.")
    add("--output", type=Path, metavar="FILE", help="Of JSON lines (default: FOLDER.jsonl).")
    after = command.add_mutually_exclusive_group()
    after.add_argument(
        "--move", type=_move, metavar="KIND=DIR,...", help="Kinds: good, defective, unreadable."
    )
    after.add_argument("--mark", action="store_true", help="Write PICTURE.verdict.json beside it.")
    add("--webhook", metavar="URL", help="Post each line there.")
    add("--interval", type=float, default=1.0, metavar="S", help="Between looks (default 1 s).")
    add("--once", action="store_true", help="End after what is there now.")
    add("--category", help="Take its threshold, where it has one of its own.")
    add("--threshold", type=float, metavar="SCORE", help="In place of the saved one, this time.")
    add("--min-area", type=int, metavar="N", help="Leave out regions of fewer pixels of a picture.")
    add("--engine", default="auto", help="auto, onnxruntime or openvino (default: made for).")
    add("--device", default="cpu", help="cpu, cuda[:N] or gpu[:N] (default cpu).")
    add("--threads", type=int, metavar="N", help="Of the CPU (default: all).")


def run(given: argparse.Namespace) -> int:
    """Watch as the arguments say; status 1 if a picture could not be read."""
    from ad.runtime.runtime import load
    from ad.runtime.watch.watching import Watched

    runtime = load(given.export, engine=given.engine, device=given.device, threads=given.threads)
    status = 0
    with Watched(
        runtime,
        given.folder,
        output=given.output,
        destinations=given.move,
        mark=given.mark,
        webhook=given.webhook,
        category=given.category,
        threshold=given.threshold,
        min_area=given.min_area,
        tell=say,
    ) as watched:
        known = counted(len(watched.journal), "picture is", "pictures are")
        say(f"watching `{watched.folder}`, {known} known")
        for line in watched.lines(interval=given.interval, once=given.once):
            score = "-" if line["score"] is None else f"{line['score']:.4g}"
            put(f"{line['verdict']:<9}  {score:>10}  {in_one_line(line['path'])}")
            sys.stdout.flush()  # into a pipe too: the next picture may come tomorrow
            if line["error"] is not None:
                status = 1
                say(f"error: {line['error']}")
    return status


def run_line(arguments: Sequence[str]) -> int:
    """Watch as a command line says, for commands that have this one among theirs."""
    parser = Parser(prog="ad watch", description=TEXT)
    add_options(parser)
    return run(parser.parse_args(arguments))


def _move(text: str) -> dict[str, Path]:
    from ad.runtime.watch.watching import destinations_of

    try:
        return destinations_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
