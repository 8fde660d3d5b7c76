"""Puts the recorded figures into README.md, between its ``table`` markers.

    python benchmarks/tables.py [--check]

With ``--check`` nothing is written; the exit status says whether README.md is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """One record."""
    record: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return record


def accuracy() -> str:
    """Models as the catalogue has them, with the textbook's figures where they were measured."""
    return _accuracy(short=False)


def short() -> str:
    """Models at other sizes or for other numbers of steps than the catalogue's."""
    return _accuracy(short=True)


def _accuracy(*, short: bool) -> str:
    titles = ("data", "model", "image AUROC", "pixel AUROC", "AUPRO 0.3", "fit", "test", "memory")
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("accuracy_*.json")):
        for row in load(path.stem)["rows"]:
            if short != bool(re.search(r"--(steps|img-size) ", row["command"])):
                continue
            words = re.sub(r"--(seed|holdout|weights) \S+ ?", "", row["command"])
            options = re.findall(r"--(?:set )?(\S+(?: \d+)?)", words.split(" --data-root")[0])
            model = f"`{row['model']}`" + (f" ({', '.join(options)})" if options else "")
            groups.setdefault((row["dataset"], model), []).append(row)
    for row in [] if short else load("textbook")["rows"]:
        groups.setdefault((row["dataset"], f"textbook {row['model']}"), []).append(row)
    lines = []
    order = ("mtd", "hazelnut_toy")  # then those drawn by code
    for (dataset, model), rows in sorted(
        groups.items(), key=lambda item: (*(item[0][0] != name for name in order), item[0][0])
    ):
        figures = [
            _range([row["metrics"].get(key) for row in rows])
            for key in ("image_auroc", "pixel_auroc", "aupro")
        ]
        costs = ("", "", "")
        if "seconds" in rows[0]:
            each = rows[0]["seconds"]["test_per_image"] * 1000
            memory = rows[0]["peak_memory_bytes"] / 2**30
            costs = (f"{rows[0]['seconds']['fit']:.0f} s", f"{each:.0f} ms", f"{memory:.1f} GiB")
        lines.append((dataset, model, *figures, *costs))
    return _markdown(titles, lines)


def speed() -> str:
    """Every benchmark's cases against its baseline."""
    rows: list[tuple[str, ...]] = []
    for row in load("coreset")["rows"]:
        what = f"coreset: {row['picks']:,} of {row['rows']:,} x {row['features']}"
        same = f"{row['same_picks'] / row['picks']:.1%} the same picks"
        rows.append((what, row["case"], f"{row['seconds']:.1f} s", f"{row['ratio']:.1f}x, {same}"))
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
    for row in load("startup")["rows"]:
        time = f"{row['cpu_seconds']:.2f} s of CPU"
        rows.append(("start", f"`{row['case']}`", time, f"{1 / row['ratio']:.1f}x"))
    for row in load("verdict")["rows"]:
        time = f"{row['cpu_seconds']:.2f} s of CPU, {row['peak_memory_bytes'] / 2**20:.0f} MiB"
        ratio = f"{1 / row['ratio']:.1f}x, memory {1 / row['memory_ratio']:.1f}x"
        rows.append(("start to verdict on a picture", f"`{row['case']}`", time, ratio))
    return _markdown(("what", "how", "takes", "against the baseline"), rows)


TABLES = {"accuracy": accuracy, "short": short, "speed": speed}


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


def main() -> None:
    """Fill README.md's tables, or check that they are filled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = README.read_text()
    filled = _MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[3]}", text)
    if options.check:
        sys.exit("README.md: run `python benchmarks/tables.py`" if filled != text else 0)
    README.write_text(filled)


if __name__ == "__main__":
    main()
