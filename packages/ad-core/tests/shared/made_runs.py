"""Run directories made from one that was trained: hundreds in a second, with scores of choice."""

import json
import shutil

import numpy as np

from ad.core.metrics import auroc


def make_run(
    folder, template, *, model="m", category="toy", seed=0, scores, labels, seconds=0.01, **options
):
    """A run that scored pictures so: the first of them are those of the template, if it has any.

    Its settings have `options` of the model, and its threshold is 0.
    """
    record = json.loads((template / "run.json").read_text())
    record["settings"] |= {"model": model, "category": category, "seed": seed, "options": options}
    pictures = [json.loads(x)["path"] for x in (template / "scores.jsonl").read_text().splitlines()]
    root = "/".join(pictures[0].split("/")[:-2])
    pictures += [f"{root}/made/{number:04}.png" for number in range(len(labels))]
    lines = [
        {"path": path, "category": category, "group": "crack" if label else "good",
         "label": int(label), "score": float(score)}
        for path, label, score in zip(pictures, labels, scores, strict=False)
    ]  # fmt: skip
    figures = {"image_auroc": auroc(np.asarray(scores), np.asarray(labels)), "pixel_auroc": None}
    metrics = json.loads((template / "metrics.json").read_text())
    metrics |= {"metrics": figures, "categories": {category: figures}}
    config = json.loads((template / "model/config.json").read_text())
    config["calibration"]["threshold"] = 0.0
    log = [
        {"event": "fitted", "seconds": 3.0},
        {"event": "tested", "seconds": {"test_per_image": seconds}, "peak_memory_bytes": 2**30},
    ]
    (folder / "model").mkdir(parents=True)
    shutil.copy(template / "report.html", folder)
    for name, value in (
        ("run.json", record), ("metrics.json", metrics), ("model/config.json", config)
    ):  # fmt: skip
        (folder / name).write_text(json.dumps(value))
    for name, rows in (("scores.jsonl", lines), ("log.jsonl", log)):
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder


def scores_of(seed, labels, *, shift):
    """Scores of a detector: what is hard about a picture is the same for all, and half of it."""
    hard = np.random.default_rng(0).normal(size=len(labels))
    own = np.random.default_rng(1 + seed).normal(size=len(labels))
    return hard + own + shift * np.asarray(labels) - 1.5
