"""The threshold of an exported model, set anew by the scores of its own engine, or by hand.

A threshold is one of the scores of good pictures. These come out a little otherwise in another
precision and engine, so that a threshold of elsewhere calls the very picture that set it defective.
The configuration and the manifest are written again, the graph never.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

from ad.runtime.calibration import Calibration
from ad.runtime.calibration.apart import apart_notes
from ad.runtime.calibration.good_scores import good_scores
from ad.runtime.config import ExportConfig
from ad.runtime.engines import open_engine
from ad.runtime.errors import ModelFileError, OutputError, SettingError, calibrate_command
from ad.runtime.files import alone
from ad.runtime.lines import LOG, log_event
from ad.runtime.package import Package, read_package, rewrite_config
from ad.runtime.progress import SILENT, Progress
from ad.runtime.runtime import Runtime, usable_threads
from ad.runtime.single import SUFFIXES, embedded_config

LEAST_OF_CATEGORY = 20
"""Good pictures of a category that a threshold of its own takes."""


UNCHECKED = (
    "Without the run directory around the model it could not be checked that these pictures are "
    "new to it."
)
"""What is told of pictures where nothing says which ones the detector has learnt from."""


class Picture(Protocol):
    """A good picture, and of which category it is."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def category(self) -> str:
        """One of the model's, or another name where that is not known."""


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


def set_by_own_scores(
    runtime: Runtime,
    good: Sequence[Picture],
    false_alarms: float,
    *,
    progress: Progress = SILENT,
) -> tuple[ExportConfig, list[str]]:
    """Find an exported model's thresholds: of all pictures, and of each category with enough.

    Args:
        runtime: The exported model.
        good: At least one good picture that the detector has not learnt from; of which categories
            they are counts only if these are the model's.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        progress: Where to show how far it is.

    Returns:
        Its configuration with them, and what a user should know.

    Raises:
        PictureError: If a picture cannot be read.
        SettingError: If the share is out of range.
    """
    config = runtime.config
    paths = [sample.path for sample in good]
    groups, few = {}, []
    for category in config.categories if len(config.categories) > 1 else ():
        rows = [row for row, sample in enumerate(good) if sample.category == category]
        if len(rows) >= LEAST_OF_CATEGORY:
            groups[category] = rows
        else:
            few.append(f"`{category}` {len(rows)}")
    found = good_scores(
        runtime.scored,
        paths,
        config.framing,
        false_alarms,
        groups=[*groups.values()],
        batch_size=1,  # as it will mostly be used
        progress=progress,
    )
    own = {category: found.calibration(group) for group, category in enumerate(groups, start=1)}
    notes = []
    if few:
        notes.append(
            f"A threshold of its own takes {LEAST_OF_CATEGORY} good pictures of a category; "
            f"{', '.join(few)} of those there are: verdicts on them are by the threshold of all."
        )
    return replace(
        config,
        calibration=found.calibration(),
        calibrations=own,
        calibrated_on=replace(runtime.engine.conditions, tiles=config.framing.tile_counts(paths)),
    ), notes


def at_work(
    package: Package, *, engine: str = "auto", device: str = "cpu", threads: int | None = None
) -> Runtime:
    """Open a model to set its threshold, wherever that was found; see `ad.runtime.load`."""
    threads = usable_threads() if threads is None else threads
    opened = open_engine(
        package.model, package.config, engine=engine, device=device, threads=threads
    )
    return Runtime(package, opened)


def by_normals(
    runtime: Runtime,
    good: Sequence[Picture],
    false_alarms: float,
    *,
    source: Path,
    checked: bool,
    notes: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Renewed:
    """Set the threshold from good pictures.

    Args:
        runtime: The exported model, at work as it will be: see `changeable`.
        good: As of `set_by_own_scores`.
        false_alarms: Share of good pictures that may be called defective, in (0, 1).
        source: Where the pictures are from, for the log.
        checked: Whether it is known that the detector has not learnt from them.
        notes: What a user should know of them.
        progress: Where to show how far it is.

    Raises:
        PictureError: If a picture cannot be read.
        SettingError: If the share is out of range.
        OutputError: If it cannot be written, or another process calibrated meanwhile.
    """
    package = runtime.package
    config, _ = set_by_own_scores(runtime, good, false_alarms, progress=progress)
    config = replace(config, calibrations={})
    told = (*notes, *_dropped(package.config), *apart_notes(config.calibration))
    return _save(package, config, str(source), checked=checked, notes=told)


def by_hand(path: Path, threshold: float, pixel_threshold: float | None) -> Renewed:
    """Set the threshold that a person chose.

    Args:
        path: The exported model.
        threshold: In the units of its scores.
        pixel_threshold: In those of its maps; None leaves it as it is.

    Raises:
        SettingError: If it has no calibration, or a threshold cannot be.
        ModelFileError: If it is no exported model.
        OutputError: If it cannot be changed or written, or another process calibrated meanwhile.
    """
    package = changeable(path)
    before = package.config.calibration
    if before is None:
        msg = (
            f"`{path}` has no calibration, and so no scale that 0-to-1 scores around the threshold "
            f"{threshold} could be on. First set one from good pictures: "
            f"{calibrate_command()} {shlex.quote(str(path))} --normals DIR"
        )
        raise SettingError(msg)
    after = before.by_hand(threshold, pixel_threshold)
    config = replace(package.config, calibration=after, calibrations={})
    return _save(package, config, None, checked=True, notes=_dropped(package.config))


def changeable(path: Path) -> Package:
    """An exported model whose threshold lies in its configuration alone.

    Raises:
        ModelFileError: If it is no exported model.
        OutputError: If its file holds the threshold, too.
    """
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
        log = package.path / LOG
        # The line comes first, so that no calibration is lost, whenever the process is killed.
        log_event(
            log,
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
    return Renewed(before, after, log, checked, notes)
