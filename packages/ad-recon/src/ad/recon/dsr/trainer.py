"""How DSR learns, in three phases: the quantiser, then detection, then refinement.

What has to be random comes from each picture's own generator, and where codes start anew from
torch's global one, which is seeded for each step, so a resumed run draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    FROM_MODEL_FILE,
    Field,
    GradientTrainer,
    LearningBatch,
    LearningData,
    LearningRate,
    Optimization,
    PathName,
    Probability,
    Setup,
    Steps,
    budget_note,
    fingerprint_of,
    stream,
)
from ad.core.errors import SettingError
from ad.core.synth import (
    FolderTextures,
    PerlinAnomalies,
    ProceduralTextures,
    RandomColours,
    let_take_from,
    perlin_masks,
    turn_some,
)
from ad.recon.dsr.anomalies import NEAREST, break_codes
from ad.recon.dsr.network import DsrDetector, check_size
from ad.recon.dsr.vq import LO, CodeAverages, Codes
from ad.recon.dsr.weights import load_quantizer
from ad.recon.focal import focal_loss
from ad.recon.limits import check_plain

ENOUGH_VQ_STEPS = 20_000
"""Steps after which a quantiser is worth something, where it learns from the pictures."""

ENOUGH_STEPS = 25_000
"""Steps of detection and refinement from which on figures begin to mean something."""

COMMITMENT = 0.25
"""Weight of the distance between features and their codes, in the quantiser's loss."""

PICTURE = 10.0
"""Weight of the error of the rebuilt picture, in the detection's loss."""

# Steps without use after which a code starts anew, and how many at least if there are fewer steps.
_IDLE, _LEAST_IDLE = 500, 10
_LEAST_CODES = 3  # a code is broken into one that is neither the nearest nor the farthest
_LEAST_VARIANCE = 1e-3  # of pictures, which the error of rebuilding them is divided by


class Phases(NamedTuple):
    """Steps of each phase, counted from 0."""

    quantizer: range
    """Empty if a trained one is given."""
    detection: range
    refinement: range


@final
class DsrTrainer(GradientTrainer):
    """Trains the quantiser, then what knows the one product, then what draws the outlines.

    The run's epochs or steps are those of detection and refinement together. A quantiser that is
    not given learns before, on top of them: as many steps again, but not more than 20,000. Each of
    its batches are the pictures and as many textures, so that codes know more than the product.

    Args:
        setup: What the run sets.
        latent_anomaly_strength: Least share of the codebook that a broken code is drawn from, from
            the nearest code on; below 0.05 all are too near.
        embedding_dim: Numbers in a code, and channels of the restriction modules.
        num_embeddings: Codes in each of the two codebooks.
        vq_weights: Safetensors file with a trained quantiser; empty to learn one: see
            `ad.recon.dsr.weights`.
        vq_steps: Steps of learning one; None for as many as the run has, up to 20,000. One that
            needs no steps is given as ``vq_weights``.
        textures: Folder of pictures of anything, at any depth, that a quantiser learns from beside
            the run's; empty for textures made by code.
        refine_share: Share of the run's steps for refinement.
        rotate_prob: Probability that a picture is turned by up to 90 degrees while detection
            learns, and three quarters of it in refinement; 0 for parts that always lie in the same
            way.
        width: Channels of the first map of the quantiser and of the modules that segment; 64 is
            the paper's. Time goes with its square.
        lr: Learning rate of Adam; a tenth of it in the last fifth of detection.

    Raises:
        SettingError: If a setting or an option has a value that cannot work.
        WeightsError: If ``vq_weights`` cannot be read or does not fit.
        DataError: If the folder of textures has no pictures.
    """

    detector: DsrDetector

    def __init__(
        self,
        setup: Setup,
        *,
        latent_anomaly_strength: Annotated[float, Field(ge=NEAREST, le=1)] = 0.2,
        embedding_dim: Annotated[int, Field(ge=1, le=512)] = 128,
        num_embeddings: Annotated[int, Field(ge=_LEAST_CODES, le=2**16)] = 4096,
        vq_weights: PathName = "",
        vq_steps: Steps | None = None,
        textures: PathName = "",
        refine_share: Annotated[float, Field(gt=0, lt=1)] = 0.3,
        rotate_prob: Probability = 0.4,
        width: Annotated[int, Field(ge=1, le=256)] = 64,
        lr: LearningRate = 2e-4,
    ) -> None:
        super().__init__(setup)
        check_plain(setup, "DSR")
        check_size(*setup.img_size)
        _check_quantizer(vq_weights, vq_steps, textures)
        self.strength = latent_anomaly_strength
        self.vq_given = bool(vq_weights)
        self.vq_steps = vq_steps
        self.refine_share = refine_share
        self.rotate_prob = rotate_prob
        self.lr = lr
        self.steps = 0  # so far
        self.phases = Phases(range(0), range(0), range(0))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            self.detector = DsrDetector(
                embedding_dim=embedding_dim,
                num_embeddings=num_embeddings,
                width=width,
                precision=setup.precision,
            )
        self.averages_lo = CodeAverages(embedding_dim, num_embeddings)
        self.averages_hi = CodeAverages(embedding_dim, num_embeddings)
        self.blotches = PerlinAnomalies(
            RandomColours(), rotate_prob=0.75 * rotate_prob, augment_textures=False
        )
        self.textures: FolderTextures | ProceduralTextures = ProceduralTextures()
        self._inputs: dict[str, str] = {}
        if setup.weights != FROM_MODEL_FILE:  # who only predicts needs no files
            self._read(vq_weights, textures)
        for module in self.modules().values():
            module.to(setup.device).eval()

    def _read(self, vq_weights: str, textures: str) -> None:
        """Read what else is learnt from, and keep the hashes of it."""
        if vq_weights:
            file = Path(vq_weights).expanduser()
            load_quantizer(self.detector.vq, file)
            with file.open("rb") as opened:
                self._inputs["vq_weights"] = hashlib.file_digest(opened, "sha256").hexdigest()
        if textures:
            self.textures = FolderTextures(Path(textures).expanduser())
            self._inputs["textures"] = fingerprint_of(self.textures.paths)

    def modules(self) -> Mapping[str, nn.Module]:
        """The averages that codes follow too, which are no part of the detector."""
        if self.vq_given:
            return {"detector": self.detector}
        return {
            "detector": self.detector,
            "averages_lo": self.averages_lo,
            "averages_hi": self.averages_hi,
        }

    @property
    def inputs(self) -> Mapping[str, str]:
        """The quantiser's file or the textures; see `Trainer.inputs`."""
        return self._inputs

    @property
    def notes(self) -> tuple[str, ...]:
        """What went without a quantiser, textures and steps enough; see `Trainer.notes`."""
        first = len(self.phases.quantizer)
        notes = budget_note("DSR", max(0, self.steps - first), ENOUGH_STEPS, "150,000")
        if self.vq_given:
            return notes
        taken = min(self.steps, first)
        more = f", and wants about {ENOUGH_VQ_STEPS:,}" if taken < ENOUGH_VQ_STEPS else ""
        quantizer = (
            f"No `vq_weights`: the quantiser learnt from these pictures and as many textures, in "
            f"{taken:,} steps before the run's own{more}. The authors' learnt from ImageNet: "
            "expect several points of AUROC less (an estimate). `--set vq_steps=N` sets its steps."
        )
        if "textures" in self._inputs:
            return (quantizer, *notes)
        textures = (
            "No textures: beside these pictures the quantiser learnt from textures made by code, "
            "so it knows less of what defects may look like, which costs some of these points. "
            "Give a folder of pictures as option `textures` (`--set textures=DIR`)."
        )
        return (quantizer, textures, *notes)

    def num_steps(self, num_images: int) -> int:
        """The run's own steps, and before them the quantiser's.

        Raises:
            SettingError: If there are too few to have any of each phase.
        """
        own = super().num_steps(num_images)
        if own < 2:
            msg = (
                "DSR needs 2 steps or more, one of detection and one of refinement; the run has "
                f"{own}. Give more `num_epochs` or `num_steps`, or a smaller `batch_size`."
            )
            raise SettingError(msg)
        if self.vq_given:
            return own
        return own + (min(own, ENOUGH_VQ_STEPS) if self.vq_steps is None else self.vq_steps)

    def phases_of(self, total_steps: int) -> Phases:
        """Divide all steps, the quantiser's among them."""
        first = self.vq_steps
        if first is None:  # the reverse of `num_steps`
            first = 0 if self.vq_given else min(total_steps // 2, ENOUGH_VQ_STEPS)
        own = total_steps - first
        last = total_steps - min(max(1, round(self.refine_share * own)), own - 1)
        return Phases(range(first), range(first, last), range(last, total_steps))

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """An Adam for each phase; see `GradientTrainer.optimizers`."""
        self.steps = total_steps
        self.phases = self.phases_of(total_steps)
        detector, detection = self.detector, self.phases.detection
        slow = detection.start + int(0.8 * len(detection))
        own = (detector.restrict_lo, detector.restrict_hi, detector.decoder, detector.detection)
        quantizer = Optimization(optimizer=self._adam(detector.vq), steps=self.phases.quantizer)
        return [
            *(() if self.vq_given else (quantizer,)),
            Optimization(
                optimizer=self._adam(*own),
                schedule=lambda step: 1.0 if step < slow else 0.1,
                steps=detection,
            ),
            Optimization(optimizer=self._adam(detector.refinement), steps=self.phases.refinement),
        ]

    def _adam(self, *modules: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam([p for module in modules for p in module.parameters()], self.lr)

    def begin(self, data: LearningData) -> None:
        """Let textures made by code take parts of all pictures; see `GradientTrainer.begin`."""
        let_take_from(self.textures, data.pictures)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """The terms of the phase that the step is in.

        Returns:
            Of the quantiser ``rebuilt`` and ``committed``: errors of the picture, in units of its
            variance, and of the features that should be near their codes. Of detection
            ``restored_lo``, ``restored_hi``, ``picture`` and ``detected``: errors of the codes, of
            the picture rebuilt from them, and of the place. Of refinement ``refined``: of the
            place.
        """
        self.steps = batch.step + 1
        if batch.step in self.phases.quantizer:
            return self._learn_quantizer(batch)
        if batch.step in self.phases.detection:
            return self._learn_detection(batch)
        return self._learn_refinement(batch)

    def _learn_quantizer(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Rebuild the pictures and as many textures from codes, which follow them."""
        vq = self.detector.vq
        share = min(1.0, len(self.phases.quantizer) / ENOUGH_VQ_STEPS)
        patience = max(_LEAST_IDLE, int(share * _IDLE))
        textures = self.textures.draw(batch.images, _generators(batch))
        images = torch.cat([batch.images, textures])
        encoded = vq.encoder_hi(images)
        features_lo = vq.features_lo(encoded)
        lo = self.averages_lo.quantize(vq.quantizer_lo, features_lo, patience=patience)
        features_hi = vq.features_hi(encoded, lo)
        hi = self.averages_hi.quantize(vq.quantizer_hi, features_hi, patience=patience)
        rebuilt = vq.decode(Codes(lo, hi))
        with torch.autocast(images.device.type, enabled=False):
            variance = images.var().clamp_min(_LEAST_VARIANCE)
            gaps = F.mse_loss(features_lo, lo.detach()) + F.mse_loss(features_hi, hi.detach())
            return {
                "rebuilt": F.mse_loss(rebuilt, images) / variance,
                "committed": COMMITMENT * gaps,
            }

    def _learn_detection(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Break codes, restore them, and find where they were broken."""
        detector, generators = self.detector, _generators(batch)
        images, masks = self._turned_and_masked(batch.images, generators)
        broken = break_codes(detector.vq, images, masks, generators, strength=self.strength)
        with torch.no_grad():
            general = detector.vq.decode(broken.codes)
        restored = detector.restore(broken.codes)
        found = detector.detect(restored.images.detach(), general)
        with torch.autocast(images.device.type, enabled=False):
            return {
                "restored_lo": F.mse_loss(restored.features.lo, broken.clean.lo),
                "restored_hi": F.mse_loss(restored.features.hi, broken.clean.hi),
                "picture": PICTURE * F.mse_loss(restored.images, images),
                "detected": focal_loss(found, broken.masks),
            }

    def _turned_and_masked(
        self, images: Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Pictures, some turned, and masks ``[B, 1, H, W]`` to break them under, half of them."""
        numbers = torch.stack([torch.rand(3, generator=g) for g in generators])
        images = turn_some(images, numbers[:, :2], self.rotate_prob)
        masks = torch.zeros_like(images[:, :1])
        rows = (numbers[:, 2] < 0.5).nonzero()[:, 0].tolist()
        if rows:
            size = (images.shape[2], images.shape[3])
            own = [generators[row] for row in rows]
            # Finer blotches would fill coarse codes of which they cover next to nothing.
            masks[rows] = perlin_masks(size, own, device=images.device, least_cell=LO)
        return images, masks

    def _learn_refinement(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Find the outlines of blotches of one colour."""
        broken = self.blotches(batch.images, _generators(batch))
        with torch.no_grad():
            comparison = self.detector.compare(broken.images)
        return {"refined": focal_loss(self.detector.refine(comparison), broken.masks)}


def _generators(batch: LearningBatch) -> list[torch.Generator]:
    return [batch.generator(row) for row in range(len(batch.indices))]


def _check_quantizer(vq_weights: str, vq_steps: int | None, textures: str) -> None:
    for name, value in (("vq_steps", vq_steps), ("textures", textures or None)):
        if vq_weights and value is not None:
            msg = (
                f"`{name}` is for learning a quantiser, and `vq_weights` gives one that is not "
                f"learnt; got both, {value!r} and {vq_weights!r}. Leave one out."
            )
            raise SettingError(msg)
