"""From run directories to a report: of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ad.core.errors import OutputError, SettingError
from ad.core.figures.measure import measure
from ad.core.jobs.evaluate import other_data, unseen_samples
from ad.core.jobs.good_pictures import good_pictures_again
from ad.core.jobs.run_directory import tidy
from ad.core.predict import load
from ad.core.report.comparison import read_compared, write_comparison
from ad.core.report.gallery import Gallery
from ad.core.report.run import REPORT, write_again
from ad.core.saved.record import check_saved, run_around
from ad.runtime.paths import given_path
from ad.runtime.progress import SILENT, Progress

COMPARISON = "comparison.html"
"""Where the report of several runs goes by default."""


def write_report(
    runs: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Path:
    """Write a report: one HTML file that needs nothing else.

    One run's test pictures are scored again with its saved model. Several runs are compared by
    what they have written; nothing is scored.

    Args:
        runs: One run directory or several.
        output: The file; by default ``report.html`` in the run directory of one run,
            ``comparison.html`` for several. An older one is replaced.
        data_root: The data set's folder, if it is no longer where it was; for one run.
        device: ``auto``, ``cpu`` or ``cuda[:N]``; for one run.
        progress: Where to show how far it is.

    Returns:
        The file.

    Raises:
        SettingError: If there is no run, or a setting does not fit several.
        ModelFileError: If a folder is no run directory, or one of several is not finished.
        DataError: If the data of one run are gone or changed their layout.
        OutputError: If the file cannot be written.
    """
    several = [runs] if isinstance(runs, str | Path) else runs
    folders = [run_around(given_path(run, "a run")) for run in several]
    if not folders:
        msg = "There is no run to report on: give one run directory or several."
        raise SettingError(msg)
    path = given_path(COMPARISON if output is None else output, "the report")
    if output is None and len(folders) == 1:
        path = folders[0] / REPORT
    _check_output(path)  # before minutes of scoring
    if len(folders) > 1:
        if data_root is not None:
            msg = (
                f"`data_root` is for one run, whose pictures are scored again; got {len(folders)} "
                "runs, which are compared by what they have written. Leave it out."
            )
            raise SettingError(msg)
        write_comparison(path, read_compared(folders))
        return path
    (run,) = folders
    check_saved(run)
    record, samples = unseen_samples(run, data_root, progress)
    test = [sample for sample in samples if sample.split == "test"]
    tidy(run)
    detector = load(run, device=device)
    gallery = Gallery(test, detector.config.calibration, detector)
    evaluation = measure(detector, test, progress=progress, watch=gallery.see)
    others = other_data(record, samples)
    good = None if test else good_pictures_again(run, detector, progress)
    write_again(path, run, detector.config, evaluation, gallery, others=others, good=good)
    return path


def _check_output(path: Path) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        msg = f"A report is an HTML file: its name must end in `.html`; got `{path}`."
        raise SettingError(msg)
    if not path.absolute().parent.is_dir():
        msg = f"There is no folder `{path.absolute().parent}` to write the report into."
        raise OutputError(msg)
