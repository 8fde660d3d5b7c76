"""Sets the thresholds of a trained detector anew, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ad.core.data.contents import check_pictures, copies_of
from ad.core.data.good import not_good
from ad.core.data.samples import Sample, collect, defects_to_learn, refuse_one_file_twice
from ad.core.errors import AdError, DataError, OutputError, SettingError
from ad.core.jobs.calibrations import (
    Recalibration,
    claimed_home,
    save_calibration,
    undo_calibration,
)
from ad.core.jobs.evaluate import samples_of
from ad.core.jobs.run_directory import pictures_of
from ad.core.predict import (
    Conditions,
    LoadedDetector,
    ModelConfig,
    chosen_by_hand,
    load_for_calibration,
    model_folder,
)
from ad.core.registry import ModelRegistry, get_dataset, load_trainer
from ad.core.saved.claims import alone, letting_go
from ad.core.saved.files import read_config
from ad.core.saved.record import read_run
from ad.core.settings import DEFAULT_FALSE_ALARMS
from ad.core.thresholds.calibrate import calibrate_by_f1
from ad.core.thresholds.held_out import calibrate_on, hold_out, share_out
from ad.core.trainer import GradientTrainer
from ad.runtime.calibration import Calibration
from ad.runtime.paths import given_path
from ad.runtime.pictures.masks import tell_apart
from ad.runtime.pictures.names import meaning_of
from ad.runtime.progress import SILENT, Progress


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
        run: A run directory, or the ``model`` folder of one.
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
    }
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
        return _by_hand(run, threshold, pixel_threshold)
    if (normals is None) == (validation is None):
        msg = (
            "Give either good pictures (`--normals DIR`), or good and defective ones "
            "(`--validation DIR`), or a threshold of your own (`--threshold SCORE`; in Python "
            "`normals=`, `validation=`, `threshold=`); got "
            f"{'neither' if normals is None else 'both'}."
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
    detector, folder = load_for_calibration(run, device=device, precision=precision)
    home = claimed_home(folder)
    samples = _pictures(given) if validation is None else _labelled(given)
    odd = check_pictures(samples, progress=progress)
    unknown = _refuse_known(home, samples, progress)
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
    config = replace(
        detector.config, calibration=after, calibrated_on=Conditions.of(detector.device, counts)
    )
    with alone(folder):
        _refuse_changed(folder, before)
        return save_calibration(folder, config, pictures=str(given), odd=odd, unknown=unknown)


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


def _pictures(folder: Path) -> list[Sample]:
    """The pictures below a folder, all of them good.

    Raises:
        DataError: If there are none, or some that may not be good.
    """
    if not folder.is_dir():
        msg = f"There is no folder `{folder}`. Give a folder of good pictures."
        raise DataError(msg)
    if (role := meaning_of(folder.absolute().name).role) in ("defective", "masks"):
        msg = (
            f"`{folder}` is called like a folder of {role}{' pictures' * (role == 'defective')}, "
            "and the threshold would be set on these. Give a folder of good pictures, or name it "
            "so."
        )
        raise DataError(msg)
    found, masks = tell_apart(folder)
    if not found:
        msg = f"The folder `{folder}` holds no pictures (.jpg, .png, .bmp, .tif, ...)."
        raise DataError(msg)
    if (other := _not_good(folder, found, masks)) is not None:
        msg = (
            f"`{folder}` does not hold good pictures alone: `{other.relative_to(folder)}` lies in "
            "it, and the threshold would be set on defects. Give the folder of the good ones. To "
            "use all of it, lay it out as for training (`good`, a folder for each kind of defect, "
            "`masks`) and give it as `--validation` (`validation=` in Python)."
        )
        raise DataError(msg)
    samples = [Sample(path, 0, "test", folder.name) for path in found]
    refuse_one_file_twice(samples)
    return samples


def _not_good(folder: Path, pictures: Sequence[Path], masks: Sequence[Path]) -> Path | None:
    """The first picture that may not be good, as the names of the folders around it say."""
    own = meaning_of(folder.resolve().name).role
    if (bad := not_good(folder, pictures)) is not None:
        return bad
    said_good = True
    below = [path for path in pictures if path.parent != folder]
    if own != "good" and 0 < len(below) < len(pictures):  # may be of a kind of defect
        return below[0]
    for path in pictures:
        roles = {meaning_of(name).role for name in path.relative_to(folder).parts[:-1]}
        if "doubtful" in roles:
            return path
        said_good = said_good and "good" in roles
    return masks[0] if masks and not said_good else None  # masks are of defects


def _labelled(folder: Path) -> list[Sample]:
    samples = collect(get_dataset("folder"), "all", root=folder, seed=0)
    for label, noun in ((0, "good"), (1, "defective")):
        if not any(sample.label == label for sample in samples):
            msg = (
                f"`{folder}` holds no {noun} pictures: choosing a threshold by F1 needs good ones "
                "in `good` and defective ones in a folder beside it. With good ones alone, give "
                "them as `--normals DIR` (`normals=` in Python)."
            )
            raise DataError(msg)
    return samples


_GONE = (
    "The run's data are not where they were, so it could not be checked that these pictures are "
    "new to it."
)


def _refuse_known(home: Path | None, samples: Sequence[Sample], progress: Progress) -> str | None:
    """Refuse pictures that were learnt from, which score lower than new ones and so tell nothing.

    Refuse also those given as good that are defective parts or masks in the run's own data.

    Returns:
        Why it is not known which these are; None if it is.
    """
    if home is None:
        return (
            "Without the run directory around the model it could not be checked that these "
            "pictures are new to it."
        )
    try:
        record = read_run(home)
        settings = record["settings"]
        samples_now = samples_of(record, None, progress)
        learning, held_out = hold_out(samples_now, settings["holdout"], settings["seed"])
        learning += defects_to_learn(samples_now)
        trainer = load_trainer(ModelRegistry.get(settings["model"]))
        chosen_by = issubclass(trainer, GradientTrainer) and trainer.uses_held_out()
        if chosen_by:
            learning += share_out(held_out, settings["seed"])[0]
    except (AdError, KeyError, TypeError, ValueError):
        return _GONE
    bad = {path.resolve() for s in samples_now if s.label for path in (s.path, *s.masks)}
    if wrong := [s.path for s in samples if s.label == 0 and s.path.resolve() in bad]:
        msg = (
            f"{len(wrong)} of {len(samples)} pictures are defective parts or masks in the data of "
            f"`{home}`, such as `{wrong[0]}`: a threshold is set with good ones. Give those."
        )
        raise DataError(msg)
    if seen := copies_of(samples, learning):
        msg = (
            f"{len(seen)} of {len(samples)} pictures are among those that `{home}` has learnt "
            f"from{' or was chosen by' if chosen_by else ''}, such as `{seen[0]}`: they score "
            "lower than new ones, and a threshold set on "
            "them would give many false alarms. Give pictures that it has not seen."
        )
        raise DataError(msg)
    try:
        then, now = record["data"]["training"], pictures_of(samples_now, "train")
    except DataError:  # a picture that a table lists is gone
        return _GONE
    if then != now:  # others are held out then, and some may have gone elsewhere
        return (
            f"The run's data have changed (then {then[0]} good training pictures, now {now[0]}), "
            "so it could not be checked that these pictures are new to it."
        )
    return None


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
    known: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.bool_]] = []
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
                        known.append(maps[row][counted])
                        truths.append(truth[counted])
            advance(len(batch.indices))
    return calibrate_by_f1(
        np.concatenate(scores),
        [sample.label == 1 for sample in samples],
        np.concatenate(maxima) if maxima else None,
        (np.concatenate(known), np.concatenate(truths)) if known else None,
    )
