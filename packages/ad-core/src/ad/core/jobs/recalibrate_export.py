"""Sets the threshold of an exported model anew, by the scores of its own engine.

Its configuration and manifest are written again, its graph never.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ad.core.data.contents import check_pictures
from ad.core.errors import ModelFileError, OutputError, SettingError
from ad.core.exporting.calibrating import set_by_own_scores
from ad.core.jobs.exported import refuse_for_exported
from ad.core.jobs.new_pictures import good_pictures, refuse_known
from ad.core.saved.claims import alone
from ad.core.saved.files import saved_hash
from ad.core.saved.record import LOG, RunLog
from ad.runtime.calibration import Calibration
from ad.runtime.config import ExportConfig
from ad.runtime.engines import open_engine
from ad.runtime.package import Package, read_package, rewrite_config
from ad.runtime.progress import Progress
from ad.runtime.runtime import Runtime, usable_threads
from ad.runtime.single import SUFFIXES, embedded_config


class Renewed(NamedTuple):
    """What was changed."""

    before: Calibration | None
    """The calibration until then."""
    after: Calibration
    """The one that holds now."""
    log: Path
    """The file that keeps the one before."""
    checked: bool
    """Whether it is known that the detector has not learnt from the pictures."""
    notes: tuple[str, ...]
    """What a user should know."""


def refuse_for_exports(
    path: Path, validation: object, precision: str, *, undo: bool, compile: bool
) -> None:
    """Refuse what is for runs alone.

    Raises:
        SettingError: If it was given.
    """
    if undo:
        msg = (
            f"`undo`: `{path}` is an exported model, which keeps no calibrations to go back to. "
            f"Its `{LOG}` has the thresholds before: set one by hand, `--threshold SCORE` "
            "(`threshold=` in Python)."
        )
        raise SettingError(msg)
    if validation is not None:
        msg = (
            f"`{path}` is an exported model: its threshold is set from good pictures, `--normals "
            "DIR`, or by hand, `--threshold SCORE` (`normals=`, `threshold=` in Python). "
            "`--validation` is for the run that it was exported from."
        )
        raise SettingError(msg)
    refuse_for_exported(path, precision, compile=compile)


def by_normals(
    path: Path, normals: Path, false_alarms: float, device: str, progress: Progress
) -> Renewed:
    """Set the threshold from good pictures; see `ad.core.recalibrate`."""
    package = _changeable(path)
    good = good_pictures(normals)
    odd = check_pictures(good, progress=progress)
    unknown = refuse_known(_home(package), good, progress)
    engine = open_engine(
        package.model,
        package.config,
        device="cpu" if device == "auto" else device,
        threads=usable_threads(),
    )
    config, _ = set_by_own_scores(Runtime(package, engine), good, false_alarms, progress=progress)
    notes = (*odd, *(() if unknown is None else (unknown,)), *_dropped(package.config))
    config = replace(config, calibrations={})
    return _save(package, config, str(normals), checked=unknown is None, notes=notes)


def by_hand(path: Path, threshold: float, pixel_threshold: float | None) -> Renewed:
    """Set the threshold that a person chose; see `ad.core.recalibrate`."""
    package = _changeable(path)
    before = package.config.calibration
    if before is None:
        msg = (
            f"`{path}` has no calibration, and so no scale that 0-to-1 scores around the threshold "
            f"{threshold} could be on. First set one from good pictures: ad calibrate "
            f"{shlex.quote(str(path))} --normals DIR"
        )
        raise SettingError(msg)
    after = before.by_hand(threshold, pixel_threshold)
    config = replace(package.config, calibration=after, calibrations={})
    return _save(package, config, None, checked=True, notes=_dropped(package.config))


def _changeable(path: Path) -> Package:
    """An exported model whose threshold lies in its configuration alone."""
    package = read_package(path)
    try:
        if package.model.suffix not in SUFFIXES or package.config.engine == "pt2":
            return package
        embedded_config(package.model)
    except ModelFileError:  # as it should be
        return package
    msg = (
        f"`{package.model}` holds its threshold itself (`--single-file`), and a model's file is "
        "never changed. Export the run again: ad export RUN --single-file --normals DIR"
    )
    raise OutputError(msg)


def _home(package: Package) -> Path | None:
    """The run that a model was exported from, if its export lies in it."""
    run = package.path.absolute().parent
    try:
        inside = (run / "run.json").is_file()
        same = inside and saved_hash(run / "model") == package.config.origin.sha256
    except ModelFileError:
        return None
    return run if same else None


def _dropped(config: ExportConfig) -> tuple[str, ...]:
    if not config.calibrations:
        return ()
    names = ", ".join(f"`{name}`" for name in config.calibrations)
    return (f"The new threshold is for all categories: {names} had one of their own until now.",)


def _save(
    package: Package,
    config: ExportConfig,
    pictures: str | None,
    *,
    checked: bool,
    notes: tuple[str, ...],
) -> Renewed:
    before, after = package.config.calibration, config.calibration
    assert after is not None
    with alone(package.path):
        if read_package(package.path).config != package.config:
            msg = (
                f"`{package.path}` was calibrated by another process meanwhile, and was left as "
                "it is now. Calibrate again to replace that, one process at a time."
            )
            raise OutputError(msg)
        log = RunLog(package.path / LOG)
        # The line comes first, so that no calibration is lost, whenever the process is killed.
        log.write(
            "calibrate",
            pictures=pictures,
            before=before.to_json() if before else None,
            of_categories={
                name: one.to_json() for name, one in package.config.calibrations.items()
            },
            after=after.to_json(),
            precision=config.precision,
            checked=checked,
        )
        rewrite_config(package.path, config)
    return Renewed(before, after, log.path, checked, notes)
