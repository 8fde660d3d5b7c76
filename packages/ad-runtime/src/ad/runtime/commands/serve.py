"""`ad-runtime serve` and `ad serve`: their options, and what is missing to run them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ad.runtime.commands.once import Parser
from ad.runtime.errors import MissingExtraError, how_to_install

SHORT = "Serve exported models over HTTP: the Open Inference Protocol v2, and a page for people."
TEXT = (
    f"{SHORT} The address is printed once requests are answered; the log is on stderr, a JSON "
    "object a line."
)
_NEEDED = ("starlette", "uvicorn", "prometheus_client")


def add_serve(commands: Any) -> None:  # noqa: ANN401  argparse has no public name for it
    """Add the command to those of a parser.

    Args:
        commands: What `ArgumentParser.add_subparsers` gave.
    """
    command = commands.add_parser("serve", help=SHORT, description=TEXT)
    add_options(command)
    command.set_defaults(run=run)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = command.add_argument
    add("exports", nargs="*", type=_path, metavar="EXPORT", help="What `ad export` wrote.")
    add(
        "--models",
        type=_path,
        metavar="DIR",
        help="Serve every sub-folder, under its name; NAME/1, NAME/2, ... are versions.",
    )
    add("--host", default="127.0.0.1", help="Address to listen at (default: this machine alone).")
    add("--port", type=int, default=8000, help="Port (default 8000); 0 for any that is free.")
    add(
        "--token-file",
        type=_path,
        metavar="FILE",
        help="Clients must send the token in it; readable by nobody but you (chmod 600).",
    )
    add("--without-token", action="store_true", help="Let anybody who reaches the server use it.")
    add("--control", action="store_true", help="Let clients load and unload models.")
    add("--engine", default="auto", help="auto, onnxruntime or openvino (default: made for).")
    add("--device", default="cpu", help="cpu, cuda[:N] or gpu[:N] (default cpu).")
    add("--workers", type=int, default=1, metavar="N", help="Pictures at a time (default 1).")
    add("--threads", type=int, metavar="N", help="Of the CPU for each (default: all, shared out).")
    add("--queue", type=int, default=64, metavar="N", help="Requests at once (default 64).")
    add(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="Seconds to an answer (default 30).",
    )
    add(
        "--drain",
        type=float,
        default=10.0,
        metavar="S",
        help="Seconds to go on for after SIGTERM, not ready any more (default 10).",
    )


def run(given: argparse.Namespace) -> int:
    """Serve as the arguments say.

    Raises:
        MissingExtraError: If a package that it needs is not installed.
        AdError: As `ad.runtime.serve.process.serve` does.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        msg = f"The server needs {', '.join(missing)}: {how_to_install('ad-runtime', 'serve')}"
        raise MissingExtraError(msg)
    from ad.runtime.serve.limits import Limits
    from ad.runtime.serve.process import Options, serve

    limits = Limits(queue=given.queue, timeout=given.timeout, drain=given.drain)
    shared = {"queue", "timeout", "drain", "run"}
    others = {name: value for name, value in vars(given).items() if name not in shared}
    serve(Options(**others, limits=limits))
    return 0


def run_line(arguments: Sequence[str]) -> int:
    """Serve as a command line says, for commands that have this one among theirs.

    Args:
        arguments: Behind the command's name.
    """
    parser = Parser(prog="ad serve", description=TEXT)
    add_options(parser)
    return run(parser.parse_args(arguments))


def _path(text: str) -> Path:
    if not text:
        msg = "an empty path: is a variable not set?"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)
