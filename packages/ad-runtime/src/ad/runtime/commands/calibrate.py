"""`ad-runtime calibrate`: the threshold of an exported model, set where it works, without torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ad.runtime.console import LineProgress, print_json, put, say
from ad.runtime.errors import DataError, SettingError

if TYPE_CHECKING:
    from ad.runtime.calibration import Calibration
    from ad.runtime.recalibrating import Renewed


def add_calibrate(commands: Any) -> None:  # noqa: ANN401  argparse has no public name for it
    """Add the command to those of a parser."""
    text = (
        "Set the threshold of an exported model by its own scores, where it will work: with the "
        "engine, device and threads that it will have there. The model's file stays as it is."
    )
    command = commands.add_parser("calibrate", help="Set the threshold here.", description=text)
    add = command.add_argument
    add("export", metavar="EXPORT", help="The folder that `ad export` wrote.")
    add("--normals", metavar="DIR", help="Good pictures that the detector has not learnt from.")
    add(
        "--false-alarms",
        type=float,
        metavar="F",
        help="Share of good pictures that may be called defective (default 0.01).",
    )
    add("--threshold", type=float, metavar="SCORE", help="In their place: one of your choice.")
    add("--pixel-threshold", type=float, metavar="SCORE", help="With it: the same for pixels.")
    add("--engine", help="auto, onnxruntime or openvino (default: made for).")
    add("--device", help="cpu, cuda[:N] or gpu[:N] (default cpu).")
    add("--threads", type=int, metavar="N", help="Of the CPU (default: all).")
    add("--json", action="store_true", help="Print one JSON object.")
    command.set_defaults(run=run)


class Good(NamedTuple):
    """A good picture; of which category it is nobody says."""

    path: Path
    category: str = ""
    label: int = 0
    split: str = "test"
    masks: tuple[Path, ...] = ()


def run(given: argparse.Namespace) -> int:
    """Set it as the arguments say."""
    by_pictures = ("normals", "false_alarms", "engine", "device", "threads")
    options = vars(given)
    beside = [f"`--{name.replace('_', '-')}`" for name in by_pictures if options[name] is not None]
    by_hand = given.threshold is not None
    if by_hand == (given.normals is not None) or (by_hand and beside):
        got = ", ".join([*(["`--threshold`"] if by_hand else []), *beside]) or "neither"
        msg = (
            "Give either good pictures (`--normals DIR`, and what goes with them), or a threshold "
            f"of your own (`--threshold SCORE`); got {got}."
        )
        raise SettingError(msg)
    if given.pixel_threshold is not None and not by_hand:
        msg = "`--pixel-threshold` goes with `--threshold SCORE`. Leave it out, or give that, too."
        raise SettingError(msg)
    renewed = _by_hand(given) if by_hand else _by_normals(given)
    if given.json:
        before = renewed.before
        print_json(
            {
                "path": str(given.export),
                "before": None if before is None else before.facts(),
                "after": renewed.after.facts(),
                "checked": renewed.checked,
                "notes": list(renewed.notes),
            }
        )
    else:
        put(f"before  {described(renewed.before)}")
        put(f"now     {described(renewed.after)}")
    for note in renewed.notes:
        say(f"note: {note}")
    say(f"the change is kept in {renewed.log}")
    return 0


def described(calibration: Calibration | None) -> str:
    """A calibration for a person: its thresholds, and below, indented, what they promise."""
    if calibration is None:
        return "no threshold"
    pixels = calibration.pixel_threshold
    of_pixels = "" if pixels is None else f", {pixels:.4g} for pixels"
    lines = [f"threshold {calibration.threshold:.4g}{of_pixels}", calibration.promise()]
    if (regions := calibration.promise_of_regions()) is not None:
        lines.append(regions)
    return "\n        ".join(lines)


def _by_hand(given: argparse.Namespace) -> Renewed:
    from ad.runtime.paths import given_path
    from ad.runtime.recalibrating import by_hand

    path = given_path(given.export, "the exported model")
    return by_hand(path, given.threshold, given.pixel_threshold)


def _by_normals(given: argparse.Namespace) -> Renewed:
    from ad.runtime.calibration.by_rate import DEFAULT_FALSE_ALARMS, check_false_alarms
    from ad.runtime.paths import given_path
    from ad.runtime.pictures.contents import check_good_pictures
    from ad.runtime.pictures.good import NO_PICTURES, pictures_of_good_parts
    from ad.runtime.recalibrating import UNCHECKED, at_work, by_normals, changeable

    rate = DEFAULT_FALSE_ALARMS if given.false_alarms is None else given.false_alarms
    check_false_alarms(rate)
    package = changeable(given_path(given.export, "the exported model"))
    folder = given_path(given.normals, "`--normals`")
    if not (found := pictures_of_good_parts(folder)):
        raise DataError(NO_PICTURES.format(folder=folder))
    good, progress = [Good(path) for path in found], LineProgress()
    odd = check_good_pictures(good, progress=progress)
    runtime = at_work(
        package,
        engine=given.engine or "auto",
        device=given.device or "cpu",
        threads=given.threads,
    )
    return by_normals(
        runtime,
        good,
        rate,
        source=folder,
        checked=False,
        notes=(*odd, UNCHECKED),
        progress=progress,
    )
