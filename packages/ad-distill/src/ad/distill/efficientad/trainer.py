"""How EfficientAD learns: its losses, the pictures it is punished with, and the scale of its maps.

What has to be random comes from each picture's own generator, so a resumed run draws the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, final

import numpy as np
import torch
from torch import Tensor

from ad.core import (
    FROM_MODEL_FILE,
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Optimization,
    PathName,
    Setup,
    Sides,
    WeightDecay,
    fingerprint_of,
    in_precision,
    pictures_below,
    read_picture,
    resize,
    size_of,
    stream,
    to_device,
)
from ad.core.errors import DataError, SettingError
from ad.distill.efficientad.network import (
    MIN_SIZE,
    QUANTILES,
    AutoEncoder,
    EfficientadDetector,
)
from ad.distill.pdn import CHANNELS, Pdn, Size, load_teacher, luminance

CACHE_BYTES = 2**29
"""Penalty pictures that are kept decoded."""

_SMALLEST_RANGE = 1e-6  # of a map's quantiles: good maps that are flat must not divide by 0


@final
class EfficientadTrainer(GradientTrainer):
    """Trains student and auto-encoder.

    Args:
        setup: What the run sets. Its ``normalize`` changes nothing: see `EfficientadDetector`.
        model_size: Of the patch description networks: ``small`` or ``medium``.
        teacher: Safetensors file with the teacher's weights, or a folder with it; empty to
            search: see `ad.distill.pdn`.
        penalty: Folder of everyday pictures, at any depth, of which the student is taught to say
            nothing, so that it does not imitate the teacher beyond good parts. Empty for none.
        hard_quantile: Share of the squared differences to the teacher, from the smallest, that
            are not learnt from; from 0 to below 1.
        lr: Learning rate of Adam; a tenth of it in the last 5 % of the steps.
        weight_decay: Its weight decay.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the teacher has no weights.
    """

    detector: EfficientadDetector

    def __init__(
        self,
        setup: Setup,
        *,
        model_size: Size = "medium",
        teacher: PathName = "",
        penalty: PathName = "",
        hard_quantile: Annotated[float, Field(ge=0, lt=1)] = 0.999,
        lr: LearningRate = 1e-4,
        weight_decay: WeightDecay = 1e-5,
    ) -> None:
        super().__init__(setup)
        if min(setup.img_size) < MIN_SIZE:
            msg = (
                f"`img_size` of EfficientAD must be at least {MIN_SIZE} pixels, so that its "
                f"patches of 33 fit; the paper's is 256. Got {setup.img_size.typed}."
            )
            raise SettingError(msg)
        self.hard_quantile = hard_quantile
        self.lr = lr
        self.weight_decay = weight_decay
        self.penalty: PenaltyPictures | None = None
        if penalty and setup.weights != FROM_MODEL_FILE:  # who only predicts needs none
            self.penalty = PenaltyPictures(Path(penalty).expanduser(), setup.img_size)
        self._notes: list[str] = []
        if self.penalty is None:
            self._notes.append(
                "No penalty pictures: the student may imitate the teacher on defects too, which "
                "costs about 0.4 points of AUROC in the paper. Give a folder of everyday pictures "
                "as option `penalty` (`--set penalty=DIR`)."
            )
        if setup.weights == "random" and not teacher:
            self._notes.append(
                "The teacher was taught nothing (`weights` is `random`): its scores are worth "
                "little. See `ad distill-teacher`."
            )
        taught = load_teacher(model_size, setup=setup, file=teacher)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            student = Pdn(model_size, 2 * CHANNELS)
            autoencoder = AutoEncoder(setup.img_size)
        self.detector = EfficientadDetector(taught, student, autoencoder)
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this training: what it went without, and what that costs."""
        return tuple(self._notes)

    @property
    def inputs(self) -> Mapping[str, str]:
        """The teacher's file and the penalty pictures; see `Trainer.inputs`."""
        found = {"teacher": self.detector.teacher.sha256} if self.detector.teacher.sha256 else {}
        if self.penalty is not None:
            found["penalty"] = fingerprint_of(self.penalty.paths)
        return found

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The teacher's own outputs; see `GradientTrainer.frozen`."""
        return (self.detector.teach(images),)

    def prepare(self, data: LearningData) -> None:
        """Measure the teacher's channels; see `GradientTrainer.prepare`.

        Raises:
            DataError: If all pictures have one and the same flat colour.
        """
        batches = data.batches(self.setup.batch_size)
        self.detector.scale.measure(batch.frozen[0] for batch in batches)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Four terms; see `GradientTrainer.losses`.

        Returns:
            ``hard``: the student's largest errors about the teacher; ``penalty``: the student's
            outputs on penalty pictures; ``autoencoder``: its error about the teacher; ``global``:
            the difference of student and auto-encoder, which both reduce.
        """
        detector = self.detector
        rows = len(batch.indices)
        penalties, jittered = [], []
        for row in range(rows):
            generator = batch.generator(row)
            jittered.append(jitter(batch.images[row], generator))
            if self.penalty is not None:
                penalties.append(self.penalty.draw(generator))
        changed = torch.stack(jittered)
        parts = [batch.images]
        if penalties:
            parts.append(to_device(torch.stack(penalties), batch.images.device))
        x = detector.normalize(torch.cat([*parts, changed]))
        with torch.no_grad():
            taught_changed = detector.scale(detector.teacher(x[-rows:]))
        with in_precision(detector.teacher.precision, x.device):
            # All pass the student's trunk together, but of its last convolution, the dearest one,
            # each needs half: only pictures as they are meet the teacher, only changed ones the
            # auto-encoder.
            features = detector.student.trunk(x)
            local = detector.student.head(features[:-rows], 0, CHANNELS)
            whole = detector.student.head(features[-rows:], CHANNELS)
            rebuilt = detector.autoencoder(x[-rows:])
        with torch.autocast(x.device.type, enabled=False):
            local, whole, rebuilt = local.float(), whole.float(), rebuilt.float()
            gap = (detector.scale(batch.frozen[0]) - local[:rows]).square()
            losses = {"hard": hardest(gap, self.hard_quantile).mean()}
            if penalties:
                losses["penalty"] = local[rows:].square().mean()
            losses["autoencoder"] = (taught_changed - rebuilt).square().mean()
            losses["global"] = (rebuilt - whole).square().mean()
        return losses

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """Adam, at a tenth of its rate in the last 5 % of the steps."""
        student, autoencoder = self.detector.student, self.detector.autoencoder
        parameters = [*student.parameters(), *autoencoder.parameters()]
        adam = torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        last = math.floor(0.95 * total_steps)
        return [Optimization(optimizer=adam, schedule=lambda step: 1.0 if step < last else 0.1)]

    def conclude(self, data: LearningData, held_out: LearningData | None) -> None:
        """Scale both maps by their quantiles on good pictures; see `GradientTrainer.conclude`."""
        if held_out is None:
            self._notes.append(
                "Nothing was held out to scale by: the maps are scaled by the pictures that were "
                "learnt from, where they are lower than elsewhere. Train with `--holdout 0.1` "
                "(`holdout=0.1` in Python)."
            )
        values: tuple[list[Tensor], list[Tensor]] = ([], [])
        with torch.no_grad():
            for batch in (held_out or data).batches(self.setup.batch_size):
                raw = self.detector.maps(batch.images, batch.frozen[0])
                for some, more in zip(values, raw, strict=True):
                    some.append(more.flatten().cpu())
        # numpy's, since torch's own takes no more than 16 million values.
        rows = [np.quantile(torch.cat(some).numpy(), QUANTILES) for some in values]
        quantiles = torch.tensor(np.stack(rows), dtype=torch.float32)
        quantiles[:, 1] = quantiles[:, 1].maximum(quantiles[:, 0] + _SMALLEST_RANGE)
        self.detector.quantiles = quantiles.to(self.setup.device)


@final
class PenaltyPictures:
    """Everyday pictures, drawn one by one.

    Args:
        folder: With pictures, at any depth.
        size: Of what is cut out: a side in pixels, or height and width.

    Raises:
        SettingError: If it is no folder.
        DataError: If it has no pictures.
    """

    def __init__(self, folder: Path, size: Sides) -> None:
        if not folder.is_dir():
            msg = (
                f"`penalty` must be a folder of everyday pictures; `{folder}` is not a folder. "
                "Correct it, or leave it out to go without."
            )
            raise SettingError(msg)
        self.paths = pictures_below(folder)
        if not self.paths:
            msg = (
                f"The folder of penalty pictures `{folder}` has no pictures. Put some there, such "
                "as photographs of anything but the product, or leave `penalty` out."
            )
            raise DataError(msg)
        self.size = size_of(size)
        self._kept: dict[int, Tensor] = {}
        self._room = CACHE_BYTES // (3 * math.prod(self.size))

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw one: resized to twice the size, its centre cut out, grey three times in ten.

        Returns:
            ``[H, W, 3]``, uint8.

        Raises:
            PictureError: If it cannot be read.
        """
        index = int(torch.randint(len(self.paths), (), generator=generator))
        grey = float(torch.rand((), generator=generator)) < 0.3
        picture = self._kept.get(index)
        if picture is None:
            height, width = self.size
            twice, top, left = (2 * height, 2 * width), height // 2, width // 2
            whole = resize(read_picture(self.paths[index]), twice)
            picture = whole[top : top + height, left : left + width].clone()
            if len(self._kept) < self._room:
                self._kept[index] = picture
        if grey:
            shades = luminance(picture.permute(2, 0, 1).float()).round().to(torch.uint8)
            picture = shades[0, :, :, None].expand(-1, -1, 3)
        return picture


def jitter(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast or saturation, one of them, by up to a fifth.

    Args:
        image: ``[3, H, W]``, in [0, 1].
        generator: Source of the choice and the factor.

    Returns:
        A new one of that shape.
    """
    what = int(torch.randint(3, (), generator=generator))
    factor = 0.8 + 0.4 * float(torch.rand((), generator=generator))
    if what == 0:
        return (image * factor).clamp(0, 1)
    shades = luminance(image)
    other = shades.mean() if what == 1 else shades
    return (image * factor + other * (1 - factor)).clamp(0, 1)


def hardest(gap: Tensor, quantile: float) -> Tensor:
    """Mean of each picture's largest values: of those at or above a quantile of them.

    Source: Section 3.2 of the paper. Counted out instead of compared with ``torch.quantile``,
    which takes no more than 16 million values, and for each picture by itself, so that a larger
    batch does not change what is hard.

    Args:
        gap: ``[B, C, h, w]``.
        quantile: From 0 to below 1.

    Returns:
        ``[B]``.
    """
    values = gap.permute(0, 2, 3, 1).flatten(1)  # as it lies in memory
    count = values.shape[1] - math.floor(round(quantile * values.shape[1], 6))
    return values.topk(max(1, count), dim=1, sorted=False).values.mean(1)
