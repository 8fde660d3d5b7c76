"""Predicts on new pictures and writes what a person needs: a table and heat map overlays."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ad.core.calibrate import Calibration
from ad.core.data.pictures import read_picture
from ad.core.files import free_folder, make_folder, write_atomic
from ad.core.heatmaps import overlay
from ad.core.predict import Finding, find_sources, load
from ad.core.progress import SILENT, Progress


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


def inspect(
    run: str | Path,
    paths: Sequence[str | Path],
    *,
    output: str | Path | None = None,
    progress: Progress = SILENT,
) -> Inspection:
    """Predict on pictures and write ``predictions.csv`` and ``heatmaps/*.png``.

    Heat maps are scaled so that 0.5 is the pixel threshold, which is outlined; without
    calibration they are scaled to each picture's own range.

    Args:
        run: A run directory.
        paths: Pictures and folders of pictures.
        output: Folder to make; ``predictions`` in the run directory by default, with a number
            behind it when that is taken.
        progress: Where to show how far it is.

    Raises:
        ModelFileError: If the run holds no model.
        DataError: If there are no pictures.
        OutputError: If the folder exists and is not empty, or cannot be written.
    """
    detector = load(run)
    find_sources(list(paths))  # a mistyped path is refused before anything is written
    folder = free_folder(Path(run) / "predictions") if output is None else Path(output)
    make_folder(folder)
    (folder / "heatmaps").mkdir()
    rows = []
    for number, finding in enumerate(detector.stream(list(paths), progress=progress), start=1):
        assert finding.path is not None  # only paths were given
        heatmap = None
        if finding.map is not None:
            heatmap = folder / "heatmaps" / f"{number:04d}-{finding.path.stem}.png"
            write_atomic(heatmap, _picture(finding, detector.config.calibration))
        rows.append(
            Row(
                path=finding.path,
                score=finding.score,
                normalized=finding.normalized,
                verdict=_verdict(finding),
                heatmap=heatmap,
                error=finding.error,
            )
        )
    inspection = Inspection(output=folder, threshold=detector.threshold, rows=tuple(rows))
    write_atomic(folder / "predictions.csv", _table(rows))
    return inspection


def _verdict(finding: Finding) -> str:
    if finding.error is not None:
        return "error"
    if finding.anomalous is None:
        return "unknown"
    return "defective" if finding.anomalous else "good"


def _picture(finding: Finding, calibration: Calibration | None) -> bytes:
    assert finding.path is not None
    assert finding.map is not None
    heat: NDArray[np.floating[Any]]
    if calibration is not None:
        heat = calibration.normalize_map(finding.map)
    else:
        low, high = finding.map.min(), finding.map.max()
        heat = (finding.map - low) / max(high - low, np.finfo(np.float32).tiny)
    scaled = "" if finding.normalized is None else f"   {finding.normalized:.2f} of 1"
    label = f"{_verdict(finding)}   score {finding.score:.4g}{scaled}"
    buffer = io.BytesIO()
    overlay(read_picture(finding.path), heat, label).save(buffer, format="PNG")
    return buffer.getvalue()


def _table(rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["path", "score", "normalized", "verdict", "heatmap", "error"])
    for row in rows:
        cells = (row.path, row.score, row.normalized, row.verdict, row.heatmap, row.error)
        writer.writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue().encode()
