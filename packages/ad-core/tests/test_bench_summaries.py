"""A bench's figures as tables for other places: CSV, Markdown, LaTeX."""

import csv
import re

import numpy as np
import pytest

from ad.core.bench.summaries import write_summaries
from ad.core.report.comparison import Compared
from ad.core.report.contrasts import Contrasts
from ad.core.report.finished import Finished
from ad.core.report.standings import columns_of, rows_of
from ad.core.saved.record import Costs

NAMES = ("a_b", '50%&co #1 {x}~^\\|<>"$', "plain")  # of categories


def finished(category, seed, value, dataset="mvtec"):
    settings = {"dataset": dataset, "category": category, "model": "m", "seed": seed, "options": {}}
    record = {"settings": settings, "device": "cpu", "precision": "fp32", "threads": 1}
    figures = {"image_auroc": value, "pixel_auroc": None}
    return Finished(
        folder=None,
        record={**record, "machine": {}, "versions": {}},
        metrics={"metrics": figures, "categories": {category: figures}},
        costs=Costs(2.0, 0.01, 2**30, resumed=False),
        white_level=None,
        calibration=None,
        scored={},
    )


def compared(values, **given):
    """From the label, the category and the seed of each run to its figure."""
    runs = [finished(c, seed, value, **given) for (_, c, seed), value in values.items()]
    labels = [label for label, _, _ in values]
    notes = Contrasts([], ["Nothing is known of `x`."])
    return Compared(runs, rows_of(runs, labels), columns_of(runs), notes, [])


@pytest.fixture
def written(tmp_path):
    def write(*given, **named):
        write_summaries(tmp_path, *given, **named)
        return [(tmp_path / f"summary.{kind}").read_text() for kind in ("csv", "md", "tex")]

    return write


def values(*labels, seeds=2):
    rng = np.random.default_rng(0)
    return {(m, c, s): rng.random() for m in labels for c in NAMES for s in range(seeds)}


def test_the_csv_has_all_digits_of_each_figure_and_model(written):
    given = values("m", "m[gain=2.0]")
    lines = list(csv.DictReader(written(compared(given))[0].splitlines(), strict=True))
    assert [(one["figure"], one["model"]) for one in lines] == [
        (key, label)
        for key in ("image_auroc", "seconds_per_picture", "fit_seconds", "peak_memory_bytes")
        for label in ("m", "m[gain=2.0]")
    ]
    for one in lines[:2]:
        for name in NAMES:
            own = [given[one["model"], name, seed] for seed in range(2)]
            assert float(one[name]) == np.mean(own)
            assert float(one[f"{name} deviation"]) == np.std(own, ddof=1)
            assert one[f"{name} seeds"] == "2"
        assert one["categories"] == "3"


def test_the_best_of_a_column_is_bold_and_so_is_what_reads_the_same(written):
    figures = {"a": 0.98049, "b": 0.98045, "c": 0.5}
    given = {(m, c, 0): value for m, value in figures.items() for c in NAMES}
    _, markdown, latex = written(compared(given), ["1 of 4 runs failed."])
    table = markdown.split("## image AUROC\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == ('| model | a\\_b | 50%&co \\#1 {x}~^\\\\\\|\\<\\>"$ | plain | mean |')
    assert table[2:] == [
        "| `a` | **0.980** | **0.980** | **0.980** | **0.980** |",
        "| `b` | **0.980** | **0.980** | **0.980** | **0.980** |",
        "| `c` | 0.500 | 0.500 | 0.500 | 0.500 |",
    ]
    assert "- 1 of 4 runs failed.\n" in markdown
    assert "Categories of mvtec. One seed." in markdown
    assert "- Nothing is known of \\`x\\`.\n" in markdown
    assert r"a & \textbf{0.980} & \textbf{0.980} & \textbf{0.980} & \textbf{0.980} \\" in latex


def test_seeds_are_told_where_they_differ_and_categories_that_lack(written):
    given = values("a", "b")
    del given["b", "plain", 0], given["b", "plain", 1], given["a", "a_b", 1]
    _, markdown, _ = written(compared(given))
    a, b = markdown.split("## image AUROC\n\n")[1].splitlines()[2:4]
    assert re.fullmatch(r"\| `a` \| \S+ \(1\) \| \S+ ± 0.\d+ \(2\) \| .+ \(2\) \| .+ \(1\) \|", a)
    assert b.endswith("| – | " + b.split("| – | ")[1])
    assert b.endswith(" (2) [2 of 3] |")
    assert "Mean ± standard deviation over seeds (their number)." in markdown


def test_the_latex_is_whole(written):
    """No LaTeX here: every sign that means something to it is escaped, each row has all cells."""
    _, _, latex = written(compared(values("m[x_y=1%]", "b")))
    lines = latex.splitlines()
    body = "\n".join(line for line in lines if not line.startswith("%"))
    assert body.count(r"\begin{table}") == body.count(r"\end{table}") == 4
    assert body.count(r"\begin{tabular}{lrrrr}") == body.count(r"\end{tabular}") == 4
    plain = re.sub(r"\\[\\&%$#_{}]", "", body)
    assert plain.count("{") == plain.count("}")
    assert not set("%#~^|<>_") & set(plain)
    assert plain.replace(r"$\pm$", "").count("$") == 0
    rows = [line for line in lines if line.endswith(r" \\")]
    assert len(rows) == 4 * 3
    assert {re.sub(r"\\&", "", row).count("&") for row in rows} == {4}
    assert r"m[x\_y=1\%] & " in latex
    assert r"50\%\&co \#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in latex
    commands = set(re.findall(r"\\([a-z]+)", plain))
    assert commands <= {
        "providecommand", "toprule", "midrule", "bottomrule", "hline", "begin", "end", "centering",
        "footnotesize", "caption", "textbf", "pm", "textasciitilde", "textasciicircum",
        "textbackslash", "textbar", "textless", "textgreater",
    }  # fmt: skip


def test_data_sets_are_named_where_they_are_several(written):
    runs = [finished("x", 0, 0.5, dataset) for dataset in ("mvtec", "visa")]
    both = Compared(runs, rows_of(runs, ["m", "m"]), columns_of(runs), Contrasts([], []), [])
    assert "| model | mvtec x | visa x | mean |" in written(both)[1]
