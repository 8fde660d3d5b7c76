"""Scores a test split and turns the scores into figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import Batch
from ad.core.data.samples import Sample
from ad.core.errors import listed
from ad.core.figures.kinds import SATURATED_METRICS, kind_metrics, mean_of_kinds
from ad.core.framing import Framing
from ad.core.learning.distributed import ALONE, World
from ad.core.metrics import image_metrics, pixel_metrics
from ad.core.predict import LoadedDetector
from ad.core.thresholds.verdicts import Verdicts, false_alarm_notes
from ad.runtime.framing.size import Sides, size_of
from ad.runtime.pictures.drawn import shows_defect
from ad.runtime.progress import SILENT, Progress

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_05")

Metrics = dict[str, float | None]
"""Each of `IMAGE_METRICS` and `PIXEL_METRICS`, in [0, 1]; None where it is not defined. Where data
say how much of a defect has to be found, also `SATURATED_METRICS` of `ad.core.figures.kinds`."""

Watch = Callable[[Batch, NDArray[np.float32], NDArray[np.float32] | None], None]
"""Told of each batch with its scores ``[B]`` and maps ``[B, H, W]``, or None for maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one detector on one test split."""

    metrics: Metrics
    """Of the one category, or the mean over the categories that have the metric."""
    categories: dict[str, Metrics]
    """Of each category."""
    kinds: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    """Of each category and kind of defect: see `ad.core.figures.kinds`; empty for most data."""
    num_images: int
    """Test pictures, all categories."""
    resolution: Sides | None
    """Height and width in pixels at which maps and masks are compared; one number for a square.
    None where pictures are cut into tiles: each at its own size."""
    notes: tuple[str, ...]
    """What a reader of the figures must know."""
    scores: tuple[float, ...]
    """Raw score of each test picture, in the order of the samples."""
    verdicts: Verdicts | None
    """How the threshold did; None without one."""
    seconds_per_image: float | None
    """Decoding and scoring, without the metrics; None without test pictures."""

    @property
    def compared_at(self) -> str:
        """The resolution for a person."""
        if self.resolution is None:
            return "each picture's own size"
        return str(size_of(self.resolution))

    def to_json(self) -> dict[str, Any]:
        """The figures without the times, which differ from run to run."""
        return {
            "metrics": self.metrics,
            "categories": self.categories,
            **({"kinds": self.kinds} if self.kinds else {}),
            "num_images": self.num_images,
            "resolution": None if self.resolution is None else list(size_of(self.resolution)),
            "verdicts": None if self.verdicts is None else self.verdicts._asdict(),
            "notes": list(self.notes),
        }


def measure(
    detector: LoadedDetector,
    samples: Sequence[Sample],
    *,
    batch_size: int = 8,
    progress: Progress = SILENT,
    world: World = ALONE,
    watch: Watch | None = None,
) -> Evaluation:
    """Score samples and compare with what is known about them.

    Metrics are computed per category on raw scores, then averaged over the categories. Maps and
    masks are compared at the detector's input size, masks brought there by nearest neighbour; at
    the size at which pictures are cut, where they are.

    Args:
        detector: A fitted detector.
        samples: Test samples; may be empty, which leaves every metric undefined.
        batch_size: Pictures scored at once.
        progress: Where to show how far it is.
        world: The processes that share the pictures, each of which calls this.
        watch: Told of each batch of this process's share, as it comes; its time does not count.

    Raises:
        PictureError: If a picture or mask cannot be read.
    """
    paths = [sample.path for sample in samples]
    own = range(world.rank, len(samples), world.size)
    scores = np.zeros(len(samples), dtype=np.float32)
    maps: list[NDArray[np.float32] | None] = [None] * len(samples)
    watching = 0.0
    started = time.perf_counter()
    with progress.step("testing", total=len(own), unit="pictures") as advance:
        for batch, batch_scores, batch_maps in detector.scored(paths, batch_size, order=own):
            scores[batch.indices] = batch_scores
            for row, index in enumerate(batch.indices):
                # Without the truth of its pixels a map counts for nothing: do not keep it.
                if batch_maps is not None and samples[index].has_truth:
                    maps[index] = batch_maps[row]
            if watch is not None:
                paused = time.perf_counter()
                watch(batch, batch_scores, batch_maps)
                watching += time.perf_counter() - paused
            advance(len(batch.indices))
    for rows, found, drawn in world.gather((own, scores[own], [maps[row] for row in own])):
        scores[rows] = found
        for row, map_ in zip(rows, drawn, strict=True):
            maps[row] = map_
    spent = time.perf_counter() - started - watching
    seconds = spent / len(samples) if samples else None
    told = world.tell(
        _evaluation(detector, samples, scores, maps, seconds, progress) if world.main else None
    )
    assert told is not None
    return told


def _evaluation(
    detector: LoadedDetector,
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: list[NDArray[np.float32] | None],
    seconds_per_image: float | None,
    progress: Progress,
) -> Evaluation:
    categories: dict[str, Metrics] = {}
    kinds: dict[str, dict[str, Metrics]] = {}
    unseen = 0
    framing = detector.config.framing
    for name in dict.fromkeys(sample.category for sample in samples):
        rows = [row for row, sample in enumerate(samples) if sample.category == name]
        own, own_maps = [samples[row] for row in rows], [maps[row] for row in rows]
        categories[name], hidden = _category(own, scores[rows], own_maps, framing)
        unseen += hidden
        if any(sample.saturations for sample in own):
            kinds[name] = kind_metrics(own, scores[rows], own_maps, progress, framing=framing)
            mean = mean_of_kinds(kinds[name])
            categories[name] |= {key: mean[key] for key in SATURATED_METRICS}
    verdicts = _verdicts(detector, samples, scores)
    alarms = false_alarm_notes(detector.config.calibration, verdicts, len(categories))
    return Evaluation(
        metrics=_mean(list(categories.values())),
        categories=categories,
        kinds=kinds,
        num_images=len(samples),
        resolution=None if framing.tiling is not None else framing.size.plain,
        notes=(*alarms, *_notes(detector, samples, categories, unseen)),
        verdicts=verdicts,
        scores=tuple(float(score) for score in scores),
        seconds_per_image=seconds_per_image,
    )


def _category(
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: Sequence[NDArray[np.float32] | None],
    framing: Framing,
) -> tuple[Metrics, int]:
    """Figures of one category, and how many marked defects lie where nothing is looked at."""
    labels = np.array([sample.label for sample in samples])
    metrics: Metrics = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    if labels.any() and not labels.all():  # of defective ones alone AP is 1, whatever they score
        metrics |= image_metrics(scores, labels)
    known: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.bool_]] = []
    counted: list[NDArray[np.bool_]] = []
    unseen = 0
    for sample, map_ in zip(samples, maps, strict=True):
        if map_ is None:
            continue
        truth = framing.truth(sample)
        if sample.label == 0 or truth.any():  # a defect that no mask marks lies somewhere
            known.append(map_)
            truths.append(truth)
            if not framing.all_counts:
                counted.append(framing.counted(sample.path))
        elif any(shows_defect(mask) for mask in sample.masks):
            unseen += 1
    if any(truth.any() for truth in truths):
        metrics |= pixel_metrics(known, truths, counted or None)
    return metrics, unseen


def _mean(categories: list[Metrics]) -> Metrics:
    mean: Metrics = {}
    for key in dict.fromkeys(
        (*IMAGE_METRICS, *PIXEL_METRICS, *(key for metrics in categories for key in metrics))
    ):
        values = [value for metrics in categories if (value := metrics.get(key)) is not None]
        mean[key] = float(np.mean(values)) if values else None
    return mean


def _verdicts(
    detector: LoadedDetector, samples: Sequence[Sample], scores: NDArray[np.float32]
) -> Verdicts | None:
    if detector.config.calibration is None:
        return None
    called = np.array([detector.config.calibration.is_anomalous(float(score)) for score in scores])
    bad = np.array([sample.label == 1 for sample in samples])
    called, bad = called.astype(bool), bad.astype(bool)
    return Verdicts(
        found=int((called & bad).sum()),
        defective=int(bad.sum()),
        false_alarms=int((called & ~bad).sum()),
        good=int((~bad).sum()),
    )


def _notes(
    detector: LoadedDetector,
    samples: Sequence[Sample],
    categories: dict[str, Metrics],
    unseen: int,
) -> list[str]:
    if not samples:
        return ["The data have no test pictures: there are no figures."]
    notes = detector.config.framing.notes()
    others = (detector.other_tiles(sample.path) for sample in samples)
    notes += [other for other in others if other is not None][:1]
    bad = [sample for sample in samples if sample.label == 1]
    without = [sample for sample in bad if not sample.masks]
    for kind, noun in ((1, "defective"), (0, "good")):
        lacking = {s.category for s in samples} - {s.category for s in samples if s.label == kind}
        if lacking:
            where = f" of {listed(lacking)}" if len(categories) > 1 else ""
            notes.append(
                f"No test picture{where} is {noun}: image metrics need both kinds and are not "
                "defined."
            )
    defined = sum(metrics["image_auroc"] is not None for metrics in categories.values())
    if 0 < defined < len(categories):
        notes.append(
            f"The mean of image metrics is over {defined} of {len(categories)} categories."
        )
    if detector.detector.localises and any(sample.saturations for sample in samples):
        notes.append(
            "AU-sPRO is of each kind of defect with the good pictures, at the pictures' own size."
        )
    if unseen:
        notes.append(
            f"The defects of {unseen} of {len(bad)} defective pictures lie where nothing is looked "
            "at: these count in the image metrics and are left out of the pixel metrics."
        )
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
