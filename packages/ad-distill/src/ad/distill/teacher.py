"""How EfficientAD's teacher is made: a small network imitates a large one on any pictures.

The small one is a patch description network, the large one's features are `ad.distill.targets`,
brought to mean 0 and deviation 1.

Source: Batzner, Heckler, König, "EfficientAD", WACV 2024, arXiv 2303.14535, section 3.1 and
its appendix.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from ad.core import (
    RAM_BUDGET,
    SILENT,
    Advance,
    BatchSize,
    Checkpoints,
    Detector,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningData,
    LearningRate,
    Minutes,
    Name,
    Optimization,
    PictureSet,
    Prediction,
    Progress,
    Seed,
    Setup,
    Side,
    Steps,
    WeightDecay,
    checked,
    fingerprint_of,
    fit,
    given_path,
    in_precision,
    pictures_below,
    resolve_device,
    resolve_precision,
    size_of,
    stream,
    to_json,
    write_atomic,
)
from ad.core.errors import DataError, Interrupted, OutputError, SettingError
from ad.core.networks import FeatureExtractor, ImagenetNorm, upsample
from ad.distill.pdn import (
    CHANNELS,
    ChannelScale,
    Pdn,
    Size,
    luminance,
    teacher_file,
)
from ad.distill.targets import TargetFeatures

PICTURE_SIZE = 512
"""Side at which the large network sees the pictures; the small one sees them at half of it."""

STATISTICS = 10_000
"""Pictures that the mean and deviation of the features are taken over, at most."""

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


@final
class TeacherDetector(Detector):
    """The small network beside the features it imitates; its score is how badly it does.

    Args:
        targets: The large network's features.
        pdn: The small network, with padding.
    """

    def __init__(self, targets: TargetFeatures, pdn: Pdn) -> None:
        super().__init__()
        self.normalize = ImagenetNorm()
        self.targets = targets
        self.scale = ChannelScale(CHANNELS)
        self.pdn = pdn

    def gap(self, images: Tensor) -> Tensor:
        """Squared error at each position, ``[B, 384, h, w]``, float32.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1], at the large network's size.
        """
        half = F.interpolate(
            images, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False
        )
        x = self.normalize(half)
        with in_precision(self.targets.extractor.precision, x.device):
            learnt = self.pdn(x)
        with torch.no_grad():
            taught = self.scale(self.targets(images))
        gap: Tensor = (taught - learnt.float()).square()
        return gap

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The mean squared error of each position, and of each image.

        Raises:
            NotFittedError: If nothing has been distilled.
        """
        self.require_fitted()
        error = self.gap(images).mean(1)
        anomaly_map = upsample(error, (images.shape[2], images.shape[3]))
        return Prediction(error.mean(dim=(1, 2)), anomaly_map)


@final
class TeacherTrainer(GradientTrainer):
    """Trains the small network.

    Args:
        setup: What the run sets; ``img_size`` is the large network's.
        backbone: A timm model name.
        model_size: Of the patch description network.
        layers: Of the backbone, from shallow to deep; the first of stride 8.
        crop: Side of the random squares to learn from; None for whole pictures.
        lr: Learning rate of Adam.
        weight_decay: Its weight decay.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: TeacherDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name,
        model_size: Size,
        layers: Layers = ("layer2", "layer3"),
        crop: Side | None = None,
        lr: LearningRate = 1e-4,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        if not setup.img_size.divides(32, 64):
            msg = (
                "The pictures a teacher is distilled from must be a multiple of 32 pixels wide, "
                f"from 64; got {setup.img_size.typed}."
            )
            raise SettingError(msg)
        if crop is not None and (crop % 32 or not 64 <= crop <= min(setup.img_size)):
            msg = (
                "`crop` must be a multiple of 32 from 64 to the side of the pictures, "
                f"{min(setup.img_size)}; got {crop}."
            )
            raise SettingError(msg)
        self.crop = crop
        self.lr = lr
        self.weight_decay = weight_decay
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        if extractor.strides[0] != 8:
            msg = (
                f"The first of `layers` must have stride 8, so that its cells are those of the "
                f"patch description network; `{layers[0]}` of `{extractor.name}` has "
                f"{extractor.strides[0]}."
            )
            raise SettingError(msg)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            pdn = Pdn(model_size, padding=True)
        self.detector = TeacherDetector(TargetFeatures(extractor), pdn)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    def modules(self) -> Mapping[str, nn.Module]:
        """The small network and the scale of the features; the large one never changes."""
        return {"pdn": self.detector.pdn, "scale": self.detector.scale}

    def prepare(self, data: LearningData) -> None:
        """Measure the features' channels; see `GradientTrainer.prepare`."""
        setup = self.setup
        chosen = list(range(len(data)))
        if len(data) > STATISTICS:
            generator = np.random.default_rng((setup.seed, 3))
            chosen = generator.choice(len(data), STATISTICS, replace=False).tolist()
        with (
            torch.no_grad(),
            setup.progress.step("measuring", total=len(chosen), unit="pictures") as advance,
        ):
            self.detector.scale.measure(
                _counted(batch, self.detector.targets(batch.images), advance)
                for batch in data.batches(setup.batch_size, order=chosen)
            )

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The mean squared error, a tenth of the pictures made grey."""
        images = []
        for row, image in enumerate(batch.images):
            generator = batch.generator(row)
            seen = grey(image) if torch.rand((), generator=generator) < 0.1 else image
            images.append(seen if self.crop is None else random_square(seen, self.crop, generator))
        return {"error": self.detector.gap(torch.stack(images)).mean()}

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam at a constant rate; see `GradientTrainer.optimizers`."""
        parameters = self.detector.pdn.parameters()
        adam = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        return [Optimization(optimizer=adam)]


def grey(image: Tensor) -> Tensor:
    """The luminance of ``[3, H, W]`` in all three channels."""
    return luminance(image).expand_as(image)


def random_square(image: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A square part of ``[C, H, W]`` anywhere inside it."""
    top, left = (
        int(torch.randint(length - side + 1, (), generator=generator)) for length in image.shape[1:]
    )
    return image[:, top : top + side, left : left + side]


def _counted(batch: LearningBatch, maps: Tensor, advance: Advance) -> Tensor:
    advance(len(batch.indices))
    return maps


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
