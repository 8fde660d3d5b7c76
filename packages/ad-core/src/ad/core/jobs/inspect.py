"""Predicts on new pictures and writes what a person needs: a table and heat map overlays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.core.errors import PictureError, SettingError
from ad.core.jobs.exported import refuse_for_exported
from ad.core.jobs.map_files import MapFiles
from ad.core.report.predictions import NewPictures
from ad.core.saved.claims import letting_go, make_folder, make_free_folder
from ad.core.thresholds.verdicts import calibration_notes
from ad.runtime.calibration import Calibration
from ad.runtime.drift import Drift, compare
from ad.runtime.findings import Finding, check_batch_size
from ad.runtime.numbered import numbered_names, write_numbered
from ad.runtime.ordered import in_order
from ad.runtime.overlays import Colours, overlay_of
from ad.runtime.package import is_exported
from ad.runtime.paths import given_path
from ad.runtime.pictures.opening import drawn_jpeg
from ad.runtime.pictures.reading import glimpse
from ad.runtime.progress import SILENT, Progress
from ad.runtime.results import FilesBeside, ResultFile, Row, Rows, refuse_without_threshold
from ad.runtime.runtime import Runtime
from ad.runtime.runtime import load as load_exported
from ad.runtime.sources import find_sources

if TYPE_CHECKING:
    from ad.core.predict import LoadedDetector


_UNDRAWN = '`--no-heatmaps`; `heatmaps="none"` in Python'
_UNSAVED = "no `--save-maps`; no `save_maps` in Python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that was found and written."""

    output: Path
    """Folder with ``predictions.csv`` and, if asked for, ``heatmaps``."""
    threshold: float | None
    """Score above which a picture is defective."""
    rows: Rows
    """One per picture."""
    calibration: Calibration | None
    """What verdicts and regions were made by."""
    min_area: int
    """Of the smallest region that is told, in pixels of a picture."""
    drift: Drift
    """How the scores differ from those of calibration."""
    report: Path | None
    """``report.html`` in that folder, if it was written."""

    def to_json(self) -> dict[str, Any]:
        """As ``ad predict --json`` prints it."""
        return {**self.printed(), "predictions": [row.to_json() for row in self.rows]}

    def printed(self) -> dict[str, Any]:
        """The same with an iterator of ``predictions``, which are many."""
        counted = None if self.calibration is None else self.calibration.false_regions
        return {
            "output": str(self.output),
            "threshold": self.threshold,
            "min_area": self.min_area,
            "false_regions": None if counted is None else counted.to_json(),
            "predictions": (row.to_json() for row in self.rows),
            "drift": self.drift.to_json(),
            "report": None if self.report is None else str(self.report),
        }

    def summary(self) -> str:
        """One line for a person: how many pictures got which verdict."""
        return self.rows.summary()

    def promise_of_regions(self) -> str | None:
        """One line for a person: how many regions good pictures have; None without any at all."""
        calibration = self.calibration
        return None if calibration is None else calibration.promise_of_regions(self.min_area)


@letting_go()
def inspect(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    every: int | str | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threshold: float | None = None,
    category: str | None = None,
    min_area: int | None = None,
    batch_size: int | None = None,
    heatmaps: Literal["all", "defective", "none"] = "all",
    save_maps: str | Path | None = None,
    colours: Colours = "threshold",
    report: bool = True,
    verdicts_for: str = "",
    compile: bool = False,
    progress: Progress = SILENT,
) -> Inspection:
    """Predict on pictures; write tables, ``heatmaps/*.jpg`` and ``report.html``.

    The tables are ``predictions.csv``, a row a picture, and ``regions.csv``, a row a region.

    Heat maps are scaled so that 0.5 is the pixel threshold, which is outlined; without
    calibration they are scaled to each picture's own range, say so, and nothing is outlined but,
    in blue, what a test of the detector's own finds (`Detector.outline`).
    The tables grow with each picture, so that a run that is stopped has what it had found; by
    Ctrl-C the page, too, which says so.

    Args:
        run: A run directory, or what `ad.core.export` wrote.
        paths: Pictures, folders of pictures, and videos.
        every: Which frames of videos, as of `LoadedDetector.predict`; None for all.
        output: Folder to make; ``predictions`` in the run directory by default, or beside what was
            exported, with a number behind it when that is taken.
        device: ``auto``, ``cpu`` or ``cuda[:N]``; for an exported model as `ad.runtime.load` has
            it, ``auto`` for ``cpu``.
        precision: ``auto`` is the one that the threshold was set in; an exported model has its own.
        threshold: For this use in place of the saved one: see `ad.core.predict.load`.
        category: Of an exported model: take the threshold of this one, where it has its own.
        min_area: Leave out regions of fewer pixels of the picture; None for none.
        batch_size: Pictures scored at once; 8 by default, 1 for an exported model.
        heatmaps: Of which pictures; the tables have all pictures in any case.
        save_maps: Folder to make for the maps of all pictures in their own pixels; see `MapFiles`.
        colours: Of heat maps: ``threshold`` lets them start just below the pixel threshold,
            ``picture`` gives each picture its own range, so that what was missed can be seen.
        report: Whether to write ``report.html``.
        verdicts_for: What verdicts are needed for, as a user would say it: without a threshold that
            is refused, before anything is scored.
        compile: Have `torch.compile` translate the run's detector: see `ad.core.predict.load`.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the run holds no model.
        UnknownNameError: If the model was not trained on the category.
        DataError: If there are no pictures.
        SettingError: If the threshold is no finite number, the batch size none from 1, or the run
            has no calibration and verdicts are needed, or maps or an area are asked for and the
            model has no maps, or no pixel threshold.
        OutputError: If the folder exists and is not empty, or cannot be written.
    """
    path = given_path(run, "the run")
    work = _at_work(path, device, precision, threshold, category, min_area, compile, progress)
    work = replace(work, colours=colours)
    limit = None if work.calibration is None else work.calibration.threshold
    if heatmaps == "defective":
        verdicts_for = verdicts_for or "`heatmaps` `defective`"
    refuse_without_threshold(verdicts_for, limit, work.detector.config.model)
    if batch_size is not None:
        check_batch_size(batch_size)
        work = replace(work, stream=partial(work.stream, batch_size=batch_size))
    # A mistyped path is refused before anything is written.
    sources = find_sources(list(paths), every=every)
    pictures = [source for source in sources if isinstance(source, Path)]
    files = None if save_maps is None else MapFiles(save_maps, pictures, work.detector, limit)
    usual = _usual_output(path, work)
    if output is None:
        folder = make_free_folder(usual)
    else:
        folder = given_path(output, "the output")
        make_folder(folder)
    drawings, names = folder / "heatmaps", numbered_names(pictures, ".jpg")
    page = None
    if report:
        page = NewPictures(work.calibration, work.detector.config, work.outlines)

    def drawn(numbered: tuple[int, Finding]) -> _Drawn:
        number, finding = numbered
        pixels, heatmap = None, None
        try:
            if finding.path is not None and finding.map is not None:
                if heatmaps in ("all", finding.verdict):
                    pixels = glimpse(finding.path, white=work.detector.config.white_level)
                    sheet = _picture(finding, pixels, work)
                    heatmap = beside.write(_UNDRAWN, write_numbered, drawings, names[number], sheet)
                if files is not None and finding.score is not None:
                    beside.write(_UNSAVED, files.write, number, finding.score, finding.map)
        except PictureError as error:
            return _Drawn(_gone(finding, error), None, None)
        return _Drawn(finding, pixels if page is not None else None, heatmap)

    rows, beside = Rows(), FilesBeside()
    try:
        with ResultFile(folder / "predictions.csv", folder / "regions.csv") as table:
            if heatmaps != "none":
                drawings.mkdir()
            # Threads draw and write while this one scores the next pictures.
            for finding, pixels, heatmap in in_order(
                enumerate(beside.until_failure(work.stream(sources, progress=progress))), drawn
            ):
                if page is not None:
                    try:
                        page.see(finding, pixels)
                    except PictureError as error:
                        finding, heatmap = _gone(finding, error), None
                        page.see(finding)
                row = Row.of(finding, heatmap)
                table.add(row)
                rows.add(row)
    except KeyboardInterrupt:
        done = f"{len(rows)} of {len(pictures)} pictures"
        stopped = f"This was stopped by Ctrl-C after {done}: the others were not looked at."
        _write_page(page if rows else None, folder, run, _drift(rows, work), work, [stopped])
        progress.tell(f"stopped after {done}; what was found is in {folder}")
        raise
    beside.check(len(rows), len(pictures), folder / "predictions.csv")
    drift = _drift(rows, work)
    written = _write_page(page, folder, run, drift, work)
    return Inspection(
        output=folder,
        threshold=limit,
        rows=rows,
        calibration=work.calibration,
        min_area=work.min_area,
        drift=drift,
        report=written,
    )


def _usual_output(path: Path, work: _Work) -> Path:
    """Where it is written by default: in the run, which is tidied, or beside what was exported."""
    if isinstance(work.detector, Runtime):
        return path.absolute().with_name(f"{path.absolute().name}-predictions")
    from ad.core.jobs.run_directory import tidy

    home = path.parent if (path / "manifest.json").exists() else path
    tidy(home)
    return home / "predictions"


def _drift(rows: Rows, work: _Work) -> Drift:
    return compare(work.calibration, rows.scores, categories=work.together)


def _write_page(
    page: NewPictures | None,
    folder: Path,
    run: str | Path,
    drift: Drift,
    work: _Work,
    notes: Sequence[str] = (),
) -> Path | None:
    if page is None:
        return None
    told = [*notes, *calibration_notes(work.calibration), *drift.lines()]
    return page.write(folder, run=str(run), notes=told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A detector as it is used this time."""

    detector: LoadedDetector | Runtime
    calibration: Calibration | None
    """What verdicts are made by."""
    min_area: int
    """Of the smallest region."""
    together: int
    """Categories that this is for."""
    stream: Callable[..., Iterator[Finding]]
    outlines: str
    """What the detector's own outlines are of; empty without any."""
    colours: Colours = "threshold"
    """Of heat maps."""


def _at_work(
    run: Path,
    device: str,
    precision: Literal["auto", "fp32", "bf16"],
    threshold: float | None,
    category: str | None,
    min_area: int | None,
    compile: bool,
    progress: Progress,
) -> _Work:
    if not is_exported(run):
        if category is not None:
            msg = (
                f"`category` `{category}`: `{run}` has one threshold for all its categories. Those "
                "of single ones are set by `ad export`: give what it wrote, or leave it out."
            )
            raise SettingError(msg)
        from ad.core.predict import load  # with torch, which an exported model does without

        detector = load(
            run,
            device=device,
            precision=precision,
            threshold=threshold,
            compile=compile,
            progress=progress,
        )
        return _Work(
            detector=detector,
            calibration=detector.config.calibration,
            min_area=detector.least_area(min_area),
            together=len(detector.config.categories),
            stream=partial(detector.stream, min_area=min_area, outlines=True),
            outlines=detector.detector.outlines,
        )
    refuse_for_exported(run, precision, compile=compile)
    runtime = load_exported(run, device="cpu" if device == "auto" else device)
    return _Work(
        detector=runtime,
        calibration=runtime.calibration(category, threshold),
        min_area=runtime.least_area(min_area, category, threshold),
        together=runtime.config.calibration_of(category)[1],
        stream=partial(runtime.stream, category=category, threshold=threshold, min_area=min_area),
        outlines="",
    )


class _Drawn(NamedTuple):
    """What is left to tell of a picture when its files are written."""

    finding: Finding
    pixels: NDArray[np.uint8] | None
    """As `glimpse` gave them, if it was read."""
    heatmap: Path | None


def _gone(finding: Finding, error: PictureError) -> Finding:
    """Of a picture that is not the one any more that was scored."""
    return Finding(path=finding.path, score=None, error=str(error))


def _picture(finding: Finding, pixels: NDArray[np.uint8], work: _Work) -> bytes:
    sheet = overlay_of(
        finding,
        pixels,
        work.detector.config.framing,
        work.calibration,
        blue=work.outlines,
        min_area=work.min_area,
        colours=work.colours,
    )
    return drawn_jpeg(sheet)
