"""The calibrations of a saved detector: the one that holds, and those before, to go back to.

Those before are in ``calibrations.json``, beside ``run.json``, or in the model's folder where it
has no run around it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ad.core.errors import ModelFileError, SettingError
from ad.core.jobs.run_directory import claim_run, tidy
from ad.core.predict import Conditions, ModelConfig
from ad.core.saved.claims import alone, hold
from ad.core.saved.files import read_config, rewrite_config
from ad.core.saved.record import LOG, RunLog, model_folder
from ad.core.thresholds.apart import apart_notes
from ad.core.trainer import Precision
from ad.runtime.calibration import Calibration
from ad.runtime.files import read_limited, to_json, write_atomic

HISTORY = "calibrations.json"
_KEPT = 100
"""How many of those before are kept, the latest; ``log.jsonl`` has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """What `recalibrate` changed."""

    before: Calibration | None
    """The calibration until then; None without one. It can be had back: ``undo``."""
    after: Calibration | None
    """The calibration that holds now; None if one was undone that there was none before."""
    log: Path
    """The file that tells of each change."""
    tested: bool
    """Whether the run has figures, whose verdicts were made by the threshold before."""
    checked: bool
    """Whether it is known that the detector has not learnt from the pictures' files; True if the
    threshold was chosen by hand or is one of before, without any."""
    notes: tuple[str, ...]
    """What a user should know: what is odd about the pictures, and why that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a saved model says of its calibration."""

    calibration: Calibration | None
    """Threshold and scale; None without."""
    calibrated_on: Conditions | None
    """Where they were found."""
    precision: Precision
    """In which they hold."""

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """That of a configuration."""
        return cls(
            calibration=config.calibration,
            calibrated_on=config.calibrated_on,
            precision=config.precision,
        )

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "calibrated_on": None if self.calibrated_on is None else self.calibrated_on.to_json(),
            "precision": self.precision,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ModelFileError: If a calibration cannot be right.
            KeyError, TypeError, ValueError: If something else cannot.
        """
        calibration, where = values["calibration"], values["calibrated_on"]
        if where is not None and Conditions.wrong(where):
            raise ValueError(where)
        if values["precision"] not in ("fp32", "bf16"):
            raise ValueError(values["precision"])
        return cls(
            calibration=None if calibration is None else Calibration.from_json(calibration),
            calibrated_on=None if where is None else Conditions.from_json(where),
            precision=values["precision"],
        )


def calibrations_before(folder: Path, now: ModelConfig) -> list[Kept]:
    """The calibrations that a model had before the one of now, from the first that is kept.

    Args:
        folder: Of the model.
        now: Its configuration.

    Raises:
        ModelFileError: If what is kept cannot be read.
    """
    path = _history(folder)
    if not path.exists():
        return []
    try:
        values = json.loads(read_limited(path, "run directory"))
        kept = [Kept.from_json(value) for value in values]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ModelFileError) as error:
        msg = (
            f"`{path}` does not hold the calibrations of before ({error}): it was changed. Remove "
            "it to go on without them; the one of now stays as it is."
        )
        raise ModelFileError(msg) from error
    while kept and kept[-1] == Kept.of(now):  # a process was killed before it changed the model
        kept.pop()
    return kept


def save_calibration(
    folder: Path,
    config: ModelConfig,
    *,
    pictures: str | None,
    odd: Sequence[str],
    unknown: str | None,
) -> Recalibration:
    """Give a model its new calibration, which nobody else must change meanwhile.

    Args:
        folder: Of the model.
        config: With the new one.
        pictures: Which it was set with; None for none.
        odd: What is odd about them.
        unknown: Why it is not known whether it has learnt from them; None if it is.
    """
    now = ModelConfig.from_json(read_config(folder), folder)
    before = calibrations_before(folder, now)
    # These come first, so that no calibration is lost, whenever the process is killed.
    log = _tell(folder, "calibrate", now, config, pictures=pictures, checked=unknown is None)
    _keep(folder, [*before, Kept.of(now)])
    rewrite_config(folder, config.to_json())
    notes = (*odd, *(() if unknown is None else (unknown,)), *apart_notes(config.calibration))
    return _changed(folder, now, config, log, checked=unknown is None, notes=notes)


def undo_calibration(run: str | Path) -> Recalibration:
    """Give a model the calibration back that it had before the one of now.

    Raises:
        SettingError: If none is kept.
        ModelFileError: If what is kept cannot be read.
    """
    folder = model_folder(run)
    claimed_home(folder)
    with alone(folder):
        now = ModelConfig.from_json(read_config(folder), folder)
        before = calibrations_before(folder, now)
        if not before:
            msg = (
                f"`{run}` has its first calibration, so that there is nothing to undo: `ad "
                "calibrate` keeps what it replaces, and none is kept here. A line of its "
                f"`{LOG}` may tell of one that an earlier version replaced; `--threshold` "
                "(`threshold=` in Python) sets it by hand."
            )
            raise SettingError(msg)
        last = before[-1]
        config = replace(
            now,
            calibration=last.calibration,
            calibrated_on=last.calibrated_on,
            precision=last.precision,
        )
        log = _tell(folder, "undo", now, config)
        rewrite_config(folder, config.to_json())
        _keep(folder, before[:-1])
        return _changed(folder, now, config, log, checked=True, notes=())


def _tell(
    folder: Path, event: str, now: ModelConfig, config: ModelConfig, **more: object
) -> RunLog:
    log = RunLog((home_of(folder) or folder) / LOG)
    before, after = (
        None if c.calibration is None else c.calibration.to_json() for c in (now, config)
    )
    log.write(event, before=before, after=after, precision=config.precision, **more)
    return log


def _keep(folder: Path, before: Sequence[Kept]) -> None:
    write_atomic(_history(folder), to_json([kept.to_json() for kept in before[-_KEPT:]]))


def _changed(
    folder: Path,
    now: ModelConfig,
    config: ModelConfig,
    log: RunLog,
    *,
    checked: bool,
    notes: tuple[str, ...],
) -> Recalibration:
    home = home_of(folder)
    return Recalibration(
        before=now.calibration,
        after=config.calibration,
        log=log.path,
        tested=home is not None and (home / "metrics.json").exists(),
        checked=checked,
        notes=notes,
    )


def home_of(folder: Path) -> Path | None:
    """The run directory around a model's folder, if there is one."""
    return folder.parent if (folder.parent / "run.json").exists() else None


def claimed_home(folder: Path) -> Path | None:
    """The run directory around a model's folder, tidy and kept from those that train there."""
    home = home_of(folder)
    if home is not None:
        hold(claim_run(home, shared=True))
        tidy(home)
    return home


def _history(folder: Path) -> Path:
    return (home_of(folder) or folder) / HISTORY
