"""Predicts on new pictures and writes what a person needs: a table and heat map overlays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ad.core.errors import PictureError
from ad.core.jobs.map_files import MapFiles
from ad.core.jobs.run_directory import tidy
from ad.core.predict import Finding, LoadedDetector, find_sources, load
from ad.core.saved.claims import letting_go, make_folder, make_free_folder
from ad.runtime.numbered import numbered_names, write_numbered
from ad.runtime.overlays import overlay_of
from ad.runtime.paths import given_path
from ad.runtime.pictures.opening import drawn_png
from ad.runtime.pictures.reading import read_picture
from ad.runtime.progress import SILENT, Progress
from ad.runtime.results import ResultFile, Row, summary


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
        rows = [row.to_json() for row in self.rows]
        return {"output": str(self.output), "threshold": self.threshold, "predictions": rows}

    def summary(self) -> str:
        """One line for a person: how many pictures got which verdict."""
        return summary([row.verdict for row in self.rows])


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
    with ResultFile(folder / "predictions.csv") as table:
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
            rows.append(Row.of(finding, heatmap))
            table.add(rows[-1])
    return Inspection(output=folder, threshold=detector.threshold, rows=tuple(rows))


def _picture(finding: Finding, detector: LoadedDetector) -> bytes:
    assert finding.path is not None
    assert finding.map is not None
    sheet = overlay_of(
        finding,
        read_picture(finding.path, white=detector.config.white_level),
        detector.config.framing,
        detector.config.calibration,
        blue=detector.detector.outlines,
    )
    return drawn_png(sheet, compress_level=4)  # half the time for a tenth more bytes
