"""Scores a test split and turns the scores into figures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import PictureSet
from ad.core.data.pictures import read_mask
from ad.core.data.samples import Sample, collect
from ad.core.errors import DataError, ModelFileError
from ad.core.metrics import image_metrics, pixel_metrics
from ad.core.predict import LoadedDetector, load
from ad.core.progress import SILENT, Progress
from ad.core.registry import get_dataset

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_05")

Metrics = dict[str, float | None]
"""Each of `IMAGE_METRICS` and `PIXEL_METRICS`, in [0, 1]; None where it is not defined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one detector on one test split."""

    metrics: Metrics
    """Of the one category, or the mean over the categories that have the metric."""
    categories: dict[str, Metrics]
    """Of each category."""
    num_images: int
    """Test pictures, all categories."""
    resolution: int
    """Side in pixels at which maps and masks are compared."""
    notes: tuple[str, ...]
    """What a reader of the figures must know."""
    scores: tuple[float, ...]
    """Raw score of each test picture, in the order of the samples."""
    seconds_per_image: float | None
    """Decoding and scoring, without the metrics; None without test pictures."""

    def to_json(self) -> dict[str, Any]:
        """The figures without the times, which differ from run to run."""
        return {
            "metrics": self.metrics,
            "categories": self.categories,
            "num_images": self.num_images,
            "resolution": [self.resolution, self.resolution],
            "notes": list(self.notes),
        }


def evaluate(
    run: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the test split of the data that a run was trained on.

    Args:
        run: A run directory.
        data_root: The data set's folder, if it is no longer where it was.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        batch_size: Pictures scored at once; does not change the figures.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the folder is no run directory.
        DataError: If the data are gone or changed their layout.
    """
    settings = read_run(Path(run))
    root = data_root if data_root is not None else settings["data_root"]
    samples = collect(
        get_dataset(settings["dataset"]),
        settings["category"],
        root=None if root is None else Path(root),
        seed=settings["seed"],
        progress=progress,
    )
    test = [sample for sample in samples if sample.split == "test"]
    if not test:
        msg = f"The data of `{run}` have no test pictures: there is nothing to evaluate on."
        raise DataError(msg)
    return measure(load(run, device=device), test, batch_size=batch_size, progress=progress)


def read_run(run: Path) -> dict[str, Any]:
    """The resolved settings of a run, from its ``run.json``.

    Raises:
        ModelFileError: If there is none.
    """
    try:
        settings: dict[str, Any] = json.loads((run / "run.json").read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"`{run}` is no run directory: its `run.json` cannot be read ({error})."
        raise ModelFileError(msg) from error
    return settings


def measure(
    detector: LoadedDetector,
    samples: Sequence[Sample],
    *,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score samples and compare with what is known about them.

    Metrics are computed per category on raw scores, then averaged over the categories. Maps and
    masks are compared at the detector's input size, masks brought there by nearest neighbour.

    Args:
        detector: A fitted detector.
        samples: Test samples; may be empty, which leaves every metric undefined.
        batch_size: Pictures scored at once.
        progress: Where to show how far it is.

    Raises:
        PictureError: If a picture or mask cannot be read.
    """
    pictures = PictureSet([sample.path for sample in samples], detector.config.img_size)
    scores = np.zeros(len(samples), dtype=np.float32)
    maps: list[NDArray[np.float32] | None] = [None] * len(samples)
    started = time.perf_counter()
    with progress.step("testing", total=len(samples), unit="pictures") as advance:
        for batch in pictures.batches(batch_size):
            batch_scores, batch_maps = detector.score(batch.pictures)
            scores[batch.indices] = batch_scores
            for row, index in enumerate(batch.indices):
                # Without the truth of its pixels a map counts for nothing: do not keep it.
                if batch_maps is not None and samples[index].has_truth:
                    maps[index] = batch_maps[row]
            advance(len(batch.indices))
    seconds = (time.perf_counter() - started) / len(samples) if samples else None

    categories = {
        name: _category(name, samples, scores, maps, detector.config.img_size)
        for name in dict.fromkeys(sample.category for sample in samples)
    }
    return Evaluation(
        metrics=_mean(list(categories.values())),
        categories=categories,
        num_images=len(samples),
        resolution=detector.config.img_size,
        notes=tuple(_notes(detector, samples)),
        scores=tuple(float(score) for score in scores),
        seconds_per_image=seconds,
    )


def _category(
    name: str,
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: list[NDArray[np.float32] | None],
    size: int,
) -> Metrics:
    rows = [row for row, sample in enumerate(samples) if sample.category == name]
    labels = np.array([samples[row].label for row in rows])
    metrics: Metrics = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    metrics |= image_metrics(scores[rows], labels)
    known: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.bool_]] = []
    for row in rows:
        map_ = maps[row]
        if map_ is not None:
            known.append(map_)
            truths.append(_truth(samples[row], size))
    if any(truth.any() for truth in truths):
        metrics |= pixel_metrics(known, truths)
    return metrics


def _truth(sample: Sample, size: int) -> NDArray[np.bool_]:
    truth = np.zeros((size, size), dtype=bool)
    for mask in sample.masks:
        truth |= read_mask(mask, sample.path, size)
    return truth


def _mean(categories: list[Metrics]) -> Metrics:
    mean: Metrics = {}
    for key in (*IMAGE_METRICS, *PIXEL_METRICS):
        values = [value for metrics in categories if (value := metrics[key]) is not None]
        mean[key] = float(np.mean(values)) if values else None
    return mean


def _notes(detector: LoadedDetector, samples: Sequence[Sample]) -> list[str]:
    if not samples:
        return ["The data have no test pictures: there are no figures."]
    notes = []
    bad = [sample for sample in samples if sample.label == 1]
    without = [sample for sample in bad if not sample.masks]
    if not bad:
        notes.append("No test picture is defective: metrics need both kinds and are not defined.")
    elif len(bad) == len(samples):
        notes.append("No test picture is good: metrics need both kinds and are not defined.")
    if not detector.detector.localises:
        notes.append(f"`{detector.config.model}` does not localise: image metrics only.")
    elif without and len(without) == len(bad):
        notes.append("No defective picture has a mask: image metrics only.")
    elif without:
        notes.append(
            f"{len(without)} of {len(bad)} defective pictures have no mask; they count in the "
            "image metrics and are left out of the pixel metrics."
        )
    return notes
