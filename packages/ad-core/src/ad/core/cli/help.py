"""``--help`` that reads well at 80 columns: options in panels by what they are about, no types.

Typer's own gives a third of the line to names of Python's types. What is shown here is what it
knows of a command, in two columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from ad.core.cli.once import GivenOnce

if TYPE_CHECKING:
    from rich.console import Console

_PANELS = {
    "Data": "data_root img_size fit resize crop roi tile overlap tile_scale supervised normals "
    "validation images textures recipe count listed every",
    "Learning": "set_ epochs steps budget batch_size patience weights normalize compile "
    "feature_cache seed seeds",
    "Threshold": "holdout false_alarms threshold pixel_threshold min_area undo category",
    "Machine": "device precision compiled jobs executor workers shard cores gpus",
    "Output": "output format_ input_ max_batch single_file check force resume report save_maps "
    "heatmaps only colours fail_on_defect quiet recommend latency memory track json",
}
"""Which options a panel has, by the names of their parameters; all others are in the last one."""

_OTHERS = "Other"
_FEW = 9
"""Up to so many options, one panel holds all of them."""

_WIDTH_OF_NAMES = 27


# A command, a parameter and a context are of the click within Typer, whose home is its own affair.
class Command(GivenOnce, TyperCommand):
    """A command with such a help, of which no option takes two values."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """What follows its name: ``[OPTIONS] RUN PATH...``."""
        names = [_argument(one) for one in self.get_params(ctx) if _is_argument(one)]
        return ["[OPTIONS]", *names]

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Print it."""
        _print_help(self, ctx, {})


class Group(GivenOnce, TyperGroup):
    """A command that has commands, with such a help, of which no option takes two values."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Print it."""
        commands: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows = commands.setdefault(_own_panel(command) or "Commands", [])
                rows.append((name, (_paragraphs(command.help) or [""])[0]))
        _print_help(self, ctx, commands)


def panel_of(name: str) -> str:
    """The panel of an option, by the name of its parameter."""
    return next((panel for panel, names in _PANELS.items() if name in names.split()), _OTHERS)


def _print_help(
    command: TyperCommand | TyperGroup,
    ctx: Any,  # noqa: ANN401
    commands: Mapping[str, Sequence[tuple[str, str]]],
) -> None:
    from rich.text import Text

    from ad.core.cli.console import console

    screen = console()
    screen.print(f"\nUsage: {' '.join([ctx.command_path, *command.collect_usage_pieces(ctx)])}\n")
    for paragraph in _paragraphs(command.help):
        screen.print(Text.from_markup(f"{paragraph}\n"))
    shown = [one for one in command.get_params(ctx) if not getattr(one, "hidden", False)]
    arguments = [one for one in shown if _is_argument(one)]
    options = [one for one in shown if not _is_argument(one)]
    _print_panel(screen, "Arguments", ((_argument(one), _told(one)) for one in arguments))
    few = len(options) <= _FEW
    panels: dict[str, list[Any]] = {panel: [] for panel in (*_PANELS, _OTHERS)}
    for one in options:
        own = _own_panel(one) or ("Options" if few else panel_of(one.name))
        panels.setdefault(own, []).append(one)
    for panel, members in panels.items():
        _print_panel(screen, panel, ((_option(one), _told(one)) for one in members))
    for panel, rows in commands.items():
        _print_panel(screen, panel, rows, width=max(len(name) for name, _ in rows))
    for paragraph in _paragraphs(command.epilog):
        screen.print(Text.from_markup(f"{paragraph}\n"))


def _print_panel(
    screen: Console, title: str, rows: Iterable[tuple[str, str]], *, width: int = _WIDTH_OF_NAMES
) -> None:
    """Print rows of a name and what it is; nothing where there are none."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=width, overflow="fold", style="bold cyan")
    table.add_column(ratio=1)
    for name, told in rows:
        table.add_row(name, Text.from_markup(told))
    if table.row_count:
        screen.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _is_argument(parameter: Any) -> bool:  # noqa: ANN401
    return bool(parameter.param_type_name == "argument")


def _argument(parameter: Any) -> str:  # noqa: ANN401
    name = (parameter.metavar or parameter.name.upper()).removesuffix("...")
    name += "..." if parameter.nargs != 1 else ""
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:  # noqa: ANN401
    """Its names, and what is to be typed behind them: ``--seed N``, ``--fit stretch|pad|crop``."""
    long = sorted(parameter.opts, key=lambda name: name.startswith("--"))
    names = "/".join([", ".join(long), *parameter.secondary_opts])
    if getattr(parameter, "is_flag", False):
        return names
    kind = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    choices = getattr(kind, "choices", None)
    value = parameter.metavar or "|".join(map(_plain, choices or ["VALUE"]))
    return f"{names} {value}"


def _told(parameter: Any) -> str:  # noqa: ANN401
    """What it is, and its default."""
    text = parameter.help or ""
    default = parameter.default
    if parameter.required and not _is_argument(parameter):
        return f"{text} [dim](required)[/dim]"
    if not parameter.show_default or not isinstance(default, bool | int | float | str | Path):
        return text
    if default is False or default == "":
        return text
    if getattr(parameter, "is_flag", False):
        default = parameter.opts[-1]
    return f"{text} [dim](default: {_plain(default)})[/dim]"


def _plain(value: object) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)


def _own_panel(one: Any) -> str | None:  # noqa: ANN401
    """The panel that its author chose."""
    panel = getattr(one, "rich_help_panel", None)
    return panel if isinstance(panel, str) else None


def _paragraphs(text: str | None) -> list[str]:
    """Paragraphs of a docstring, without its line breaks."""
    return [" ".join(part.split()) for part in (text or "").split("\n\n") if part.strip()]
