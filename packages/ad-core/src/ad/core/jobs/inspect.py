"""Predicts on new pictures and writes what a person needs: a table and heat map overlays."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from ad.core.errors import OutputError, PictureError
from ad.core.jobs.map_files import MapFiles
from ad.core.jobs.numbered import numbered_names, write_numbered
from ad.core.jobs.run_directory import tidy
from ad.core.predict import Finding, LoadedDetector, find_sources, load
from ad.core.saved.claims import letting_go, make_folder, make_free_folder
from ad.runtime.heatmaps import heat_of, overlay
from ad.runtime.paths import given_path
from ad.runtime.pictures.opening import drawn_png
from ad.runtime.pictures.reading import read_picture
from ad.runtime.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One picture's line in ``predictions.csv``."""

    path: Path
    """The picture."""
    score: float | None
    """Raw score; None if the picture could not be read."""
    normalized: float | None
    """From 0 to 1, 0.5 at the threshold; None without calibration."""
    verdict: str
    """``good``, ``defective``, ``unknown`` (no threshold) or ``error``."""
    heatmap: Path | None
    """The overlay that was written."""
    error: str | None
    """Why the picture could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that was found and written."""

    output: Path
    """Folder with ``predictions.csv`` and ``heatmaps``."""
    threshold: float | None
    """Score above which a picture is defective."""
    rows: tuple[Row, ...]
    """One per picture."""

    def to_json(self) -> dict[str, Any]:
        """As ``ad predict --json`` prints it."""
        rows = [
            {
                "path": str(row.path),
                "score": row.score,
                "normalized": row.normalized,
                "verdict": row.verdict,
                "heatmap": None if row.heatmap is None else str(row.heatmap),
                "error": row.error,
            }
            for row in self.rows
        ]
        return {"output": str(self.output), "threshold": self.threshold, "predictions": rows}

    def summary(self) -> str:
        """One line for a person: how many pictures got which verdict."""
        verdicts = [row.verdict for row in self.rows]
        counts = [
            f"{verdicts.count(verdict)} {words}"
            for verdict, words in (
                ("good", "good"),
                ("defective", "defective"),
                ("unknown", "without verdict, as nothing was held out in training"),
                ("error", "not readable"),
            )
            if verdict in verdicts
        ]
        return f"{len(self.rows)} pictures: {', '.join(counts)}"


@letting_go()
def inspect(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threshold: float | None = None,
    save_maps: str | Path | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Predict on pictures and write ``predictions.csv`` and ``heatmaps/*.png``.

    Heat maps are scaled so that 0.5 is the pixel threshold, which is outlined; without
    calibration they are scaled to each picture's own range, say so, and nothing is outlined but,
    in blue, what a test of the detector's own finds (`Detector.outline`).
    The table grows with each picture, so that a run that is stopped has what it had found.

    Args:
        run: A run directory.
        paths: Pictures and folders of pictures.
        output: Folder to make; ``predictions`` in the run directory by default, with a number
            behind it when that is taken.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto`` is the one that the threshold was set in.
        threshold: For this use in place of the saved one: see `ad.core.predict.load`.
        save_maps: Folder to make for the maps in the pictures' own pixels; see `MapFiles`.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the run holds no model.
        DataError: If there are no pictures.
        SettingError: If the threshold is no finite number, or the run has no calibration, or maps
            are asked for and the model has none.
        OutputError: If the folder exists and is not empty, or cannot be written.
    """
    detector = load(run, device=device, precision=precision, threshold=threshold)
    sources = find_sources(list(paths))  # a mistyped path is refused before anything is written
    pictures = [source for source in sources if isinstance(source, Path)]
    files = None if save_maps is None else MapFiles(save_maps, pictures, detector)
    home = Path(run).parent if (Path(run) / "manifest.json").exists() else Path(run)
    tidy(home)
    if output is None:
        folder = make_free_folder(home / "predictions")
    else:
        folder = given_path(output, "the output")
        make_folder(folder)
    names = numbered_names(pictures, ".png")
    rows = []
    with _Table(folder / "predictions.csv") as table:
        (folder / "heatmaps").mkdir()
        findings = detector.stream(sources, outlines=True, progress=progress)
        for number, finding in enumerate(findings):
            path = finding.path
            assert path is not None  # only paths were given
            heatmap = None
            if finding.map is not None:
                try:
                    picture = _picture(finding, detector)
                    heatmap = write_numbered(folder / "heatmaps", names[number], picture)
                    if files is not None and finding.score is not None:
                        files.write(number, finding.score, finding.map)
                except PictureError as error:  # it is not the one any more that was scored
                    finding = Finding(path=path, score=None, error=str(error))
            rows.append(
                Row(
                    path=path,
                    score=finding.score,
                    normalized=finding.normalized,
                    verdict=_verdict(finding),
                    heatmap=heatmap,
                    error=finding.error,
                )
            )
            table.add(rows[-1])
    return Inspection(output=folder, threshold=detector.threshold, rows=tuple(rows))


def _verdict(finding: Finding) -> str:
    if finding.error is not None:
        return "error"
    if finding.anomalous is None:
        return "unknown"
    return "defective" if finding.anomalous else "good"


def _picture(finding: Finding, detector: LoadedDetector) -> bytes:
    assert finding.path is not None
    assert finding.map is not None
    calibration, framing = detector.config.calibration, detector.config.framing
    if calibration is not None and finding.normalized is not None:
        label = f"{_verdict(finding)}   score {finding.score:.4g}   {finding.normalized:.2f} of 1"
    else:
        label = f"score {finding.score:.4g}   colours: this picture's own range"
    if finding.outline is not None:
        label += f"   blue: {detector.detector.outlines}"
    picture = read_picture(finding.path, white=detector.config.white_level)
    height, width, _ = picture.shape
    heat = framing.back(heat_of(finding.map, calibration), (height, width))
    second = None if finding.outline is None else framing.back(finding.outline, (height, width))
    sheet = overlay(picture, heat, label, outline=calibration is not None, second=second)
    return drawn_png(sheet, compress_level=4)  # half the time for a tenth more bytes


class _Table:
    """``predictions.csv``, a line as soon as it is known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Names that are no valid text are written as the bytes they are.
        try:
            self.file = path.open("x", newline="", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            msg = f"`{path}` cannot be written ({error.strerror})."
            raise OutputError(msg) from error
        self.writer = csv.writer(self.file)
        self._write(("path", "score", "normalized", "verdict", "heatmap", "error"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):  # of a line that was told of already
            self.file.close()

    def add(self, row: Row) -> None:
        self._write((row.path, row.score, row.normalized, row.verdict, row.heatmap, row.error))

    def _write(self, cells: Sequence[object]) -> None:
        try:
            self.writer.writerow(["" if cell is None else cell for cell in cells])
            self.file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self.file.close()
            msg = (
                f"`{self.path}` cannot be written ({error.strerror}). What it holds are the "
                "pictures up to there."
            )
            raise OutputError(msg) from error
