"""How UniNet learns: features that are selected, and a contrastive loss with a margin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ad.core import (
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Name,
    Optimization,
    Setup,
    Truth,
    stream,
)
from ad.core.errors import DataError, SettingError
from ad.core.networks import RESNETS, FeatureExtractor, ResidualDecoder
from ad.foundation.uninet.network import STRIDE, Bottleneck, UninetDetector

_LAYERS = ("layer1", "layer2", "layer3")
_SIMILARITY, _CONTRAST = 0.7, 0.3  # weights of two terms of the loss
_MARGIN = 0.5  # that defective positions have to be below
_ROWS = 1024  # of a matrix of similarities that are there at once
_TINY = 1e-8

Temperature = Annotated[float, Field(ge=0.01, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


def selected(taught: Tensor, learnt: Tensor) -> Tensor:
    """The student's features, weighed by where each channel of the teacher says the most.

    Args:
        taught: ``[B, C, h, w]``.
        learnt: Of the same shape.

    Returns:
        Of the same shape.
    """
    weight = taught.flatten(2).softmax(dim=2).view_as(taught)
    return learnt * weight * (1 + taught.mean(dim=(2, 3), keepdim=True))


def contrastive_loss(
    taught: Tensor, learnt: Tensor, temperature: float, truth: Truth | None = None
) -> Tensor:
    """How far the student is from the teacher, at each position and against all others.

    Of defective pictures without a mask nothing is known of any position: they do not count.

    Args:
        taught: ``[B, C, h, w]``, float32.
        learnt: Of the same shape.
        temperature: What similarities are divided by.
        truth: What is known of the pictures; None if all are good.

    Returns:
        A scalar.
    """
    ours, theirs = (F.normalize(maps.flatten(2), dim=1).mT for maps in (learnt, taught))
    similarity = (ours * theirs).sum(dim=2)
    at_own = (similarity / temperature - _log_sum_exp(ours, theirs, temperature)).exp()
    if truth is None:
        good = known = torch.ones_like(similarity)
        defective = torch.zeros_like(similarity)
    else:
        size = (taught.shape[2], taught.shape[3])
        masks = F.interpolate(truth.masks[:, None], size=size, mode="nearest").flatten(1)
        known = truth.known.float()[:, None].expand_as(masks)
        defective, good = masks * known, (1 - masks) * known
    far = (1 - similarity) * known
    apart = (-_CONTRAST * (at_own + _TINY).log() + (1 - at_own).relu()) * good
    close = (at_own - _MARGIN).relu() * defective
    return (
        _SIMILARITY * far.sum() / known.sum().clamp_min(1)
        + apart.sum() / good.sum().clamp_min(1)
        + close.sum() / defective.sum().clamp_min(1)
    )


def _log_sum_exp(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """Of each row's similarities to all others, ``[B, n]``, some rows at once.

    All similarities of a fine map would be hundreds of millions of numbers; they are computed once
    more for the gradients.
    """
    keys = others.mT / temperature

    def of(some: Tensor) -> Tensor:
        return (some @ keys).logsumexp(dim=2)

    parts = torch.split(rows, _ROWS, dim=1)
    if len(parts) == 1:
        return of(rows)
    return torch.cat(
        [checkpoint(of, part, use_reentrant=False, preserve_rng_state=False) for part in parts],
        dim=1,
    )


@final
class UninetTrainer(GradientTrainer):
    """Trains the bottleneck and the student, and slowly one of the teachers.

    Args:
        setup: What the run sets.
        student: What the student mirrors: resnet18, resnet34, resnet50 or wide_resnet50_2.
        teacher: The network of both teachers, of the same kind; its maps are as wide.
        temperature: What similarities are divided by. The authors take 2, and 0.1 for six of MVTec
            AD's categories and for many categories at once.
        supervised: Whether defective pictures with masks are learnt from, too.
        select: Whether features are selected; the authors leave it out for MVTec AD's transistor.
        smooth_map: Whether the map that is given is smoothed; scores are of the smoothed one.
        alpha: Share of the pixels that a score is the mean of, for each unit of the angles.
        beta: The least share.
        lr: Learning rate of AdamW for the bottleneck and the student.
        teacher_lr: For the teacher that adapts.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the teacher has no weights.
    """

    detector: UninetDetector

    def __init__(
        self,
        setup: Setup,
        *,
        student: Name = "wide_resnet50_2",
        teacher: Name = "wide_resnet50_2",
        temperature: Temperature = 0.4,
        supervised: bool = False,
        select: bool = True,
        smooth_map: bool = False,
        alpha: Share = 0.01,
        beta: Share = 3e-5,
        lr: LearningRate = 5e-3,
        teacher_lr: LearningRate = 1e-6,
    ) -> None:
        super().__init__(setup)
        for name, value in (("student", student), ("teacher", teacher)):
            if value.partition(".")[0] not in RESNETS:
                allowed = ", ".join(f"`{one}`" for one in RESNETS)
                msg = f"`{name}` of UniNet must be one of {allowed}; got `{value}`."
                raise SettingError(msg)
        stages, width = RESNETS[student.partition(".")[0]]
        if (width is None) != (RESNETS[teacher.partition(".")[0]][1] is None):
            msg = (
                f"`student` `{student}` of UniNet has maps of another width than `teacher` "
                f"`{teacher}`, so that they cannot be compared. ResNet-18 goes with ResNet-34, and "
                "ResNet-50 with Wide ResNet-50."
            )
            raise SettingError(msg)
        if not setup.img_size.divides(STRIDE, STRIDE):
            msg = (
                f"`img_size` of UniNet must be a multiple of {STRIDE}, so that the student meets "
                f"the teachers' maps; got {setup.img_size.typed}. Near it are "
                f"{setup.img_size.near(STRIDE, STRIDE)}."
            )
            raise SettingError(msg)
        self.supervised = supervised
        self.without_masks = 0
        self.temperature = temperature
        self.select = select
        self.lr = lr
        self.teacher_lr = teacher_lr
        source = FeatureExtractor(teacher, _LAYERS, setup=setup)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            bottleneck, decoder = Bottleneck(width, stages[0]), ResidualDecoder(width, stages)
            for module in (*bottleneck.modules(), *decoder.modules()):
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        self.detector = UninetDetector(
            source, bottleneck, decoder, alpha=alpha, beta=beta, smooth_map=smooth_map
        )
        self.detector.to(setup.device).to(memory_format=torch.channels_last).eval()

    @property
    def learns_from_defects(self) -> bool:
        """If it is supervised; see `Trainer.learns_from_defects`."""
        return self.supervised

    def begin(self, data: LearningData) -> None:
        """Look for masks; see `GradientTrainer.begin`.

        Raises:
            DataError: If no defective picture has one.
        """
        self.without_masks = len(data.defective) - len(data.masked)
        if data.defective and not data.masked:
            msg = (
                f"UniNet learns from the masks of defective pictures, and none of the "
                f"{len(data.defective)} has one that marks anything. Give masks, or train it with "
                "`supervised` false. `supersimplenet-supervised` learns without masks, too."
            )
            raise DataError(msg)

    @property
    def notes(self) -> tuple[str, ...]:
        """That it learnt nothing from defective pictures without masks; see `Trainer.notes`."""
        if not self.without_masks:
            return ()
        return (
            f"{self.without_masks} defective pictures have no mask that marks anything, and UniNet "
            "learns from masks alone: they were not learnt from.",
        )

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """The frozen teacher's maps; see `GradientTrainer.frozen`."""
        return self.detector.source(images)  # type: ignore[no-any-return]  # untyped in torch

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Compare each teacher with the student.

        Returns:
            ``source`` and ``target``: sums over the layers, of the frozen teacher and of the one
            that adapts.
        """
        losses = []
        pairs = self.detector.pairs(batch.images, batch.frozen)
        with torch.autocast(batch.images.device.type, enabled=False):
            for taught, learnt in pairs:
                chosen = selected(taught, learnt) if self.select else learnt
                losses.append(contrastive_loss(taught, chosen, self.temperature, batch.truth))
            half = len(losses) // 2
            return {
                "source": torch.stack(losses[:half]).sum(),
                "target": torch.stack(losses[half:]).sum(),
            }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """AdamW at constant rates; see `GradientTrainer.optimizers`."""
        detector = self.detector
        learning = [*detector.bottleneck.parameters(), *detector.student.parameters()]
        adamw = torch.optim.AdamW(
            [
                {"params": learning, "lr": self.lr},
                {"params": detector.target.parameters(), "lr": self.teacher_lr},
            ],
            weight_decay=1e-5,
        )
        return [Optimization(optimizer=adamw)]
