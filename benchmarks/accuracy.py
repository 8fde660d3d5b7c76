"""Figures of a family's models on real pictures, and of ad-recon's on pictures drawn by code, too.

Each run is one `ad train` in a process of its own, so that time and peak memory are its own.
EfficientAD's teacher is the one that `benchmarks/teacher.py` makes. In a recorded command DATA is
the folder that was given as `--data`, which has `textures`, too, and WEIGHTS is AD_WEIGHTS.

    AD_WEIGHTS=../shared/weights python benchmarks/accuracy.py memory --data ../shared/data \
        --output benchmarks/results/accuracy_memory.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from labelled_mtd import write_table
from record import record

# Holdout 0: learn from all training pictures, as the papers do. What is drawn at random moves
# AUROC by some hundredths, so that small coresets and PaDiM's channels are drawn three times.
SMALL = ["--set", "coreset_ratio=0.00125"]
LAYER3 = ["--set", "backbone=resnet18", "--set", "layers=layer3"]
GANOMALY = ["--img-size", "64", "--set", "input_size=64,64", "--set", "lr=0.0002"]
DRAEM = ["--img-size", "128", "--set", "width=64", "--set", "lr=0.0005"]
NARROW_DRAEM = [
    *("--img-size", "128", "--set", "width=32", "--set", "lr=0.0005", "--set", "rotate_prob=0"),
    *("--set", "textures=DATA/textures"),
]
NARROW_DSR = [
    *("--set", "width=16", "--set", "embedding_dim=32", "--set", "num_embeddings=512"),
    *("--set", "lr=0.001", "--set", "rotate_prob=0", "--set", "textures=DATA/textures"),
]
DSR = ["--batch-size", "4", *NARROW_DSR]
SMALL_DSR = ["--img-size", "128", *NARROW_DSR]
# EfficientNet's weights cannot be had here. Narrow couplings and a higher rate: for so few steps.
CSFLOW = [
    *("--weights", "WEIGHTS/mobilenetv2_100.tv_in1k.safetensors", "--batch-size", "16"),
    *("--set", "backbone=mobilenetv2_100", "--set", "hidden=128"),
]
MSFLOW = ["--img-size", "192"]  # as the authors see these tiles
FASTER = ["--batch-size", "8", "--set", "lr=0.001", "--set", "adaptor_lr=0.0005"]
TINY = ["--img-size", "64"]
TINY_SUPERSIMPLENET = [*TINY, *FASTER]
# The authors' noise, 0.015 with Wide ResNet-50, is not told from ResNet-18's features.
LOUD = ["--set", "noise_std=0.15"]
RESNET18 = ["--set", "backbone=resnet18"]
# One layer of three: many more steps in the same time.
DEEP_FASTFLOW = ["--batch-size", "2", "--set", "layers=layer3", "--set", "flow_steps=4"]
DEEP_CFLOW = ["--set", "layers=layer3", "--set", "fiber_batch=256"]
# Where the last batch norm of each block of STFPM's student starts: at one, as its authors have it,
# by default.
ZERO = ["--set", "zero_init_last=true"]
SEEDS = [["--seed", "0"], ["--seed", "1"], ["--seed", "2"]]
RUNS = {
    "memory": [
        *(("mtd", "all", "patchcore-resnet18", [*SMALL, *seed]) for seed in SEEDS),
        ("mtd", "all", "patchcore-resnet18", ["--set", "coreset_ratio=0.01"]),
        ("mtd", "all", "patchcore-resnet18", []),
        *(("mtd", "all", "padim-resnet18", seed) for seed in SEEDS),
        ("mtd", "all", "dfkde", LAYER3),
        ("mvtec", "hazelnut_toy", "patchcore-resnet18", ["--set", "coreset_ratio=0.01"]),
        ("mvtec", "hazelnut_toy", "patchcore-resnet18", []),
        ("mvtec", "hazelnut_toy", "padim-resnet18", []),
        ("mvtec", "hazelnut_toy", "dfkde", LAYER3),
    ],
    # Far fewer steps on MTD than the catalogue's epochs, which are 2,400, 4,800 and 15,220.
    "distill": [
        ("mtd", "all", "fre-resnet18", []),
        ("mtd", "all", "stfpm-resnet18", ["--steps", "300"]),
        *(
            ("mtd", "all", "stfpm-resnet18", ["--img-size", "128", *start, *steps])
            for steps in (["--steps", "40"], ["--steps", "200"], [])
            for start in ([], ZERO)
        ),
        ("mtd", "all", "reverse-distillation-resnet18", ["--steps", "300"]),
        ("mtd", "all", "efficientad-small", ["--steps", "500"]),
        ("mvtec", "hazelnut_toy", "fre-resnet18", []),
        ("mvtec", "hazelnut_toy", "stfpm-resnet18", []),
        ("mvtec", "hazelnut_toy", "reverse-distillation-resnet18", []),
        ("mvtec", "hazelnut_toy", "efficientad-small", []),
    ],
    # Far fewer steps on MTD than the catalogue's epochs, beyond 9,600 for each.
    "flow": [
        ("mtd", "all", "fastflow-resnet18", ["--steps", "120"]),
        ("mtd", "all", "fastflow-resnet18", [*DEEP_FASTFLOW, "--steps", "6000"]),
        ("mtd", "all", "cflow-resnet18", ["--steps", "90"]),
        ("mtd", "all", "cflow-resnet18", [*DEEP_CFLOW, "--steps", "900"]),
        ("mtd", "all", "csflow", [*CSFLOW, "--set", "lr=0.002", "--steps", "800"]),
        ("mtd", "all", "msflow-resnet18", [*MSFLOW, "--set", "lr=0.0005", "--steps", "1200"]),
        ("mtd", "all", "uflow-resnet18", ["--set", "lr=0.003", "--steps", "120"]),
        ("mtd", "all", "uflow-resnet18", ["--set", "lr=0.003", "--steps", "1000"]),
        ("mvtec", "hazelnut_toy", "fastflow-resnet18", ["--steps", "60"]),
        ("mvtec", "hazelnut_toy", "cflow-resnet18", ["--steps", "30"]),
        ("mvtec", "hazelnut_toy", "csflow", [*CSFLOW, "--set", "lr=0.002", "--steps", "400"]),
        ("mvtec", "hazelnut_toy", "msflow-resnet18", ["--set", "lr=0.001", "--steps", "30"]),
        ("mvtec", "hazelnut_toy", "uflow-resnet18", ["--steps", "40"]),
    ],
    # Far fewer steps than the catalogue's epochs, which are 960 and 15,360 on MTD. CFA looks for
    # the nearest of a quarter of the centroids, for a quarter of the patches, at 128 pixels.
    "adapt": [
        ("mtd", "all", "dfm-resnet18", []),
        ("mtd", "all", "dfm-resnet18", ["--set", "score_type=nll"]),
        ("mtd", "all", "cfa-resnet18", ["--img-size", "128", "--steps", "960"]),
        ("mtd", "all", "simplenet-resnet18", ["--steps", "300"]),
        ("mtd", "all", "simplenet-resnet18", ["--img-size", "128", "--steps", "1500"]),
        ("mvtec", "hazelnut_toy", "dfm-resnet18", []),
        ("mvtec", "hazelnut_toy", "cfa-resnet18", ["--img-size", "128"]),
        ("mvtec", "hazelnut_toy", "simplenet-resnet18", ["--steps", "200"]),
    ],
    # What two CPU cores can do in half an hour each: smaller pictures, narrower networks, and steps
    # far below what these models need, which the runs say themselves.
    "recon": [
        ("mvtec", "hazelnut_toy", "autoencoder", []),
        ("mvtec", "hazelnut_toy", "autoencoder", ["--steps", "1000"]),
        ("mvtec", "hazelnut_toy", "ganomaly", []),
        ("mvtec", "hazelnut_toy", "ganomaly", [*GANOMALY, "--steps", "1000"]),
        ("mvtec", "hazelnut_toy", "draem", [*DRAEM, "--steps", "300"]),
        (
            "mvtec",
            "hazelnut_toy",
            "draem",
            [*DRAEM, "--steps", "300", "--set", "textures=DATA/textures"],
        ),
        ("mvtec", "hazelnut_toy", "dsr", [*DSR, "--set", "vq_steps=1000", "--steps", "1000"]),
        ("synthetic", "metal", "autoencoder", ["--steps", "1000"]),
        ("synthetic", "metal", "ganomaly", [*GANOMALY, "--steps", "1000"]),
        ("synthetic", "metal", "draem", [*NARROW_DRAEM, "--steps", "2000"]),
        ("synthetic", "metal", "dsr", [*DSR, "--set", "vq_steps=2500", "--steps", "4000"]),
        # Its cells are 4 and 8 pixels: what small pictures cost.
        ("synthetic", "metal", "dsr", [*SMALL_DSR, "--set", "vq_steps=2000", "--steps", "6000"]),
    ],  # fmt: skip
    # On two CPU cores a step of the catalogue's takes half a minute: small pictures, a small part
    # of its epochs, which are 2,400 steps on MTD and 3,820 of UniNet.
    "foundation": [
        (
            "mtd",
            "all",
            "supersimplenet-resnet18",
            [*TINY_SUPERSIMPLENET, *LOUD, "--steps", "1500"],
        ),
        ("mtd", "all", "supersimplenet-resnet18", [*TINY_SUPERSIMPLENET, "--steps", "2000"]),
        ("mtd", "all", "uninet-resnet18", ["--img-size", "128", "--steps", "600"]),
        ("mvtec", "hazelnut_toy", "supersimplenet-resnet18", []),
        (
            "mvtec",
            "hazelnut_toy",
            "supersimplenet-resnet18",
            [*TINY_SUPERSIMPLENET, "--steps", "2000"],
        ),
        (
            "mvtec",
            "hazelnut_toy",
            "supersimplenet-resnet18",
            [*TINY_SUPERSIMPLENET, *LOUD, "--steps", "400"],
        ),
        ("mvtec", "hazelnut_toy", "uninet-resnet18", [*TINY, "--steps", "100"]),
        # A fifth of MTD's defects to learn from, the others to test with; then the same without.
        (
            "csv",
            "all",
            "supersimplenet-supervised",
            [*RESNET18, *TINY_SUPERSIMPLENET, *LOUD, "--steps", "800"],
        ),
        ("csv", "all", "supersimplenet-resnet18", [*TINY_SUPERSIMPLENET, *LOUD, "--steps", "800"]),
        ("csv", "all", "uninet-resnet18", [*TINY, "--set", "supervised=true", "--steps", "300"]),
        ("csv", "all", "uninet-resnet18", [*TINY, "--steps", "300"]),
        (
            "csv",
            "all",
            "uninet-resnet18",
            ["--img-size", "128", "--set", "supervised=true", "--steps", "600"],
        ),
        ("csv", "all", "uninet-resnet18", ["--img-size", "128", "--steps", "600"]),
    ],
}
NAMES = {
    "mvtec": "{}",
    "synthetic": "synthetic {}",
    "csv": "mtd, a fifth of its defects apart",
}
"""Of the data, as records have them."""


def command(dataset: str, category: str, model: str, extra: list[str]) -> list[str]:
    """What is typed after ``ad``, but for the folders."""
    return ["train", dataset, category, model, "--holdout", "0", *extra]


def run(data: Path, command: list[str]) -> dict[str, object]:
    """Train once and return what the command printed, with the command itself."""
    _, dataset, category, model, *_ = command
    root = data / "mtd" if dataset == "mtd" else data
    folders = {"DATA": str(data), "WEIGHTS": os.environ.get("AD_WEIGHTS", "WEIGHTS")}
    words = list(command)
    for name, folder in folders.items():
        words = [word.replace(name, folder) for word in words]
    with tempfile.TemporaryDirectory() as folder:
        if dataset == "csv":
            root = Path(folder) / "mtd_labelled.csv"
            write_table(data / "mtd", root)
        place = [] if dataset == "synthetic" else ["--data-root", str(root)]
        code = "import sys; from ad.core.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words, *place,
             "--output", f"{folder}/run", "--no-report", "--json"],
            stdout=subprocess.PIPE, check=True, text=True,
        )  # fmt: skip
    result = json.loads(done.stdout)
    return {
        "dataset": NAMES.get(dataset, dataset).format(category),
        "model": model,
        "command": f"ad {' '.join(command)}{f' --data-root {root.name}' if place else ''}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "metrics": result["metrics"],
        "resolution": result["resolution"],
        "seconds": result["seconds"],
        "peak_memory_bytes": result["peak_memory_bytes"],
    }


def main() -> None:
    """Train all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=RUNS)
    parser.add_argument("--data", type=Path, required=True, help="folder with mtd, hazelnut_toy")
    parser.add_argument("--only", default="", help="runs whose command has this text; others of")
    parser.add_argument("--output", type=Path, help="... this record are kept")
    options = parser.parse_args()
    before = []
    if options.only and options.output and options.output.exists():
        earlier = json.loads(options.output.read_text())
        before = [{"date": earlier["date"], **row} for row in earlier["rows"]]
    rows = []
    for dataset, category, model, extra in RUNS[options.family]:
        wanted = command(dataset, category, model, extra)
        if options.only not in " ".join(wanted):
            start = " ".join(["ad", *wanted])
            rows += [row for row in before if row["command"].partition(" --data-root")[0] == start]
            continue
        row = run(options.data, wanted)
        rows.append(row)
        figures = {k: v if v is None else round(v, 4) for k, v in row["metrics"].items()}
        print(row["command"], figures, row["seconds"], flush=True)
    if options.output:
        record(f"accuracy of ad-{options.family}", rows, options.output)


if __name__ == "__main__":
    main()
