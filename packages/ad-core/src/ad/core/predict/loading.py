"""From a saved model to a detector at work."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from ad.core.devices import resolve_device, resolve_precision
from ad.core.errors import ModelFileError, SettingError
from ad.core.predict.config import Conditions, ModelConfig, chosen_by_hand
from ad.core.predict.detector import LoadedDetector
from ad.core.registry import ModelRegistry, load_trainer
from ad.core.saved.allocation import built_within
from ad.core.saved.files import read_model
from ad.core.saved.loading import load_tensors
from ad.core.saved.record import model_folder
from ad.core.settings import resolve_options
from ad.core.trainer import FROM_MODEL_FILE, Precision, Setup
from ad.runtime.conditions import in_other_words, threads
from ad.runtime.progress import SILENT, Progress


def load(
    run: str | Path,
    *,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    threshold: float | None = None,
    compile: bool = False,
    progress: Progress = SILENT,
) -> LoadedDetector:
    """Load a detector that was trained and saved.

    Args:
        run: A run directory, or the ``model`` folder of one.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto`` is the one it was calibrated in, in which its threshold holds.
        threshold: Score above which pictures are called anomalous, for this use in place of the
            saved one; nothing is saved. 0-to-1 scores are 0.5 there; maps stay as they are.
        compile: Have `torch.compile` translate it for this machine: up to a minute at the start,
            for steps that take a tenth to a fifth less. Needs a C++ compiler on the CPU; without
            one there is a warning, and it runs as it is.
        progress: Where to tell of that.

    Returns:
        The detector. There is a warning if precision, device, being compiled or, on a CPU, the
        number of threads are not those of its calibration and verdicts may differ by that.

    Raises:
        ModelFileError: If the folder holds no model, or one that was changed.
        UnknownNameError: If the model's family is not installed.
        SettingError: If the threshold is no finite number, or the detector has no calibration.
    """
    folder = model_folder(run)
    tensors, config = _read(folder)
    if threshold is not None:
        config = chosen_by_hand(config, run, threshold)
    target = resolve_device(device)
    used = config.precision if precision == "auto" else resolve_precision(precision, target)
    loaded = _build(folder, tensors, config, used, target)
    if compile:
        loaded.compile(progress)
    if threshold is None:  # where another one was found is not known
        _warn_of_other_conditions(Path(run), loaded, used)
    return loaded


def load_for_calibration(
    run: str | Path,
    *,
    device: str,
    precision: Literal["auto", "fp32", "bf16"],
    compile: bool = False,
    progress: Progress = SILENT,
) -> tuple[LoadedDetector, Path]:
    """Load a detector to find its thresholds anew; its configuration names the precision asked for.

    Returns:
        The detector and the folder it was read from.

    Raises:
        AdError: As `load` does.
    """
    folder = model_folder(run)
    tensors, config = _read(folder)
    target = resolve_device(device)
    if precision != "auto":
        config = replace(config, precision=resolve_precision(precision, target))
    loaded = _build(folder, tensors, config, config.precision, target)
    if compile:
        loaded.compile(progress)
    return loaded, folder


def read_config(run: str | Path) -> ModelConfig:
    """What a saved model says about itself.

    Raises:
        ModelFileError: If the folder holds no model, or one that was changed.
    """
    return _read(model_folder(run))[1]


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], ModelConfig]:
    tensors, values = read_model(folder)
    return tensors, ModelConfig.from_json(values, folder)


def _build(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    config: ModelConfig,
    precision: Precision,
    device: torch.device,
) -> LoadedDetector:
    spec = ModelRegistry.get(config.model)
    trainer = load_trainer(spec)
    setup = Setup(
        img_size=config.framing.size,
        normalize=config.normalize,
        weights=FROM_MODEL_FILE,
        device=device,
        precision=precision,
    )
    try:
        options = resolve_options(spec, trainer, config.options)
        with built_within(tensors, folder):
            detector = trainer(setup, **options).detector
    except SettingError as error:  # nobody who loads a model has set anything
        msg = (
            f"The `config.json` of the saved model `{folder}` cannot be used: {error} It belongs "
            "to another version, or was changed; take it from the original again."
        )
        raise ModelFileError(msg) from error
    load_tensors(detector, tensors, folder)
    return LoadedDetector(detector, config, device)


def _warn_of_other_conditions(run: Path, loaded: LoadedDetector, precision: Precision) -> None:
    """Warn where the threshold was found in another precision, form, device or with other threads.

    A detector that is compiled is another form.
    """
    config, compiled = loaded.config, loaded.compiled is not None
    if config.calibration is None:
        return
    before, here = config.calibrated_on, Conditions.of(loaded.device, compiled=compiled)
    then, now = [str(config.precision)], [str(precision)]
    if before is not None and before.compiled:
        then.append("and compiled")
    if compiled:
        now.append("and compiled")
    if before is not None:
        then.append(f"on `{before.device}`")
        now.append(f"on `{here.device}`")
        # A GPU computes the same whatever their number.
        if before.device == here.device == "cpu" and before.threads != here.threads:
            then.append(f"by {threads(before.threads)}")
            now.append(f"by {threads(here.threads)}")
    if then != now:
        warnings.warn(
            f"The threshold of `{run}` {in_other_words(then, now)}. Set it anew here: ad "
            f"calibrate {run} --normals DIR{' --compile' * compiled}",
            stacklevel=3,
        )
