"""The `ad` command: one module per sub-command, heavy imports inside the commands.

Data go to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 misused, 130
stopped by Ctrl-C, 143 by SIGTERM; `ad predict` has 3 and 4, too.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

from ad.core.__about__ import __version__
from ad.core.cli import (
    bench,
    benchmark,
    calibrate,
    check,
    data,
    datasets,
    demo,
    doctor,
    evaluate,
    export,
    models,
    new_model,
    predict,
    report,
    serve,
    show,
    synth,
    train,
    watch,
)
from ad.core.cli.help import Command, Group
from ad.core.errors import AdError, Interrupted, LearningError, PluginError
from ad.core.learning.distributed import end_process, is_main
from ad.core.registry import COMMANDS
from ad.runtime.console import show_warning

app = typer.Typer(
    name="ad",
    help="Visual anomaly detection: learn from pictures of good parts, find the bad ones.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    cls=Group,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Try it: [bold]ad demo[/bold]. Your own pictures: "
    "[bold]ad train folder ./parts patchcore[/bold]",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ad {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


_START, _WORK, _LINE, _OWN = "To begin with", "Detectors", "On the line", "Models of your own"

for _panel, _name, _command in (
    (_START, "demo", demo.demo),
    (_START, "doctor", doctor.doctor),
    (_START, "models", models.models),
    (_START, "show", show.show),
    (_START, "datasets", datasets.datasets),
    (_WORK, "train", train.train),
    (_WORK, "predict", predict.predict),
    (_WORK, "report", report.report),
    (_WORK, "evaluate", evaluate.evaluate),
    (_WORK, "calibrate", calibrate.calibrate),
    (_WORK, "bench", bench.bench),
    (_LINE, "export", export.export),
    (_LINE, "benchmark", benchmark.benchmark),
    (_OWN, "new-model", new_model.new_model),
    (_OWN, "check", check.check),
    (_OWN, "synth", synth.synth),
):
    app.command(_name, cls=Command, rich_help_panel=_panel)(_command)
app.command("serve", help=serve.HELP, context_settings=serve.SETTINGS, rich_help_panel=_LINE)(
    serve.serve
)
app.command("watch", help=watch.HELP, context_settings=serve.SETTINGS, rich_help_panel=_LINE)(
    watch.watch
)
app.add_typer(data.app, name="data", rich_help_panel=_START)


def add_plugged_in() -> None:
    """Add the commands that installed families bring, as entry points of `ad.commands`."""
    for point in entry_points(group=COMMANDS):
        try:
            command = point.load()
        except Exception as error:  # a broken plug-in breaks nothing but itself
            command = _broken(point, error)
        app.command(point.name, cls=Command, rich_help_panel="Added by families")(command)


def _broken(point: EntryPoint, error: Exception) -> Callable[[], None]:
    def command() -> None:
        owner = point.dist.name if point.dist else "an unnamed distribution"
        msg = (
            f"The command `{point.name}` (`{point.value}` of `{owner}`) cannot be imported: "
            f"{type(error).__name__}: {error}"
        )
        raise PluginError(msg)

    command.__doc__ = "Cannot be imported; call it to see why."
    return command


def main() -> None:
    """Run the command line; turn deliberate errors into a message and an exit status."""
    import ad

    if getattr(ad, "__file__", None):
        sys.exit(
            f"error: another distribution's `ad` package ({ad.__file__}) hides this one\n\n"
            "hint: pip uninstall ad"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is shown
        sys.stdout.reconfigure(errors="backslashreplace")
    add_plugged_in()
    try:
        _run()
    except SystemExit as ending:
        end_process(ending.code if isinstance(ending.code, int) else 0)
        raise


def _run() -> None:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            app(prog_name="ad")  # also as `python -m ad.core.cli`
    except AdError as error:
        from ad.core.cli.console import print_error

        if is_main() or not isinstance(error, Interrupted | LearningError):
            print_error(error)  # of those, all processes that learn together have the same
        sys.exit(error.status if isinstance(error, Interrupted) else 1)
