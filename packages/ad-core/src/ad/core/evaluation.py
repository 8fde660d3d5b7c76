"""Scores a test split and turns the scores into figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import Batch, PictureSet
from ad.core.data.contents import check_pictures
from ad.core.data.pictures import read_mask
from ad.core.data.samples import Sample, collect, locate
from ad.core.distributed import ALONE, World
from ad.core.errors import DataError, OutputError, listed
from ad.core.kinds import SATURATED_METRICS, kind_metrics, mean_of_kinds
from ad.core.metrics import image_metrics, pixel_metrics
from ad.core.paths import given_path
from ad.core.predict import LoadedDetector, load
from ad.core.progress import SILENT, Progress
from ad.core.registry import get_dataset
from ad.core.report.gallery import Gallery
from ad.core.report.run import REPORT, write_again
from ad.core.run_directory import masks_of, pictures_of, read_run, tidy
from ad.core.verdicts import Verdicts, false_alarm_notes

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_05")

Metrics = dict[str, float | None]
"""Each of `IMAGE_METRICS` and `PIXEL_METRICS`, in [0, 1]; None where it is not defined. Where data
say how much of a defect has to be found, also `SATURATED_METRICS` of `ad.core.kinds`."""

Watch = Callable[[Batch, NDArray[np.float32], NDArray[np.float32] | None], None]
"""Told of each batch with its scores ``[B]`` and maps ``[B, S, S]``, or None for maps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The figures of one detector on one test split."""

    metrics: Metrics
    """Of the one category, or the mean over the categories that have the metric."""
    categories: dict[str, Metrics]
    """Of each category."""
    kinds: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    """Of each category and kind of defect: see `ad.core.kinds`; empty for most data."""
    num_images: int
    """Test pictures, all categories."""
    resolution: int
    """Side in pixels at which maps and masks are compared."""
    notes: tuple[str, ...]
    """What a reader of the figures must know."""
    scores: tuple[float, ...]
    """Raw score of each test picture, in the order of the samples."""
    verdicts: Verdicts | None
    """How the threshold did; None without one."""
    seconds_per_image: float | None
    """Decoding and scoring, without the metrics; None without test pictures."""

    def to_json(self) -> dict[str, Any]:
        """The figures without the times, which differ from run to run."""
        return {
            "metrics": self.metrics,
            "categories": self.categories,
            **({"kinds": self.kinds} if self.kinds else {}),
            "num_images": self.num_images,
            "resolution": [self.resolution, self.resolution],
            "verdicts": None if self.verdicts is None else self.verdicts._asdict(),
            "notes": list(self.notes),
        }


def evaluate(
    run: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    report: bool = True,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the test split of the data that a run was trained on.

    Args:
        run: A run directory.
        data_root: The data set's folder, if it is no longer where it was.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        batch_size: Pictures scored at once; does not change the figures.
        report: Whether to write ``report.html`` into the run directory.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the folder is no run directory.
        DataError: If the data are gone or changed their layout.
        OutputError: If the report cannot be written.
    """
    run = given_path(run, "the run")
    record, samples = _unseen_samples(run, data_root, progress)
    test = [sample for sample in samples if sample.split == "test"]
    if not test:
        msg = f"The data of `{run}` have no test pictures: there is nothing to evaluate on."
        raise DataError(msg)
    data_notes = [
        *_other_data(record, samples),
        *check_pictures(samples, progress=progress),
    ]
    tidy(run)
    detector = load(run, device=device)
    gallery = Gallery(test, detector.config.calibration) if report else None
    evaluation = measure(
        detector,
        test,
        batch_size=batch_size,
        progress=progress,
        watch=None if gallery is None else gallery.see,
    )
    evaluation = replace(evaluation, notes=(*data_notes, *evaluation.notes))
    if gallery is not None:
        try:
            write_again(run / REPORT, run, detector.config, evaluation, gallery)
        except OutputError as error:
            msg = f"{error}\nhint: the figures alone need no report: ad evaluate --no-report {run}"
            raise OutputError(msg) from error
    return evaluation


def find_test_samples(
    run: Path, *, data_root: str | Path | None = None, progress: Progress = SILENT
) -> list[Sample]:
    """The test split of the data that a run was trained on; see `evaluate`."""
    _, samples = _unseen_samples(run, data_root, progress)
    return [sample for sample in samples if sample.split == "test"]


def _unseen_samples(
    run: Path, data_root: str | Path | None, progress: Progress
) -> tuple[dict[str, Any], list[Sample]]:
    """A run's record and the samples of its data, if what it learnt from is not among the tests."""
    record = read_run(run)
    samples = samples_of(record, data_root, progress)
    _check_unseen(run, record, samples)
    return record, samples


def samples_of(
    record: dict[str, Any], data_root: str | Path | None = None, progress: Progress = SILENT
) -> list[Sample]:
    """The samples of the data that a run was trained on, as they are now.

    Args:
        record: What `ad.core.run_directory.read_run` read.
        data_root: The data set's folder, if it is no longer where it was.
        progress: Where to show how far a data set is that must be made first.

    Raises:
        DataError: If the data are gone or changed their layout.
    """
    settings = record["settings"]
    dataset = get_dataset(settings["dataset"])
    given = data_root if data_root is not None else settings["data_root"]
    _, root = locate(dataset, settings["category"], given)
    category = settings["category"]
    if root is not None and dataset.categories(root) == [root.name] and category != "all":
        category = root.name  # the root is the one category itself, and may have been renamed
    return collect(dataset, category, root=root, seed=settings["seed"], progress=progress)


def _check_unseen(run: Path, record: dict[str, Any], samples: Sequence[Sample]) -> None:
    """Refuse when other good pictures are there to train on: a split by seed is another one then.

    Pictures that were learnt from would be among the test pictures.
    """
    then, now = record["data"]["training"], pictures_of(samples, "train")
    if then != now:
        msg = (
            f"The good pictures that `{run}` was trained on are not those of the data now "
            f"({then[0]} then, {now[0]} now, or others), so test pictures may be among those it "
            "has learnt. "
            "Restore the data, or train again; to score new pictures: "
            f"ad predict {run} PICTURE_OR_FOLDER"
        )
        raise DataError(msg)


def _other_data(record: dict[str, Any], samples: Sequence[Sample]) -> list[str]:
    """Say that a run's data are not those that its own figures and threshold are of."""
    notes = []
    for key, what, now, so in (
        (
            "test",
            "The test pictures are not those of the training's figures",
            pictures_of(samples, "test"),
            "New figures are of other data.",
        ),
        (
            "masks",
            "The masks are not those of the training's figures",
            masks_of(samples),
            "New figures of pixels are of other masks.",
        ),
        (
            "validation",
            "The good pictures that the threshold is set with are not those of the training",
            pictures_of(samples, "validation"),
            "It was not set anew by this.",
        ),
    ):
        then = record["data"].get(key)
        if then is not None and then != now:  # the first runs did not record it
            others = ", others or changed ones" if then[0] == now[0] else ""
            notes.append(f"{what}: {then[0]} then, {now[0]} now{others}. {so}")
    return notes


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
    masks are compared at the detector's input size, masks brought there by nearest neighbour.

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
    config = detector.config
    paths = [sample.path for sample in samples]
    pictures = PictureSet(paths, config.img_size, white=config.white_level)
    own = range(world.rank, len(samples), world.size)
    scores = np.zeros(len(samples), dtype=np.float32)
    maps: list[NDArray[np.float32] | None] = [None] * len(samples)
    watching = 0.0
    started = time.perf_counter()
    with progress.step("testing", total=len(own), unit="pictures") as advance:
        for batch in pictures.batches(batch_size, order=own):
            batch_scores, batch_maps = detector.score(batch.pictures)
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
    for name in dict.fromkeys(sample.category for sample in samples):
        rows = [row for row, sample in enumerate(samples) if sample.category == name]
        own, own_maps = [samples[row] for row in rows], [maps[row] for row in rows]
        categories[name] = _category(own, scores[rows], own_maps, detector.config.img_size)
        if any(sample.saturations for sample in own):
            kinds[name] = kind_metrics(own, scores[rows], own_maps, progress)
            mean = mean_of_kinds(kinds[name])
            categories[name] |= {key: mean[key] for key in SATURATED_METRICS}
    verdicts = _verdicts(detector, samples, scores)
    alarms = false_alarm_notes(detector.config.calibration, verdicts, len(categories))
    return Evaluation(
        metrics=_mean(list(categories.values())),
        categories=categories,
        kinds=kinds,
        num_images=len(samples),
        resolution=detector.config.img_size,
        notes=(*alarms, *_notes(detector, samples, categories)),
        verdicts=verdicts,
        scores=tuple(float(score) for score in scores),
        seconds_per_image=seconds_per_image,
    )


def _category(
    samples: Sequence[Sample],
    scores: NDArray[np.float32],
    maps: Sequence[NDArray[np.float32] | None],
    size: int,
) -> Metrics:
    labels = np.array([sample.label for sample in samples])
    metrics: Metrics = dict.fromkeys((*IMAGE_METRICS, *PIXEL_METRICS))
    if labels.any() and not labels.all():  # of defective ones alone AP is 1, whatever they score
        metrics |= image_metrics(scores, labels)
    known: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.bool_]] = []
    for sample, map_ in zip(samples, maps, strict=True):
        if map_ is None:
            continue
        truth = read_truth(sample, size)
        if sample.label == 0 or truth.any():  # a defect that no mask marks lies somewhere
            known.append(map_)
            truths.append(truth)
    if any(truth.any() for truth in truths):
        metrics |= pixel_metrics(known, truths)
    return metrics


def read_truth(sample: Sample, size: int) -> NDArray[np.bool_]:
    """Which pixels are defective, ``[size, size]``: where any of the sample's masks says so."""
    truth = np.zeros((size, size), dtype=bool)
    for mask in sample.masks:
        truth |= read_mask(mask, sample.path, size)
    return truth


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
    detector: LoadedDetector, samples: Sequence[Sample], categories: dict[str, Metrics]
) -> list[str]:
    if not samples:
        return ["The data have no test pictures: there are no figures."]
    notes = []
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
