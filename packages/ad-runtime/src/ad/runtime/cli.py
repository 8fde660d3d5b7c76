"""The command `ad-runtime`: exported detectors from a terminal or a script, without torch.

Data go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 misused, 130 stopped
by Ctrl-C; `predict` has 3 and 4, too.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad.runtime.commands import many
from ad.runtime.commands.bench import add_bench
from ad.runtime.commands.calibrate import add_calibrate
from ad.runtime.commands.once import Parser
from ad.runtime.commands.serve import add_serve
from ad.runtime.commands.watch import add_watch
from ad.runtime.console import LineProgress, print_error, print_json, put, say, show_warning
from ad.runtime.errors import AdError, PictureError, SettingError, counted
from ad.runtime.printable import in_one_line

if TYPE_CHECKING:
    from ad.runtime.findings import Finding
    from ad.runtime.map_files import MapFolder
    from ad.runtime.package import Package
    from ad.runtime.results import Row
    from ad.runtime.runtime import Runtime

_NO_READER = 141
"""Exit status where the reader of stdout has gone: a shell's for a process that SIGPIPE ends."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; turn deliberate errors into a message and an exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is shown
        sys.stdout.reconfigure(errors="backslashreplace")
    given = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            status = given.run(given)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read stdout has gone: `ad-runtime predict ... | head`
        # What is still to be written would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = _NO_READER
    except AdError as error:
        print_error(error)
        status = 1
    except KeyboardInterrupt:
        say("stopped")
        status = 130
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="ad-runtime", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_info(commands)
    _add_verify(commands)
    add_calibrate(commands)
    add_watch(commands)
    add_bench(commands)
    add_serve(commands)
    return parser


def _add_predict(commands: Any) -> None:  # noqa: ANN401
    text = (
        "Score pictures. Exit status: 0 done, 1 failed, 2 misused, 3 a picture could not be read, "
        "4 one is defective (with --fail-on-defect, and if all could be read)."
    )
    command = commands.add_parser("predict", help="Score pictures.", description=text)
    _add_export(command)
    inputs = command.add_argument(
        "inputs",
        nargs="+",
        default=[],
        metavar="PATH",
        help="Pictures, folders, videos, quoted patterns ('new/**/*.png'); - reads stdin.",
    )
    command.add_argument(
        "--list",
        action=_instead_of(inputs),
        type=_path,
        metavar="FILE",
        help="Names of pictures and folders, one a line, from the current folder on.",
    )
    command.add_argument(
        "--every",
        metavar="N|Ns",
        help="Of videos, each N-th frame, or one each N seconds (1s, 0.5s, 40ms); default all.",
    )
    _add_engine(command)
    command.add_argument("--category", help="Take its threshold, where it has one of its own.")
    command.add_argument(
        "--threshold", type=float, metavar="SCORE", help="In place of the saved one, this time."
    )
    command.add_argument(
        "--min-area", type=int, metavar="N", help="Leave out regions of fewer pixels of a picture."
    )
    command.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="Pictures at once (default 1)."
    )
    command.add_argument("--json", action="store_true", help="Print one JSON object.")
    command.add_argument(
        "--output",
        type=_path,
        metavar="FILE",
        help="New file .csv or .jsonl, a line a picture; regions in NAME-regions.csv.",
    )
    maps = command.add_mutually_exclusive_group()
    maps.add_argument("--heatmaps", type=_path, metavar="DIR", help="New folder for overlays.")
    maps.add_argument("--no-heatmaps", action="store_true", help="Write none (default).")
    command.add_argument(
        "--save-maps",
        "--maps",
        dest="maps",
        type=_path,
        metavar="DIR",
        help="New folder for the maps of all, in the pictures' own pixels, as .npz.",
    )
    command.add_argument(
        "--only",
        choices=("defective",),
        help="Overlays and printed lines of these alone; the output has all.",
    )
    command.add_argument(
        "--fail-on-defect", action="store_true", help="Status 4 if a picture is defective."
    )
    command.add_argument(
        "--quiet", action="store_true", help="Say errors and the last line, the summary, alone."
    )
    many.add_options(command)
    command.set_defaults(run=_predict)


def _add_info(commands: Any) -> None:  # noqa: ANN401
    text = "Say what an exported model is. Opens no engine."
    command = commands.add_parser("info", help=text, description=text)
    _add_export(command)
    command.add_argument("--json", action="store_true", help="Print one JSON object.")
    command.set_defaults(run=_info)


def _add_verify(commands: Any) -> None:  # noqa: ANN401
    text = "Check an exported model's files, and that an engine scores as it did elsewhere."
    command = commands.add_parser("verify", help=text, description=text)
    _add_export(command)
    _add_engine(command)
    command.set_defaults(run=_verify)


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("export", metavar="EXPORT", help="The folder that `ad export` wrote.")


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine", default="auto", help="auto, onnxruntime or openvino (default: made for)."
    )
    command.add_argument("--device", default="cpu", help="cpu, cuda[:N] or gpu[:N] (default cpu).")
    command.add_argument("--threads", type=int, metavar="N", help="Of the CPU (default: all).")


def _path(text: str) -> Path:
    if not text:
        msg = "an empty path: is a variable not set?"
        raise argparse.ArgumentTypeError(msg)
    return Path(text)


def _instead_of(argument: argparse.Action) -> type[argparse.Action]:
    """An option that makes an argument one that may be left out."""

    class Instead(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,  # noqa: ARG002
            namespace: argparse.Namespace,
            values: Any,  # noqa: ANN401
            option_string: str | None = None,  # noqa: ARG002
        ) -> None:
            setattr(namespace, self.dest, values)
            # Not by `nargs="*"`, which takes what stands before the next option: nothing.
            argument.required = False

    return Instead


def _load(given: argparse.Namespace) -> Runtime:
    from ad.runtime.runtime import load

    return load(given.export, engine=given.engine, device=given.device, threads=given.threads)


def _predict(given: argparse.Namespace) -> int:
    import contextlib

    from ad.runtime.drift import compare
    from ad.runtime.findings import Finding, check_batch_size
    from ad.runtime.ordered import in_order
    from ad.runtime.pictures.frames import check_every
    from ad.runtime.progress import SILENT
    from ad.runtime.results import (
        FilesBeside,
        ResultFile,
        Row,
        Rows,
        exit_status,
        refuse_without_threshold,
        worst,
    )
    from ad.runtime.sources import find_sources, named_sources

    if given.quiet:
        warnings.simplefilter("ignore")
    # A mistyped path is refused before anything is loaded or written.
    given.inputs = named_sources(given.inputs, listed=given.list)
    check_every(given.every, given.inputs)
    if many.asked(given):
        return many.run(given)
    runtime = _load(given)
    calibration = runtime.calibration(given.category, given.threshold)
    least = runtime.least_area(given.min_area, given.category, given.threshold)
    refuse_without_threshold(
        "`--only defective`" if given.only else "`--fail-on-defect`" * given.fail_on_defect,
        None if calibration is None else calibration.threshold,
        runtime.config.name,
    )
    check_batch_size(given.batch_size)
    sources = find_sources(given.inputs, every=given.every)
    pictures = [source for source in sources if isinstance(source, Path)]
    limit = None if calibration is None else calibration.threshold
    files = None if given.maps is None else _map_files(given.maps, pictures, runtime, limit)
    heatmaps = (
        None if given.heatmaps is None else _HeatMaps(given.heatmaps, pictures, runtime, least)
    )
    rows, beside = Rows(), FilesBeside()
    whole = sys.stdout.isatty()  # a terminal gets the highest scores once all are known
    with contextlib.ExitStack() as stack:
        file = None if given.output is None else stack.enter_context(ResultFile(given.output))
        findings = runtime.stream(
            pictures,
            batch_size=given.batch_size,
            category=given.category,
            threshold=given.threshold,
            min_area=given.min_area,
            progress=SILENT if given.quiet else LineProgress(),
        )

        def told(numbered: tuple[int, Finding]) -> Row:
            number, finding = numbered
            wanted = given.only in (None, finding.verdict)
            try:
                if files is not None and finding.map is not None and finding.score is not None:
                    beside.write(
                        "no `--save-maps`", files.write, number, finding.score, finding.map
                    )
                if heatmaps is None or finding.map is None or not wanted:
                    return Row.of(finding)
                drawn = beside.write(
                    "`--no-heatmaps`", heatmaps.write, number, finding, calibration
                )
                return Row.of(finding, drawn)
            except PictureError as error:  # it is not the one any more that was scored
                return Row.of(Finding(path=finding.path, score=None, error=str(error)))

        for row in in_order(enumerate(beside.until_failure(findings)), told):
            if file is not None:
                file.add(row)
            rows.add(row)
            if not (whole or given.json or given.quiet) and given.only in (None, row.verdict):
                put(_line(row))
            if row.error is not None:
                say(f"error: {row.error}")
    beside.check(len(rows), len(pictures), given.output)
    _, together = runtime.config.calibration_of(given.category)
    drift = compare(calibration, rows.scores, categories=together)
    if given.json:
        threshold = None if calibration is None else calibration.threshold
        counted = None if calibration is None else calibration.false_regions
        print_json(
            {
                "threshold": threshold,
                "min_area": least,
                "false_regions": None if counted is None else counted.to_json(),
                "predictions": (row.to_json() for row in rows),
                "drift": drift.to_json(),
            }
        )
    elif whole and not given.quiet:
        shown = worst(row for row in rows if given.only in (None, row.verdict))
        for row in shown:
            put(_line(row))
        asked = len(rows) if given.only is None else rows.verdicts[given.only]
        if more := asked - len(shown):
            where = f"in {given.output}" if given.output else "that `--output FILE.csv` keeps"
            say(f"the {len(shown)} highest scores; {more} more {where}")
    say(rows.summary())
    status = exit_status(rows.verdicts, fail_on_defect=given.fail_on_defect)
    if given.quiet:
        return status
    regions = None if calibration is None else calibration.promise_of_regions(least)
    if regions is not None:
        say(regions)
    for line in drift.lines():
        say(line)
    return status


def _line(row: Row) -> str:
    score = "-" if row.score is None else f"{row.score:.4g}"
    scaled = "-" if row.normalized is None else f"{row.normalized:.3f}"
    return f"{row.verdict:<9}  {score:>10}  {scaled:>5}  {in_one_line(row.path)}"


def _map_files(
    folder: Path, pictures: Sequence[Path], runtime: Runtime, threshold: float | None
) -> MapFolder:
    from ad.runtime.map_files import MapFolder, make_map_folder, refuse_without_maps

    refuse_without_maps(runtime.config.name, localises=runtime.localises)
    make_map_folder(folder)
    return MapFolder(folder, pictures, framing=runtime.config.framing, threshold=threshold)


class _HeatMaps:
    """Overlays, one for each picture, in a folder of their own."""

    def __init__(
        self, folder: Path, pictures: Sequence[Path], runtime: Runtime, min_area: int
    ) -> None:
        from ad.runtime.errors import OutputError
        from ad.runtime.numbered import numbered_names

        if not runtime.localises:
            msg = (
                f"`{runtime.config.name}` judges pictures as a whole and has no maps to show. "
                "Leave `--heatmaps` out."
            )
            raise SettingError(msg)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            reason = "it exists already" if folder.exists() else error.strerror
            msg = f"The folder `{folder}` cannot be made ({reason}). Name another one."
            raise OutputError(msg) from error
        self.folder = folder
        self.runtime = runtime
        self.min_area = min_area
        self.names = numbered_names(pictures, ".jpg")

    def write(self, number: int, finding: Finding, calibration: Any) -> Path:  # noqa: ANN401
        from ad.runtime.numbered import write_numbered
        from ad.runtime.overlays import overlay_of
        from ad.runtime.pictures.opening import drawn_jpeg
        from ad.runtime.pictures.reading import glimpse

        assert finding.path is not None
        config = self.runtime.config
        picture = glimpse(finding.path, white=config.white_level)
        sheet = overlay_of(finding, picture, config.framing, calibration, min_area=self.min_area)
        return write_numbered(self.folder, self.names[number], drawn_jpeg(sheet))


def _info(given: argparse.Namespace) -> int:
    from ad.runtime.package import read_package
    from ad.runtime.paths import given_path

    package = read_package(given_path(given.export, "the exported model"))
    if given.json:
        print_json(
            {
                "path": str(package.path),
                "config": package.config.to_json(),
                "sha256": dict(package.sha256),
                "parity": None if package.parity is None else dict(package.parity),
            }
        )
        return 0
    for name, value in _facts(package):
        put(f"{name:<12}{value}")
    return 0


def _facts(package: Package) -> list[tuple[str, str]]:
    """What a person wants to know of an exported model, each with its name."""
    config = package.config
    calibration, framing = config.calibration, config.framing
    facts = [
        ("name", config.name),
        ("model", config.model),
        ("made for", f"{config.engine}, {config.precision}"),
        ("input", f"{config.input.name} {config.input.dtype}, {framing.size}"),
        ("output", "score and map" if config.localises else "score"),
        ("trained on", ", ".join(config.categories)),
    ]
    facts += [("looks at", note) for note in framing.notes()]
    if calibration is None:
        facts.append(("threshold", "none: scores rank pictures, and there are no verdicts"))
    else:
        facts.append(("threshold", f"{calibration.threshold:.4g}; {calibration.promise()}"))
        if (regions := calibration.promise_of_regions()) is not None:
            facts.append(("", regions))
    for name, own in config.calibrations.items():
        facts.append(("", f"{own.threshold:.4g} for {name}; {own.promise()}"))
    if config.calibrated_on is not None:
        facts.append(("found by", str(config.calibrated_on)))
    if package.parity is not None:
        passed = package.parity.get("passed")
        words = "not checked" if type(passed) is not bool else "as the detector's"
        if passed is False:
            words = "NOT as the detector's (it was exported with `--force`)"
        facts.append(("scores", f"{words}, see {package.path / 'parity.json'}"))
    facts.append(("licence", config.origin.licence or "not recorded"))
    facts += [("sha256", f"{hashed}  {name}") for name, hashed in sorted(package.sha256.items())]
    return [(name, in_one_line(value)) for name, value in facts]


def _verify(given: argparse.Namespace) -> int:
    import time

    from ad.runtime.probe import compared, noise

    runtime = _load(given)
    package = runtime.package
    if package.path.is_dir():
        put(counted(len(package.sha256), "file is the one", "files are those") + " that were saved")
    else:
        put("a single file, whose hash nothing vouches for; compare it with where it is from:")
        for name, hashed in sorted(package.sha256.items()):
            put(f"{hashed}  {in_one_line(name)}")
    put(compared(runtime, package.parity))  # the first picture prepares what all others use
    size = runtime.config.framing.size
    picture = noise(size)
    began = time.perf_counter()
    runtime.score(picture)
    milliseconds = 1000 * (time.perf_counter() - began)
    put(f"{runtime.engine.described} runs it: {milliseconds:.1f} ms for a picture of {size}")
    return 0


if __name__ == "__main__":
    main()
