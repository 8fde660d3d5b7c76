"""Puts recorded figures and the catalogues' defaults into pages, between their ``table`` markers.

    python benchmarks/tables.py [--check]

With ``--check`` nothing is written; the exit status says whether the pages are up to date. All
families must be installed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from budgets import budget_of, is_whole
from peer import least

from ad.core import ModelRegistry

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs/choosing.md",
    ROOT / "packages/ad-distill/README.md",
)

TOY = "hazelnut_toy"
"""Data that rank nothing: a difference of pixels tells its defects apart."""

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIGURES = ("image AUROC", "pixel AUROC", "AUPRO 0.3")
_STEPS = "steps of the catalogue's"
_COSTS = ("fit", "test", "memory")


def load(name: str) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def accuracy() -> str:
    """Models with the catalogue's epochs and size, best first, and what a textbook's form has."""
    rows = sorted(_measured(lambda row: row["dataset"] != TOY and is_whole(row)), key=_by_figure)
    lines = [
        (own[0]["dataset"], name, _steps(own), *_figures(own), *_costs(own)) for name, own in rows
    ]
    textbook = [row for row in load("textbook")["rows"] if row["dataset"] != TOY]
    lines += [(row["dataset"], *_textbook(row)) for row in textbook]
    return _markdown(("data", "model", _STEPS, *_FIGURES, *_COSTS), lines)


def short() -> str:
    """Runs of fewer steps or smaller pictures than the catalogue's, the longest first."""
    rows = _measured(lambda row: row["dataset"] != TOY and not is_whole(row))
    lines = [
        (own[0]["dataset"], name, _steps(own), *_figures(own), *_costs(own))
        for name, own in sorted(rows, key=_by_share)
    ]
    return _markdown(("data", "model", _STEPS, *_FIGURES, *_COSTS), lines)


def toy() -> str:
    """What was measured where nothing can be ranked."""
    rows = sorted(_measured(lambda row: row["dataset"] == TOY), key=lambda item: item[0])
    lines = [(name, _steps(own), *_figures(own), *_costs(own)) for name, own in rows]
    lines += [_textbook(row) for row in load("textbook")["rows"] if row["dataset"] == TOY]
    return _markdown(("model", _STEPS, *_FIGURES, *_COSTS), lines)


def mtd() -> str:
    """What models cost and find on MTD with the catalogue's very settings, the fastest first."""
    found = _measured(lambda row: row["dataset"] == "mtd" and is_whole(row))
    plain = [(name, own) for name, own in found if name == f"`{own[0]['model']}`"]
    plain.sort(key=lambda item: item[1][0]["seconds"]["test_per_image"])
    lines = [(name, *_costs(own), *_figures(own)) for name, own in plain]
    return _markdown(("model", *_COSTS, *_FIGURES), lines)


def starts() -> str:
    """Both starts of STFPM's student on MTD, at 128 pixels, after more and more steps."""
    rows = [
        row
        for row in load("accuracy_distill")["rows"]
        if row["model"].startswith("stfpm") and "--img-size 128" in row["command"]
    ]
    lines = [
        (_steps([row]), "zero" if "zero_init_last=true" in row["command"] else "one",
         *_figures([row]))
        for row in rows
    ]  # fmt: skip
    return _markdown((_STEPS, "start", *_FIGURES), lines)


def labelled() -> str:
    """The same model with labelled defects to learn from, and without."""
    rows = sorted(_measured(lambda row: "defects apart" in row["dataset"]), key=_by_figure)
    lines = [(name, _steps(own), *_figures(own)) for name, own in rows]
    return _markdown(("model", _STEPS, *_FIGURES), lines)


def latency() -> str:
    """Milliseconds of a picture that comes alone, in each precision."""
    found = load("inference")["rows"]
    rows = [row for row in found if row["batch_size"] == 1 and not row.get("compiled")]
    times = {(row["model"], row["precision"]): row["seconds_per_image"] for row in rows}
    models = sorted({row["model"] for row in rows}, key=lambda name: times[name, "fp32"])
    lines = [
        (f"`{name}`", *(f"{1000 * times[name, one]:.0f} ms" for one in ("fp32", "bf16")))
        for name in models
    ]
    return _markdown(("model", "fp32", "bf16"), lines)


def defaults() -> str:
    """Every configuration of this project's catalogues."""
    lines = []
    specs = {spec.name: spec for spec in map(ModelRegistry.get, ModelRegistry.names())}
    for spec in specs.values():  # an alias is no row of its own
        if not spec.trainer.startswith("ad."):  # somebody's plug-in
            continue
        epochs = str(spec.train["num_epochs"]) if spec.by_gradient else "-"
        lines.append((
            f"`{spec.name}`",
            spec.package,
            epochs,
            str(spec.train["batch_size"]),
            str(spec.train["img_size"]),
            "yes" if spec.train["normalize"] else "no",
            ", ".join(spec.tasks),
            f"[{spec.paper}]({spec.url})" if spec.url else spec.paper,
        ))  # fmt: skip
    titles = ("name", "package", "epochs", "batch", "pixels", "normalise", "made for", "paper")
    return _markdown(titles, lines)


def _measured(wanted: Callable[[dict[str, Any]], bool]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of all families that are wanted, those of several seeds together, with a name each."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("accuracy_*.json")):
        for row in filter(wanted, load(path.stem)["rows"]):
            words = re.sub(r"--(seed|holdout|weights|steps) \S+ ?", "", row["command"])
            options = re.findall(r"--(?:set )?(\S+(?: \d+)?)", words.split(" --data-root")[0])
            name = f"`{row['model']}`" + (f" ({', '.join(options)})" if options else "")
            if "note" in row:
                name += f": {row['note'][0].lower()}{row['note'][1:].rstrip('.')}"
            groups.setdefault((row["dataset"], name, _steps([row])), []).append(row)
    return [(name, rows) for (_, name, _), rows in groups.items()]


def _by_figure(item: tuple[str, list[dict[str, Any]]]) -> tuple[bool, str, float]:
    """MTD first; then the best mean image AUROC."""
    data, values = item[1][0]["dataset"], [row["metrics"]["image_auroc"] for row in item[1]]
    return data != "mtd", data, -sum(values) / len(values)


def _by_share(item: tuple[str, list[dict[str, Any]]]) -> tuple[bool, str, float]:
    """MTD first; then the nearest to the catalogue's epochs."""
    data, budget = item[1][0]["dataset"], budget_of(item[1][0])
    return data != "mtd", data, -(1.0 if budget is None else budget.share)


def _steps(rows: list[dict[str, Any]]) -> str:
    budget = budget_of(rows[0])
    return "-" if budget is None else str(budget)


def _figures(rows: list[dict[str, Any]]) -> list[str]:
    keys = ("image_auroc", "pixel_auroc", "aupro")
    return [_range([row["metrics"].get(key) for row in rows]) for key in keys]


def _costs(rows: list[dict[str, Any]]) -> tuple[str, str, str]:
    seconds, memory = rows[0]["seconds"], rows[0]["peak_memory_bytes"] / 2**30
    each = seconds["test_per_image"] * 1000
    return f"{seconds['fit']:.0f} s", f"{each:.0f} ms", f"{memory:.1f} GiB"


def _textbook(row: dict[str, Any]) -> tuple[str, ...]:
    return (f"textbook {row['model']}", "", *_figures([row]), *([""] * len(_COSTS)))


def speed() -> str:
    """Every benchmark's cases against its baseline."""
    rows: list[tuple[str, ...]] = []
    for row in load("coreset")["rows"] + load("coreset_full")["rows"]:
        what = f"coreset: {row['picks']:,} of {row['rows']:,} x {row['features']}, {row['data']}"
        ratio = f"{row['ratio']:.1f}x"
        if row["same_picks"] is not None:
            compared = row.get("compared", row["picks"])
            ratio += f", {row['same_picks'] / compared:.1%} the same picks"
        rows.append((what, row["case"], f"{row['seconds']:.1f} s", ratio))
    for row in load("neighbors")["rows"]:
        what = f"1,024 queries in {row['bank']:,} x {row['features']}"
        same = f"{row['same_row']:.2%} the same row"
        time = f"{row['seconds_per_1024'] * 1000:.0f} ms"
        rows.append((what, row["case"], time, f"{row['ratio']:.1f}x, {same}"))
    stacked, ours, ratio = load("padim")["rows"]
    for key, what, unit in (
        ("fit_seconds", "PaDiM, 400 pictures, fit", "s"),
        ("test_seconds_per_image", "PaDiM, test, a picture", "s"),
        ("peak_gib", "PaDiM, peak memory", "GiB"),
    ):
        rows.append((what, "stack all, invert in a loop", f"{stacked[key]:.3g} {unit}", "1.0x"))
        rows.append((what, "ours", f"{ours[key]:.3g} {unit}", f"{ratio[key]:.1f}x"))
    for row in load("metrics")["rows"]:
        what = f"{row['metric']}, {row['pixels'] / 1e6:.0f} M pixels"
        rows.append((what, row["baseline"], f"{row['baseline_seconds']:.1f} s", "1.0x"))
        rows.append((what, "ours", f"{row['seconds']:.2f} s", f"{row['ratio']:.1f}x"))
    for row in load("training")["rows"]:
        what = f"`{row['model']}`, a step of {row['batch_size']}"
        how = f"{row['precision']}, features {'kept' if row['feature_cache'] else 'anew'}"
        how += ", compiled" if row.get("compiled") else ""
        rows.append((what, how, f"{row['seconds_per_step']:.2f} s", f"{row['ratio']:.1f}x"))
    for row in load("steps")["rows"]:
        what = f"`{row['model']}`, {row['what']}, {row['batch_size']} at once"
        time = f"{row['cpu_seconds'] * 1000:.0f} ms of CPU"
        rows.append((what, row["case"], time, f"{row['ratio']:.2f}x"))
    for row in load("inference")["rows"]:
        what = f"`{row['model']}`, inference, {row['batch_size']} at once"
        time = f"{row['seconds_per_image'] * 1000:.0f} ms a picture"
        how = row["precision"] + ", compiled" * row.get("compiled", False)
        rows.append((what, f"{how}, {row['device']}", time, f"{row['ratio']:.1f}x"))
    for row in load("dinomaly")["rows"]:
        what = f"`{row['model']}`, inference, {row['batch_size']} at once"
        time = f"{row['seconds_per_image'] * 1000:.0f} ms a picture"
        rows.append((what, f"{row['case']}, {row['device']}", time, f"{row['ratio']:.1f}x"))
    for key, what, each, unit in (
        ("seconds_per_step", "a step of 8", 1, "s of CPU"),
        ("inference_seconds_per_image_of_8", "a picture of 8 at once", 1e3, "ms of CPU"),
        ("peak_memory_bytes", "peak memory of learning", 2**-30, "GiB"),
    ):
        for row in load("flow")["rows"]:
            if key not in row:  # layers alone have no passes
                continue
            how = {
                "plain": "published blocks, features anew",
                "layers alone": "the flow's convolutions alone",
            }.get(row["construction"], row["construction"])
            time, ratio = f"{row[key] * each:.3g} {unit}", f"{row[f'{key}_ratio']:.1f}x"
            rows.append((f"`{row['model']}`, {what}", f"{how}, {row['precision']}", time, ratio))
    for row in load("draem")["rows"]:
        what = f"`draem`, a step of {row['batch_size']} at {row['size']} pixels"
        how = f"{row['precision']}, {row['layout']}, {row['device']}"
        rows.append((what, how, f"{row['seconds_per_step']:.2f} s", f"{row['ratio']:.1f}x"))
    for row in [*load("cfa")["rows"], *load("cfa_wide_resnet50_2")["rows"]]:
        what = f"CFA ({row['backbone']}), {row['what']} of {row['batch_size']}"
        time = f"{row['seconds']:.1f} s, {row['bytes'] / 2**30:.2f} GiB"
        ratio = f"{row['ratio']:.1f}x, memory {row['memory_ratio']:.1f}x"
        rows.append((what, row["case"], time, ratio))
    for row in load("synth")["rows"]:
        what = f"synthetic defects: {row['case']}"
        before, ours = row["baseline_seconds"] * 1000, row["seconds"] * 1000
        rows.append((what, "picture by picture", f"{before:.1f} ms a picture", "1.0x"))
        how = f"ours, {row['batch_size']} at once on {row['device']}"
        rows.append((what, how, f"{ours:.1f} ms a picture", f"{row['ratio']:.1f}x"))
    for row in load("reading")["rows"]:
        side = f"{row['side']:,} x {row['side']:,} pixels"
        limit, before, ours = (
            f"{own:,.0f} ms of CPU" if (own := row.get(f"{name}_cpu_ms", 0)) >= 100
            else f"{own:.1f} ms of CPU" for name in ("limit", "baseline", "ours")
        )  # fmt: skip
        if row["case"] == "heat maps":
            what, how = f"a heat map of {side}", "blended in NumPy, PNG"
            before += f", {row['baseline_kb']:,} kB"
            ours += f", {row['ours_kb']:,} kB"
        else:
            what, how = f"a {row['format']} of {side} to a batch", "to float, torchvision's resize"
            rows.append((what, "Pillow's decode alone", limit, f"{row['most_ratio']:.1f}x"))
        rows.append((what, how, before, "1.0x"))
        rows.append((what, "ours", ours, f"{row['ratio']:.1f}x"))
    for row in load("startup")["rows"]:
        time = f"{row['cpu_seconds']:.2f} s of CPU"
        rows.append(("start", f"`{row['case']}`", time, f"{1 / row['ratio']:.1f}x"))
    for row in load("verdict")["rows"]:
        time = f"{row['cpu_seconds']:.2f} s of CPU, {row['peak_memory_bytes'] / 2**20:.0f} MiB"
        ratio = f"{1 / row['ratio']:.1f}x, memory {1 / row['memory_ratio']:.1f}x"
        rows.append(("start to verdict on a picture", f"`{row['case']}`", time, ratio))
    for row in [*load("flat")["rows"], *load("flat_100000")["rows"]]:
        what = f"{row['case']} of {row['pictures']:,} pictures, maps of {row['side']} pixels"
        how = "all in memory" if row["kept"] == "1T" else f"at most {row['kept']}iB of maps"
        time = f"{row['cpu_seconds']:.1f} s of CPU, {row['peak_mib']:.0f} MiB"
        alone = row["kept"] != "1T" and row["ratio"] == 1  # all would not have fitted
        rows.append((what, how, time, "" if alone else f"memory {row['ratio']:.1f}x"))
    return _markdown(("what", "how", "takes", "against the baseline"), rows)


def peer() -> str:
    """The same work by anomalib and by this project, and the least that it can take."""
    forms = ("anomalib fp32", "anomalib bf16", "ours fp32", "ours shipped", "limit shipped")
    # Both in fp32, both in bf16, both as shipped, the most that can be reached, how near it is.
    pairs = ((0, 2), (1, 3), (0, 3), (0, 4), (3, 4))
    lines = []
    for row in load("peer")["rows"]:
        of_time = row["unit"] == "s"
        values = [least(row, form) for form in forms]
        told = [_cost(value, of_time) if value else "" for value in values]
        if "extrapolated" in row["told"]["anomalib fp32"] and row["phase"] == "fit":
            told[:2] = [f"about {one}" if one else "" for one in told[:2]]
        shown = [
            f"{values[one] / values[other]:.1f}" if values[one] and values[other] else ""
            for one, other in pairs
        ]
        lines.append((row["what"], *told, *shown))
    titles = ("work", "anomalib", "its bf16", "ours in fp32", "ours as shipped", "limit")
    ratios = ("fp32", "bf16", "as shipped", "at most", "ours / limit")
    return _markdown((*titles, *ratios), lines)


def _cost(value: float, of_time: bool) -> str:
    if not of_time:
        return f"{value / 2**30:.1f} GiB"
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f} s"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


TABLES = {
    one.__name__: one
    for one in (accuracy, short, toy, speed, peer, mtd, starts, labelled, latency, defaults)
}


def _range(values: list[float | None]) -> str:
    """One figure, or from the least to the largest of several seeds."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return "-"
    low, high = f"{known[0]:.3f}", f"{known[-1]:.3f}"
    return low if low == high else f"{low} to {high}"


def _markdown(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def filled(page: Path) -> str:
    """A page with the tables of now."""
    text = page.read_text(encoding="utf-8")
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def stale() -> list[Path]:
    """Pages whose tables are not those of now."""
    return [page for page in PAGES if filled(page) != page.read_text(encoding="utf-8")]


def main() -> None:
    """Fill the tables of the pages, or check that they are filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    old = stale()
    if options.check:
        names = ", ".join(page.relative_to(ROOT).as_posix() for page in old)
        sys.exit(f"{names}: run `python benchmarks/tables.py`" if old else 0)
    for page in old:
        page.write_text(filled(page), encoding="utf-8")


if __name__ == "__main__":
    main()
