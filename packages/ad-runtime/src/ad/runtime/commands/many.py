"""`ad-runtime predict --workers N` and what goes with it: many pictures."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ad.runtime.console import LineProgress, print_json, say
from ad.runtime.errors import SettingError
from ad.runtime.progress import SILENT

if TYPE_CHECKING:
    from ad.runtime.many.predicting import Many
    from ad.runtime.progress import Progress

_ASK = ("workers", "executor", "shard", "resume")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options for many pictures to a command that predicts."""
    many = command.add_argument_group("many pictures (with --output FILE.jsonl)")
    add = many.add_argument
    add("--workers", type=int, metavar="N", help="Processes that score; the cores are shared out.")
    add("--executor", choices=("local", "ray"), help="Here (default), or on a Ray cluster.")
    add("--shard", type=shard_of, metavar="K/N", help="Only the K-th of N parts, from 1 to N.")
    add("--resume", action="store_true", default=None, help="Go on with the output, if there.")


def shard_of(text: str) -> tuple[int, int]:
    """Read ``K/N``.

    Raises:
        argparse.ArgumentTypeError: If it is not that.
    """
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal()):
        msg = f"it takes K/N, such as 1/4; got `{text}`"
        raise argparse.ArgumentTypeError(msg)
    return int(first), int(second)


def asked(given: argparse.Namespace) -> bool:
    """Whether one of the options was given."""
    return any(getattr(given, name) is not None for name in _ASK)


def run(given: argparse.Namespace) -> int:
    """Score as the arguments say."""
    if given.heatmaps is not None:
        msg = "`--heatmaps` does not go with `--workers` and the like. Take `--save-maps`."
        raise SettingError(msg)
    return predict(given, SILENT if given.quiet else LineProgress())


def predict(given: argparse.Namespace, progress: Progress) -> int:
    """Score, and say what came of it.

    Args:
        given: Arguments, with ``export``, ``inputs``, ``output``, the options of `add_options`,
            ``engine``, ``device``, ``threads``, ``batch_size``, ``category``, ``threshold``,
            ``min_area``, ``only``, ``fail_on_defect``, ``quiet`` and ``json``.
        progress: Where to show how far it is.

    Returns:
        The exit status; see `ad.runtime.results.exit_status`.

    Raises:
        SettingError: If there is no output, or verdicts are asked for and there is no threshold.
    """
    if given.only is not None:
        msg = (
            "`--only` is for heat maps and a table, and many pictures have neither. Leave it out: "
            "each line of the file has its `verdict`."
        )
        raise SettingError(msg)
    from ad.runtime.many.predicting import predict_many
    from ad.runtime.results import exit_status

    if given.output is None:
        msg = (
            "Many pictures are written to a file: add `--output FILE.jsonl`, which `--resume` goes "
            "on with."
        )
        raise SettingError(msg)
    result = predict_many(
        given.export,
        given.inputs,
        output=given.output,
        workers=1 if given.workers is None else given.workers,
        executor=given.executor or "local",
        shard=given.shard,
        maps=given.maps,
        resume=bool(given.resume),
        engine=given.engine,
        device=given.device,
        threads=given.threads,
        batch_size=given.batch_size,
        category=given.category,
        threshold=given.threshold,
        min_area=given.min_area,
        verdicts_for="`--fail-on-defect`" if given.fail_on_defect else "",
        progress=progress,
    )
    _tell(result, json=given.json, quiet=given.quiet)
    verdicts = +result.verdicts
    return exit_status(verdicts, fail_on_defect=given.fail_on_defect)


def _tell(result: Many, *, json: bool, quiet: bool) -> None:
    from ad.runtime.results import summary

    if json:
        print_json(
            {
                "output": str(result.output),
                "pictures": result.pictures,
                "before": result.before,
                "verdicts": {name: result.verdicts[name] for name in sorted(result.verdicts)},
                "drift": result.drift.to_json(),
            }
        )
    say(summary([*result.verdicts.elements()]))
    if quiet:
        return
    for line in result.drift.lines():
        say(line)
    say(f"written to {result.output}")
