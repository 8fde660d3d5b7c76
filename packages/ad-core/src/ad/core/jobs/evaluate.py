"""The figures of a run, found again: its saved model on its test split as it is now."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.data.batches import Batch
from ad.core.data.contents import check_pictures
from ad.core.data.finding import collect, locate_again
from ad.core.data.samples import Sample
from ad.core.errors import DataError, OutputError
from ad.core.figures.measure import Evaluation, measure
from ad.core.jobs.map_files import MapFiles
from ad.core.jobs.run_directory import masks_of, pictures_of, tidy
from ad.core.predict import load
from ad.core.registry import get_dataset
from ad.core.report.gallery import Gallery
from ad.core.report.run import REPORT, write_again
from ad.core.saved.claims import letting_go
from ad.core.saved.record import check_saved, read_run, run_around
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress


@letting_go()
def evaluate(
    run: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 8,
    report: bool = True,
    save_maps: str | Path | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Score the test split of the data that a run was trained on.

    Args:
        run: A run directory, or the ``model`` folder in it.
        data_root: The data set's folder, if it is no longer where it was.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        batch_size: Pictures scored at once; does not change the figures.
        report: Whether to write ``report.html`` into the run directory.
        save_maps: Folder to make for the maps in the pictures' own pixels; see `MapFiles`.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the folder is no run directory, or its training has not ended.
        DataError: If the data are gone or changed their layout.
        OutputError: If the report or a map cannot be written.
        SettingError: If maps are asked for and the model has none.
    """
    run = run_around(given_path(run, "the run"))
    check_saved(run)
    record, samples = unseen_samples(run, data_root, progress)
    test = [sample for sample in samples if sample.split == "test"]
    if not test:
        msg = (
            f"The data of `{run}` have no test pictures: there is nothing to evaluate on.\nhint: "
            "the good pictures that its threshold was set on: ad report "
            f"{shlex.quote(str(run))}"
        )
        raise DataError(msg)
    others = other_data(record, samples)
    data_notes = [*others, *check_pictures(samples, progress=progress)]
    tidy(run)
    detector = load(run, device=device)
    files = None
    if save_maps is not None:
        files = MapFiles(save_maps, [sample.path for sample in test], detector, detector.threshold)
    gallery = Gallery(test, detector.config.calibration, detector) if report else None

    def watch(batch: Batch, scores: NDArray[np.float32], maps: NDArray[np.float32] | None) -> None:
        for one in (gallery, files):
            if one is not None:
                one.see(batch, scores, maps)

    evaluation = measure(
        detector,
        test,
        batch_size=batch_size,
        progress=progress,
        watch=watch,
    )
    evaluation = replace(evaluation, notes=(*data_notes, *evaluation.notes))
    if gallery is not None:
        try:
            write_again(run / REPORT, run, detector.config, evaluation, gallery, others=others)
        except OutputError as error:
            msg = (
                f"{error}\nhint: the figures alone need no report: ad evaluate --no-report "
                f"{shlex.quote(str(run))}"
            )
            raise OutputError(msg) from error
    return evaluation


def find_test_samples(
    run: Path, *, data_root: str | Path | None = None, progress: Progress = SILENT
) -> list[Sample]:
    """The test split of the data that a run was trained on; see `evaluate`."""
    _, samples = unseen_samples(run, data_root, progress)
    return [sample for sample in samples if sample.split == "test"]


def unseen_samples(
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
        record: What `ad.core.jobs.run_directory.read_run` read.
        data_root: The data set's folder, if it is no longer where it was.
        progress: Where to show how far a data set is that must be made first.

    Raises:
        DataError: If the data are gone or changed their layout.
    """
    settings = record["settings"]
    dataset = get_dataset(settings["dataset"])
    given = data_root if data_root is not None else settings["data_root"]
    category, root = locate_again(dataset, settings["category"], given)
    return collect(
        dataset,
        category,
        root=root,
        seed=settings["seed"],
        labelled=settings.get("supervised", False),  # the first runs did not record it
        progress=progress,
    )


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
            f"ad predict {shlex.quote(str(run))} PICTURE_OR_FOLDER"
        )
        raise DataError(msg)


def other_data(record: dict[str, Any], samples: Sequence[Sample]) -> list[str]:
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
