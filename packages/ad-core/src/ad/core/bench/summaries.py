"""The figures of a bench as tables to put elsewhere: ``summary.csv``, ``.md`` and ``.tex``.

A row for each model with its settings, a column for each category and the mean over them, a table
for each figure. The best of a column is bold, and so is all that reads the same.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ad.core.report.comparison import Compared
from ad.core.report.standings import Cell, Grid, grid, keys_of, title_of, written
from ad.runtime.files import write_atomic
from ad.runtime.printable import in_one_line

FILES = ("summary.csv", "summary.md", "summary.tex")
"""Their names."""


def write_summaries(output: Path, compared: Compared, notes: Sequence[str] = ()) -> list[Path]:
    """Write the three files, each in place of an older one.

    Args:
        output: Their folder.
        compared: The runs that are done.
        notes: What a reader must know beyond what the runs say themselves.

    Returns:
        The files.

    Raises:
        OutputError: If one cannot be written.
    """
    notes = [*notes, *compared.caveats]
    grids = [grid(compared.rows, compared.columns, key) for key in keys_of(compared.runs)]
    texts = (
        _csv(compared, grids),
        _markdown(compared, grids, notes),
        _latex(compared, grids, notes),
    )
    paths = [output / name for name in FILES]
    for path, text in zip(paths, texts, strict=True):
        write_atomic(path, text.encode(errors="replace"))
    return paths


def _csv(compared: Compared, grids: Sequence[Grid]) -> str:
    """Full precision: a line for each figure and model, three columns for each category."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = [*_columns(compared), "mean"]
    parts = [[name, f"{name} deviation", f"{name} seeds"] for name in names]
    writer.writerow(["figure", "model", *(one for part in parts for one in part), "categories"])
    for one in grids:
        for row, cells, mean, covered in zip(compared.rows, *one[1:], strict=True):
            numbers = [
                "" if value is None else value
                for cell in (*cells, mean)
                for value in (cell.mean, cell.deviation, cell.seeds)
            ]
            writer.writerow([one.key, row.label, *numbers, covered])
    return text.getvalue()


def _markdown(compared: Compared, grids: Sequence[Grid], notes: Sequence[str]) -> str:
    names = [_markdown_text(name) for name in _columns(compared)]
    parts = [f"# {len(compared.runs)} runs of `ad bench`", _legend(compared, grids)]
    parts += [f"- {_markdown_text(note)}" for note in notes]
    for one in grids:
        head = ["model", *names, *(["mean"] if len(names) > 1 else [])]
        lines = [f"## {title_of(one.key)}", "", f"| {' | '.join(head)} |"]
        lines.append(f"|---|{'---:|' * (len(head) - 1)}")
        for label, cells in _cells(compared, one, "**{}**".format, " ± "):
            lines.append(f"| {' | '.join([_code(label), *cells])} |")
        parts.append("\n".join(lines))
    said = [*(one.words() for one in compared.contrasts.pairs), *compared.contrasts.notes]
    parts += ["## Which differences are real", "In image AUROC."]
    parts.append("\n".join(f"- {_markdown_text(line)}" for line in said))
    return "\n\n".join(part for part in parts if part) + "\n"


def _latex(compared: Compared, grids: Sequence[Grid], notes: Sequence[str]) -> str:
    """Plain LaTeX, the notes as comments; the rules are those of booktabs where that is loaded."""
    names = [_latex_text(name) for name in _columns(compared)]
    lines = [
        "% To be included by input. LaTeX alone will do; the package booktabs makes finer rules.",
        *(f"% {in_one_line(note)}" for note in notes),
        *(rf"\providecommand{{\{rule}rule}}{{\hline}}" for rule in ("top", "mid", "bottom")),
    ]
    for one in grids:
        head = ["model", *names, *(["mean"] if len(names) > 1 else [])]
        caption = f"{_latex_text(title_of(one.key))}. {_latex_text(_legend(compared, [one]))}"
        lines += [
            "",
            r"\begin{table}",
            r"\centering\footnotesize",
            rf"\caption{{{caption.rstrip()}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            rf"{' & '.join(head)} \\",
            r"\midrule",
        ]
        for label, cells in _cells(compared, one, r"\textbf{{{}}}".format, r" $\pm$ "):
            latex = [cell.replace("–", "--") for cell in cells]
            lines.append(rf"{' & '.join([_latex_text(label), *latex])} \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _cells(
    compared: Compared, one: Grid, bold: Callable[[str], str], between: str
) -> list[tuple[str, list[str]]]:
    """Each row's label, and its cells as they are shown."""
    alike = _seeds(compared, [one]) is not None
    several = len(compared.columns) > 1

    def shown(cell: Cell, more: str = "") -> str:
        text = written(cell.mean, one.key)
        text = bold(text) if cell.best else text
        if cell.deviation is not None:
            text += f"{between}{written(cell.deviation, one.key)}"
        if cell.mean is not None and not alike:
            text += f" ({cell.seeds})"
        return text + more

    rows = []
    for row, cells, mean, covered in zip(compared.rows, *one[1:], strict=True):
        lacking = f" [{covered} of {len(cells)}]" if 0 < covered < len(cells) else ""
        rows.append((row.label, [*map(shown, cells), *([shown(mean, lacking)] if several else [])]))
    return rows


def _seeds(compared: Compared, grids: Sequence[Grid]) -> int | None:
    """How many seeds each figure is of; None if that differs."""
    found = {
        cell.seeds
        for one in grids
        for cells, mean in zip(one.cells, one.means, strict=True)
        for cell in (*cells, mean)
        if cell.mean is not None
    }
    return found.pop() if len(found) == 1 else None


def _legend(compared: Compared, grids: Sequence[Grid]) -> str:
    """What the numbers are, in a sentence or two."""
    datasets = {column.partition(" ")[0] for column in compared.columns}
    data = f"Categories of {datasets.pop()}. " if len(datasets) == 1 else ""
    seeds = _seeds(compared, grids)
    if seeds == 1:
        return f"{data}One seed."
    of = "over seeds (their number)" if seeds is None else f"over {seeds} seeds"
    return f"{data}Mean ± standard deviation {of}."


def _columns(compared: Compared) -> list[str]:
    """The categories; with their data sets only where these are several."""
    parts = [column.partition(" ") for column in compared.columns]
    if len({dataset for dataset, _, _ in parts}) > 1:
        return compared.columns
    return [category for _, _, category in parts]


def _code(text: str) -> str:
    # In a table, a bar ends a cell even within code.
    return f"`{in_one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", in_one_line(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def _latex_text(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in in_one_line(text))
