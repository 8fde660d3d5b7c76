"""Scores a test split and turns the scores into figures."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
from ad.core.metrics.streamed import Labelled
from ad.core.metrics.summary import streamed_pixel_metrics
from ad.core.predict import LoadedDetector
from ad.core.thresholds.verdicts import Verdicts, false_alarm_notes
from ad.runtime.budget import MEMORY, memory_budget
from ad.runtime.framing.size import Sides, size_of
from ad.runtime.pictures.drawn import shows_defect
from ad.runtime.progress import SILENT, Progress
from ad.runtime.spill import Arrays, Some, check_room

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
    the size at which pictures are cut, where they are. Maps beyond a share of memory are in a
    temporary file; see `ad.runtime.spill`.

    Args:
        detector: A fitted detector.
        samples: Test samples; may be empty, which leaves every metric undefined.
        batch_size: Pictures scored at once.
        progress: Where to show how far it is.
        world: The processes that share the pictures, each of which calls this.
        watch: Told of each batch of this process's share, as it comes; its time does not count.

    Raises:
        PictureError: If a picture or mask cannot be read.
        OutputError: If the disk has no room for what does not fit into memory.
    """
    budget = memory_budget()
    size = maps_beyond(budget, samples, detector.config.framing) if detector.localises else 0
    silent = size > 0 or not world.main
    if size and world.main:
        progress.tell(_on_disk(size))
    paths = [sample.path for sample in samples]
    own = range(world.rank, len(samples), world.size)
    scores = np.zeros(len(samples), dtype=np.float32)
    maps = Arrays(len(samples), "maps", budget=budget)
    watching = 0.0
    started = time.perf_counter()
    with progress.step("testing", total=len(own), unit="pictures") as advance:
        for batch, batch_scores, batch_maps in detector.scored(paths, batch_size, order=own):
            scores[batch.indices] = batch_scores
            for row, index in enumerate(batch.indices):
                # Without the truth of its pixels a map counts for nothing: do not keep it.
                if batch_maps is not None and samples[index].has_truth:
                    maps.put(index, batch_maps[row])
            if maps.on_disk and not silent:
                progress.tell(_on_disk(0))
                silent = True
            if watch is not None:
                paused = time.perf_counter()
                watch(batch, batch_scores, batch_maps)
                watching += time.perf_counter() - paused
            advance(len(batch.indices))
    if world.size > 1:
        _gather(world, own, scores, maps)
    spent = time.perf_counter() - started - watching
    seconds = spent / len(samples) if samples else None
    told = world.tell(
        _evaluation(detector, samples, scores, maps, seconds, progress) if world.main else None
    )
    assert told is not None
    return told


def maps_beyond(budget: int, samples: Sequence[Sample], framing: Framing) -> int:
    """Bytes of the maps of test pictures, if that is more than may be kept in memory; 0 if not.

    Args:
        budget: See `ad.runtime.budget.memory_budget`.
        samples: To test with.
        framing: How the detector sees them. Where they are cut into tiles, nothing is known: 0.

    Raises:
        OutputError: If the folder of temporary files has no room for them.
    """
    height, width = framing.size
    size = 4 * height * width * sum(sample.has_truth for sample in samples)
    if framing.tiling is not None or size <= budget:
        return 0
    check_room(size, "maps")
    return size


def _on_disk(size: int) -> str:
    return (
        f"maps of test pictures go to a temporary file in {tempfile.gettempdir()}"
        f"{f': {size / 2**30:.1f} GiB' if size else ''} ({MEMORY} says how much is kept in memory)"
    )


_SENT = 32
"""Maps of each process that are sent at once."""


def _gather(world: World, own: range, scores: NDArray[np.float32], maps: Arrays) -> None:
    """Bring what all processes found together in the first one."""
    for start in range(0, -(-len(scores) // world.size), _SENT):
        rows = own[start : start + _SENT]
        others = world.gather((rows, scores[rows], [maps[row] for row in rows]))[1:]
        for theirs, found, drawn in others:
            scores[theirs] = found
            for row, map_ in zip(theirs, drawn, strict=True):
                if map_ is not None:
                    maps.put(row, map_)


def _evaluation(
    detector: LoadedDetector,
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: Arrays,
    seconds_per_image: float | None,
    progress: Progress,
) -> Evaluation:
    categories: dict[str, Metrics] = {}
    kinds: dict[str, dict[str, Metrics]] = {}
    unseen = 0
    framing = detector.config.framing
    for name in dict.fromkeys(sample.category for sample in samples):
        rows = [row for row, sample in enumerate(samples) if sample.category == name]
        own, own_maps = [samples[row] for row in rows], maps.some(rows)
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
    maps: Some,
    framing: Framing,
) -> tuple[Metrics, int]:
    """Figures of one category, and how many marked defects lie where nothing is looked at."""
    labels = np.array([sample.label for sample in samples])
    metrics: Metrics = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    if labels.any() and not labels.all():  # of defective ones alone AP is 1, whatever they score
        metrics |= image_metrics(scores, labels)
    hidden: set[int] = set()
    beyond_memory = maps.arrays.on_disk > 0
    masks = Arrays(len(samples), "masks")

    def truth_of(row: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        if (packed := masks[row]) is not None:
            return np.unpackbits(packed, count=math.prod(shape)).reshape(shape).view(np.bool_)
        truth = framing.truth(samples[row])
        if beyond_memory and samples[row].masks:  # it is asked for again
            masks.put(row, np.packbits(truth))
        return truth

    def pictures(masked: bool) -> Iterator[Labelled]:
        for row, sample in enumerate(samples):
            map_ = None if masked and not sample.masks else maps[row]
            if map_ is None:
                continue
            truth = truth_of(row, map_.shape)
            if sample.label == 0 or truth.any():  # a defect that no mask marks lies somewhere
                yield map_, truth, None if framing.all_counts else framing.counted(sample.path)
            elif any(shows_defect(mask) for mask in sample.masks):
                hidden.add(row)

    if beyond_memory:
        metrics |= streamed_pixel_metrics(pictures)
        return metrics, len(hidden)
    found = list(pictures(False))
    if any(truth.any() for _, truth, _ in found):
        known, truths, counted = zip(*found, strict=True)
        metrics |= pixel_metrics(known, truths, None if framing.all_counts else counted)
    return metrics, len(hidden)


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
