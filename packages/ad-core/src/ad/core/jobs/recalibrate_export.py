"""Checks what is to set the threshold of an exported model anew; see `ad.runtime.recalibrating`."""

from __future__ import annotations

from pathlib import Path

from ad.core.errors import ModelFileError, SettingError
from ad.core.jobs.exported import refuse_for_exported
from ad.core.jobs.new_pictures import good_pictures, refuse_known
from ad.core.saved.files import saved_hash
from ad.core.saved.record import LOG
from ad.runtime.package import Package
from ad.runtime.pictures.contents import check_good_pictures
from ad.runtime.progress import Progress
from ad.runtime.recalibrating import Renewed, at_work, changeable
from ad.runtime.recalibrating import by_normals as set_by_normals


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
    package = changeable(path)
    good = good_pictures(normals)
    odd = check_good_pictures(good, progress=progress)
    unknown = refuse_known(_home(package), good, progress)
    return set_by_normals(
        at_work(package, device="cpu" if device == "auto" else device),
        good,
        false_alarms,
        source=normals,
        checked=unknown is None,
        notes=(*odd, *(() if unknown is None else (unknown,))),
        progress=progress,
    )


def _home(package: Package) -> Path | None:
    """The run that a model was exported from, if its export lies in it."""
    run = package.path.absolute().parent
    try:
        inside = (run / "run.json").is_file()
        same = inside and saved_hash(run / "model") == package.config.origin.sha256
    except ModelFileError:
        return None
    return run if same else None
