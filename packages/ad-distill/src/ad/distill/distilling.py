"""Making EfficientAD's teacher from a folder of pictures: from what is asked for to its file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from ad.core import (
    RAM_BUDGET,
    SILENT,
    BatchSize,
    Checkpoints,
    LearningData,
    Minutes,
    PictureSet,
    Progress,
    Seed,
    Setup,
    Side,
    Steps,
    checked,
    fingerprint_of,
    fit,
    given_path,
    pictures_below,
    resolve_device,
    resolve_precision,
    size_of,
    to_json,
    write_atomic,
)
from ad.core.errors import DataError, Interrupted, OutputError, SettingError
from ad.distill.pdn import Size, teacher_file
from ad.distill.teacher import TeacherTrainer

PICTURE_SIZE = 512
"""Side at which the large network sees the pictures; the small one sees them at half of it."""

_CHECKED = 256  # pictures that the final error is taken over, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledTeacher:
    """What `distill_teacher` wrote."""

    path: Path
    """The weights."""
    card: Mapping[str, Any]
    """How they were made; the JSON file beside them."""


def distill_teacher(
    images: str | Path,
    *,
    backbone: str = "wide_resnet101_2",
    size: Size = "small",
    steps: int = 60_000,
    output: str | Path = ".",
    layers: tuple[str, ...] = ("layer2", "layer3"),
    picture_size: int = PICTURE_SIZE,
    crop: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    half: bool = False,
    weights: str = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    resume: bool = False,
    checkpoint_minutes: float = 5.0,
    progress: Progress = SILENT,
) -> DistilledTeacher:
    """Make a teacher for EfficientAD: ``efficientad_pdn_<size>.safetensors`` and a card of it.

    Args:
        images: Folder of pictures of anything, at any depth; the more varied, the better.
        backbone: A timm model name.
        size: Of the patch description network: ``small`` or ``medium``.
        steps: Batches to learn from.
        output: Folder for the two files; made if missing.
        layers: Two layers of the backbone, the first of stride 8.
        picture_size: Side of the pictures the backbone sees, in pixels; a multiple of 32.
        crop: Side of a random square that each step takes of a picture, in place of the whole;
            a multiple of 32. Steps get cheaper with its square.
        batch_size: Pictures in a batch.
        seed: Same seed, machine and threads: same weights.
        half: Write float16, at half the size.
        weights: Of the backbone: ``auto``, ``random`` or a file; see `ad.core.networks.backbones`.
        device: ``auto``, ``cpu`` or ``cuda[:N]``.
        precision: ``auto`` is the fastest safe one of the device.
        resume: Go on where an earlier call with the same settings was stopped or killed. It ends
            like one that was not.
        checkpoint_minutes: How often what was learnt is saved to resume from.
        progress: Where to show how far it is; silent by default.

    Raises:
        SettingError: If a setting cannot work, or a resumed one differs from before.
        DataError: If the folder has no pictures, or they changed before resuming.
        PictureError: If a picture cannot be read.
        OutputError: If the result exists already or cannot be written.
        WeightsError: If the backbone has no weights.
        Interrupted: On SIGTERM or Ctrl-C, after the step was finished and saved.
    """
    for name, hint, value in (
        ("steps", Steps, steps),
        ("picture_size", Side, picture_size),
        ("batch_size", BatchSize, batch_size),
        ("seed", Seed, seed),
        ("checkpoint_minutes", Minutes, checkpoint_minutes),
    ):
        checked(hint, value, f"`{name}`")
    folder = given_path(images, "the pictures").expanduser()
    paths = pictures_below(folder)
    if not paths:
        msg = f"`{folder}` is no folder with pictures. Name one with pictures of anything."
        raise DataError(msg)
    target = given_path(output, "the output").expanduser() / teacher_file(size)
    if target.exists():
        msg = f"`{target}` exists already. Name another output folder, or remove it first."
        raise OutputError(msg)
    used_device = resolve_device(device)
    used_precision = resolve_precision(precision, used_device)
    trainer = TeacherTrainer(
        Setup(
            img_size=size_of(picture_size),
            normalize=True,
            num_steps=steps,
            batch_size=batch_size,
            seed=seed,
            weights=weights,
            device=used_device,
            precision=used_precision,
            progress=progress,
        ),
        backbone=backbone,
        model_size=size,
        layers=layers,
        crop=crop,
    )
    made_with = {
        "model": f"patch description network of EfficientAD, {size}",
        "images": str(folder.resolve()),
        "pictures": len(paths),
        "sha256": fingerprint_of(paths),
        "backbone": trainer.detector.targets.extractor.name,
        "weights": weights,
        "layers": list(layers),
        "picture_size": picture_size,
        "crop": crop,
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "precision": used_precision,
        "versions": {name: version(name) for name in ("torch", "timm")},
    }
    work = target.with_suffix("")
    _begin(work, made_with, resume=resume)
    # A folder that fits into memory is decoded once; of ImageNet each picture is needed once.
    cache = len(paths) * 3 * picture_size**2 <= RAM_BUDGET
    pictures = PictureSet(paths, picture_size, cache=cache)
    started = time.perf_counter()
    try:
        fit(
            trainer,
            pictures,
            checkpoints=Checkpoints(work / "checkpoint", every_seconds=60 * checkpoint_minutes),
        )
    except Interrupted as stop:
        reason = str(stop).partition("\nhint: ")[0]
        msg = f"{reason}\nhint: the same command with `--resume` goes on from there"
        raise Interrupted(msg, stop.status) from stop
    seconds = time.perf_counter() - started
    card = {
        **made_with,
        "final_loss": _error(trainer, pictures),
        "seconds": round(seconds, 1),  # of the last part, if it was resumed
        "resumed": resume,
        "dtype": "float16" if half else "float32",
    }
    state = trainer.detector.pdn.layers.state_dict()
    tensors = {name: _as_written(name, tensor, half=half) for name, tensor in state.items()}
    write_atomic(target.with_suffix(".json"), to_json(card))
    write_atomic(target, save(tensors))  # last, so that weights are never without their card
    shutil.rmtree(work, ignore_errors=True)
    return DistilledTeacher(path=target, card=card)


def _as_written(name: str, tensor: Tensor, *, half: bool) -> Tensor:
    written = tensor.cpu().to(torch.float16 if half else torch.float32).contiguous()
    if not written.isfinite().all():
        msg = (
            f"`{name}` of the teacher has values up to {tensor.abs().max():,.0f}, beyond float16. "
            "Leave `half` out and give `resume`, which goes on from the last checkpoint."
        )
        raise SettingError(msg)
    return written


def _begin(work: Path, made_with: Mapping[str, Any], *, resume: bool) -> None:
    """Make the folder of what is not finished, or check that it was begun in the same way."""
    record = work / "settings.json"
    if not resume:
        if work.exists():
            msg = (
                f"`{work}` holds what an earlier call left unfinished. Give `--resume` to go on, "
                "or remove the folder to start again."
            )
            raise OutputError(msg)
        try:
            work.mkdir(parents=True)
        except OSError as error:
            msg = f"The output folder `{work}` cannot be made ({error.strerror})."
            raise OutputError(msg) from error
        write_atomic(record, to_json(made_with))
        return
    try:
        before = json.loads(record.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"There is nothing to resume in `{work}`. Leave `--resume` out to start."
        raise SettingError(msg) from error
    for name, value in json.loads(to_json(made_with)).items():
        if before.get(name) != value:
            kind = DataError if name in ("images", "pictures", "sha256") else SettingError
            msg = (
                f"`{work}` was begun with `{name}` {before.get(name)!r}; got {value!r}. Resume it "
                "as it was begun, or remove the folder to start again."
            )
            raise kind(msg)


def _error(trainer: TeacherTrainer, pictures: PictureSet) -> float:
    """Mean squared error on some of the pictures, as they are."""
    data = LearningData(pictures, trainer.setup.device, trainer.frozen, cache=False)
    some = range(min(len(pictures), _CHECKED))
    with torch.no_grad():
        scores = [
            trainer.detector(batch.images).score
            for batch in data.batches(trainer.setup.batch_size, order=some)
        ]
    return float(torch.cat(scores).double().mean())
