"""Sets the thresholds of a trained detector anew, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ad.core.data.contents import check_pictures
from ad.core.data.samples import Sample
from ad.core.errors import OutputError, SettingError
from ad.core.jobs.calibrations import (
    Recalibration,
    claimed_home,
    save_calibration,
    undo_calibration,
)
from ad.core.jobs.new_pictures import good_pictures, labelled_pictures, refuse_known
from ad.core.jobs.recalibrate_export import by_normals, refuse_for_exports
from ad.core.metrics.streamed import LabelledPixels
from ad.core.predict import (
    Conditions,
    LoadedDetector,
    ModelConfig,
    chosen_by_hand,
    load_for_calibration,
)
from ad.core.saved.claims import alone, letting_go
from ad.core.saved.files import read_config
from ad.core.saved.record import model_folder
from ad.core.settings import DEFAULT_FALSE_ALARMS
from ad.core.thresholds.by_f1 import calibrate_by_f1
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.good_scores import calibrate_on
from ad.runtime.package import is_exported
from ad.runtime.paths import given_path
from ad.runtime.pictures.contents import check_good_pictures
from ad.runtime.progress import SILENT, Progress
from ad.runtime.recalibrating import Renewed, by_hand


@letting_go()
def recalibrate(
    run: str | Path,
    *,
    normals: str | Path | None = None,
    validation: str | Path | None = None,
    false_alarms: float | None = None,
    threshold: float | None = None,
    pixel_threshold: float | None = None,
    undo: bool = False,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    compile: bool = False,
    batch_size: int = 8,
    progress: Progress = SILENT,
) -> Recalibration:
    """Set the thresholds of a trained detector anew and save them with it.

    From good pictures by a rate of false alarms, from good and defective ones by the largest F1
    score, or to what a person chose. Scores stay as they are; verdicts and 0-to-1 scores change.
    The model's files are whole at any moment. What the run's ``metrics.json`` says of verdicts was
    true of the threshold before; `ad.core.evaluate` tells those of the new one.

    Pictures that were learnt from are refused as far as that is known: it takes the run's own data,
    where and as they were. The result says if they are not.

    Args:
        run: A run directory, the ``model`` folder of one, or what `ad.core.export` wrote, whose
            threshold is then set by its own engine.
        normals: Folder of good pictures that the detector has not learnt from, searched with its
            sub-folders.
        validation: Folder of good and defective pictures in the layout ``folder``, in its place.
        false_alarms: Share of good pictures that may be called defective, in (0, 1); 0.01 by
            default, and only with ``normals``.
        threshold: A score chosen by hand, in place of both folders; it promises nothing, and no
            picture is scored. The run must have a calibration, whose scales stay.
        pixel_threshold: The same for pixels, only with ``threshold``; None leaves it as it is.
        undo: Take the calibration back that the one of now has replaced, with the precision that it
            held in; again for the one before that. No picture is scored.
        device: ``auto``, ``cpu`` or ``cuda[:N]``: where the detector will work.
        precision: Precision that the threshold will hold in; ``auto`` leaves it as it is.
        compile: Set it by the detector's compiled form, in which it will then hold; see
            `ad.core.load`.
        batch_size: Pictures scored at once; does not change the result.
        progress: Where to show how far it is.

    Raises:
        SettingError: If not exactly one of folders, threshold and ``undo`` is given, or what goes
            with another one; if a threshold is no finite number; if there is nothing to undo.
        DataError: If a folder holds no pictures, or some that the detector has learnt from.
        PictureError: If a picture cannot be read.
        ModelFileError: If the run holds no model.
        OutputError: If it cannot be written, another process trains there, or one set the
            thresholds while this one scored; the calibration that was there then still holds.
    """
    others = {
        "normals": normals,
        "validation": validation,
        "false_alarms": false_alarms,
        "device": None if device == "auto" else device,
        "precision": None if precision == "auto" else precision,
        "compile": compile or None,
    }
    exported = given_path(run, "the run") if is_exported(given_path(run, "the run")) else None
    if exported is not None:
        refuse_for_exports(exported, validation, precision, undo=undo, compile=compile)
    if undo:
        others |= {"threshold": threshold, "pixel_threshold": pixel_threshold}
        if beside := _given(others):
            msg = (
                "`undo` takes back the calibration before, as it was; got "
                f"{', '.join(beside)} beside it. Give one or the other."
            )
            raise SettingError(msg)
        return undo_calibration(run)
    if threshold is not None or pixel_threshold is not None:
        _refuse_beside(threshold, pixel_threshold, others)
        assert threshold is not None
        if exported is not None:
            return _of_export(by_hand(exported, threshold, pixel_threshold))
        return _by_hand(run, threshold, pixel_threshold)
    if (normals is None) == (validation is None):
        msg = (
            "Give either good pictures (`--normals DIR`), or good and defective ones "
            "(`--validation DIR`), or a threshold of your own (`--threshold SCORE`; in Python "
            "`normals=`, `validation=`, `threshold=`); got "
            f"{'none of them' if normals is None else 'the first two'}."
        )
        raise SettingError(msg)
    if validation is not None and false_alarms is not None:
        msg = (
            f"`false_alarms` {false_alarms} is for good pictures alone: with `--validation` "
            "(`validation=` in Python) the threshold is the one of the largest F1 score. Leave "
            "it out, or give `--normals DIR` (`normals=`)."
        )
        raise SettingError(msg)
    given = given_path(normals if normals is not None else str(validation), "the pictures")
    if exported is not None:
        rate = DEFAULT_FALSE_ALARMS if false_alarms is None else false_alarms
        return _of_export(by_normals(exported, given, rate, device, progress))
    detector, folder = load_for_calibration(
        run, device=device, precision=precision, compile=compile, progress=progress
    )
    home = claimed_home(folder)
    samples = good_pictures(given) if validation is None else labelled_pictures(given)
    check = check_pictures if normals is None else check_good_pictures
    odd = check(samples, progress=progress)
    unknown = refuse_known(home, samples, progress)
    if normals is not None:
        rate = DEFAULT_FALSE_ALARMS if false_alarms is None else false_alarms
        after = calibrate_on(
            detector.scored,
            [sample.path for sample in samples],
            rate,
            detector.config.framing,
            batch_size=batch_size,
            progress=progress,
        )
    else:
        after = _by_f1(detector, samples, batch_size, progress)
    before = detector.config.calibration
    counts = detector.config.framing.tile_counts([sample.path for sample in samples])
    where = Conditions.of(detector.device, counts, compiled=detector.compiled is not None)
    config = replace(detector.config, calibration=after, calibrated_on=where)
    with alone(folder):
        _refuse_changed(folder, before)
        return save_calibration(folder, config, pictures=str(given), odd=odd, unknown=unknown)


def _of_export(renewed: Renewed) -> Recalibration:
    return Recalibration(
        before=renewed.before,
        after=renewed.after,
        log=renewed.log,
        tested=False,
        checked=renewed.checked,
        notes=renewed.notes,
    )


def _refuse_beside(
    threshold: float | None, pixel_threshold: float | None, others: Mapping[str, object]
) -> None:
    """Refuse what cannot be meant together with a threshold that is given."""
    if threshold is None:
        msg = (
            f"`pixel_threshold` {pixel_threshold} goes with a `threshold` for pictures: give both. "
            "The one that a run has is printed by its training and is in its report."
        )
        raise SettingError(msg)
    if beside := _given(others):
        msg = (
            f"A `threshold` that is given ({threshold}) is taken as it is and no picture is "
            f"scored; got {', '.join(beside)} beside it. Give one or the other."
        )
        raise SettingError(msg)


def _given(options: Mapping[str, object]) -> list[str]:
    return [f"`{name}` {value}" for name, value in options.items() if value is not None]


def _by_hand(run: str | Path, threshold: float, pixel_threshold: float | None) -> Recalibration:
    folder = model_folder(run)
    claimed_home(folder)
    with alone(folder):
        before = ModelConfig.from_json(read_config(folder), folder)
        config = chosen_by_hand(before, run, threshold, pixel_threshold)
        return save_calibration(folder, config, pictures=None, odd=(), unknown=None)


def _refuse_changed(folder: Path, before: Calibration | None) -> None:
    """Refuse to replace a calibration that was not there when the work began."""
    now = ModelConfig.from_json(read_config(folder), folder).calibration
    if now == before:
        return
    was, there = ("none" if one is None else f"{one.threshold:.4g}" for one in (before, now))
    msg = (
        f"`{folder}` was calibrated by another process while this one scored its pictures: the "
        f"threshold was {was} when it began and is {there} now. That one was left as it is. "
        "Calibrate again to replace it, one process at a time."
    )
    raise OutputError(msg)


def _by_f1(
    detector: LoadedDetector, samples: Sequence[Sample], batch_size: int, progress: Progress
) -> Calibration:
    paths = [sample.path for sample in samples]
    scores: list[NDArray[Any]] = []
    maxima: list[NDArray[Any]] = []
    pixels = LabelledPixels()
    framing = detector.config.framing
    with progress.step("calibrating", total=len(samples), unit="pictures") as advance:
        for batch, batch_scores, maps in detector.scored(paths, batch_size):
            scores.append(batch_scores)
            for row, index in enumerate(batch.indices):
                if maps is None:
                    continue
                sample = samples[index]
                maxima.append(framing.peaks(maps[row : row + 1], [sample.path]))
                if sample.has_truth:
                    truth = framing.truth(sample)
                    if sample.label == 0 or truth.any():
                        counted = framing.counted(sample.path)
                        pixels.add(maps[row][counted], truth[counted])
            advance(len(batch.indices))
    return calibrate_by_f1(
        np.concatenate(scores),
        [sample.label == 1 for sample in samples],
        np.concatenate(maxima) if maxima else None,
        pixels,
    )
