"""Dinomaly: one decoder for many products, too narrow-minded to rebuild what was never good.

A frozen vision transformer (DINOv2) describes a picture; a bottleneck with dropout and a small
transformer rebuild that description. A decoder this able could learn to copy, and then it would
copy defects, too. Four things keep it from it: noise in the bottleneck; attention without a
softmax, which cannot focus on a place and so cannot copy from it; a target that is loose, two
groups of layers in place of each layer; and a loss that hardly moves what is rebuilt well already.

Paper: Guo et al., "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly
Detection", CVPR 2025, arXiv 2405.14325. Official code: guojiajeremy/Dinomaly, Apache-2.0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import (
    Detector,
    Field,
    GradientTrainer,
    Layers,
    LearningBatch,
    LearningRate,
    Name,
    Optimization,
    Prediction,
    Setup,
    WeightDecay,
    budget_note,
    in_precision,
    renamed,
    stream,
    trained_flag,
)
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, fast_products, upsample
from ad.foundation.stable_adamw import StableAdamW, warm_cosine

_SIDE = 256
"""Pixels of the shorter side of the grid where maps are smoothed and scored."""

_TOP = 0.01
"""Share of that grid whose mean is the score."""

_HARD = 0.9
"""Share of the cells that count little in the loss, once it has risen to that."""

_LITTLE = 0.1
"""Factor on their gradients."""

_SIZES = ("small", "base", "large")

ENCODERS = {
    f"{family}_vit_{size}_14": f"vit_{size}_patch14_reg4_dinov2"
    for family in ("dinov2", "dinov2reg")
    for size in _SIZES
}
"""timm's names of DINOv2 with registers, which the paper's figures are of."""

Encoder = Annotated[Name, renamed(ENCODERS)]


@final
class LinearAttention(nn.Module):
    """Attention without a softmax: each token reads a summary of all that is alike for all.

    Args:
        width: Channels.
        heads: Parts they are split into.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, D]`` to the same shape."""
        batch, count, width = tokens.shape
        parts = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = _positive(query), _positive(key)
        summary = key.mT @ value
        weight = query @ key.sum(dim=2, dtype=torch.float32)[..., None].to(query.dtype)
        read = (query @ summary) / (weight + 1e-6)  # the authors have no guard against 0
        return self.projection(read.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


def _positive(x: Tensor) -> Tensor:
    """ELU plus 1, without the rounding of bf16 to steps of 1/256 where ELU is about -1."""
    return x.clamp(max=0).exp() + x.relu()


@final
class Block(nn.Module):
    """A block of the decoder: attention, then two linear layers, each with a way around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_before_attention = nn.LayerNorm(width, eps=1e-8)
        self.attention = LinearAttention(width, heads)
        self.norm_before_mlp = nn.LayerNorm(width, eps=1e-8)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, N, D]`` to the same shape."""
        tokens = tokens + self.attention(self.norm_before_attention(tokens))
        return tokens + self.mlp(self.norm_before_mlp(tokens))  # type: ignore[no-any-return]


@final
class Decoder(nn.Module):
    """The noisy bottleneck and the blocks after it.

    Args:
        width: Channels of the encoder.
        heads: Of its attention, and of the decoder's.
        depth: Blocks, an even number.
        dropout: Share of what is set to 0 in three places of the bottleneck while learning.
    """

    def __init__(self, width: int, heads: int, *, depth: int, dropout: float) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Rebuild.

        Args:
            tokens: ``[B, N, D]``, the mean of the encoder's layers.

        Returns:
            Means of the outputs of the later half of the blocks, which rebuild the shallow
            layers, and of the earlier half; both ``[B, N, D]``.
        """
        tokens = self.bottleneck(tokens).float()  # what blocks add to stays fp32
        found = []
        for block in self.blocks:
            tokens = block(tokens)
            found.append(tokens)
        half = len(found) // 2
        return _mean(found[half:]), _mean(found[:half])


@final
class DinomalyDetector(Detector):
    """Scores each patch by the angles between the two groups' means and what is rebuilt of them.

    Args:
        encoder: Frozen, with an even number of layers.
        decoder: To be trained.
    """

    def __init__(self, encoder: FeatureExtractor, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        trained_flag(self)

    def groups(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the shallow and of the deep half of the encoder's layers.

        Args:
            images: ``[B, 3, H, W]``, float32 in [0, 1].

        Returns:
            All tokens, ``[B, prefix + h * w, D]``, in the encoder's precision.
        """
        tokens = self.encoder.tokens(images)
        half = len(tokens) // 2
        return _mean(tokens[:half]), _mean(tokens[half:])

    def rebuild(self, shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """The groups' means from the mean of both, ``[B, prefix + h * w, D]``, float32."""
        with in_precision(self.encoder.precision, shallow.device), fast_products(shallow):
            rebuilt: tuple[Tensor, Tensor] = self.decoder((shallow + deep) / 2)
        return rebuilt

    def patches(self, tokens: Tensor) -> Tensor:
        """Tokens without the prefix, float32."""
        return tokens[:, self.encoder.prefix_tokens :].float()

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            The map that `smoothed_map` makes of the mean angle of both groups, 1 minus the cosine,
            and the score that goes with it.

        Raises:
            NotFittedError: If the detector has not been trained.
            SettingError: If a side of the images is no multiple of the encoder's patch.
        """
        self.require_fitted()
        size = (images.shape[2], images.shape[3])
        taught = self.groups(images)
        stride = self.encoder.strides[0]
        gaps = [
            1 - F.cosine_similarity(self.patches(theirs), self.patches(ours), dim=2)
            for theirs, ours in zip(taught, self.rebuild(*taught), strict=True)
        ]
        grid = (images.shape[0], size[0] // stride, size[1] // stride)
        return smoothed_map(torch.stack(gaps).mean(0).reshape(grid), size)


def smoothed_map(cells: Tensor, size: tuple[int, int]) -> Prediction:
    """From gaps of patches to a map and a score.

    The authors resize the gaps to the picture, then to 256 x 256, smooth that by a kernel of
    5 x 5 that sees zeros beyond the border, and take the mean of the largest hundredth. The score
    is theirs. The map is without the zeros: each pixel is the mean of what of the kernel is in
    the picture, so that a border is no better than what is beside it.

    Args:
        cells: ``[B, h, w]``, float32.
        size: Height and width of the pictures. 256 pixels are the shorter side's; the other has
            as many as its length asks for.

    Returns:
        Scores and maps, of ``size``.
    """
    shorter = min(size)
    grid = (_SIDE * size[0] // shorter, _SIDE * size[1] // shorter)
    # Corners aligned, as the authors resize first.
    fine = F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    smooth = smoothed(upsample(fine, grid))
    count = max(int(_TOP * grid[0] * grid[1]), 1)
    score = smooth.flatten(1).topk(count, dim=1, sorted=False).values.mean(dim=1)
    share = smoothed(torch.ones_like(smooth[:1]))
    return Prediction(score, upsample(smooth / share, size))


def smoothed(maps: Tensor) -> Tensor:
    """The authors' smoothing: 5 x 5 taps of a Gaussian of 4 pixels, and zeros beyond the border.

    Args:
        maps: ``[B, H, W]``, float32.

    Returns:
        ``[B, H, W]``.
    """
    return _blur(maps.shape[1], maps) @ maps @ _blur(maps.shape[2], maps)


def _blur(length: int, like: Tensor) -> Tensor:
    """The same along a line, as a symmetric matrix."""
    place = torch.arange(length, device=like.device)
    distance = (place[:, None] - place).abs().to(like.dtype)
    weight = torch.exp(-0.5 * (distance / 4.0) ** 2)
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, device=like.device).to(like.dtype) / 4.0) ** 2)
    return weight * (distance <= 2) / taps.sum()


def hard_cosine_loss(taught: Tensor, rebuilt: Tensor, share: float) -> Tensor:
    """1 minus the cosine of whole pictures, with small gradients where it is rebuilt well.

    Args:
        taught: ``[B, N, D]``, float32; no gradient goes there.
        rebuilt: Of the same shape.
        share: Of the cells of all pictures of the batch, those rebuilt best, whose gradients are
            multiplied by 0.1. The value is the same for any share.

    Returns:
        A scalar, the mean over the pictures.
    """
    taught = taught.detach()
    gaps = 1 - F.cosine_similarity(taught, rebuilt.detach(), dim=2)
    hardest = max(int(gaps.numel() * (1 - share)), 1)
    least = gaps.flatten().topk(hardest, sorted=False).values.min()
    weight = torch.where(gaps < least, _LITTLE, 1.0)[..., None]
    rebuilt = rebuilt * weight + rebuilt.detach() * (1 - weight)  # the same, but for gradients
    return (1 - F.cosine_similarity(taught.flatten(1), rebuilt.flatten(1), dim=1)).mean()


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Of tensors of equal shape and type, in that type; the sum is fp32."""
    total = tensors[0].float()
    for each in tensors[1:]:
        total = total + each
    return (total / len(tensors)).to(tensors[0].dtype)


@final
class DinomalyTrainer(GradientTrainer):
    """Trains the bottleneck and the decoder.

    Args:
        setup: What the run sets.
        encoder_name: A vision transformer of timm. ``dinov2_vit_small_14`` and its like, of which
            ``small`` may be ``base`` or ``large``, stand for DINOv2 with registers, such as
            ``vit_small_patch14_reg4_dinov2``: the paper's.
        layers: Blocks of the encoder that are rebuilt, an even number of them; none for the
            paper's: 2 to 9 of the twelve that small and base ones have, every other one from 4
            to 18 of a large one's 24.
        bottleneck_dropout: Noise of the bottleneck; the paper's for Real-IAD is 0.4.
        decoder_depth: Blocks of the decoder.
        lr: Learning rate, up to which it rises, and of which a tenth is left at the end.
        weight_decay: Of StableAdamW.

    Raises:
        SettingError: If an option has a value that cannot work, or pictures have a size that the
            encoder cannot take.
        WeightsError: If the encoder has no weights.
    """

    detector: DinomalyDetector

    def __init__(
        self,
        setup: Setup,
        *,
        encoder_name: Encoder = "vit_base_patch14_reg4_dinov2",
        layers: Layers = (),
        bottleneck_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        decoder_depth: Annotated[int, Field(ge=2, le=24, multiple_of=2)] = 8,
        lr: LearningRate = 2e-3,
        weight_decay: WeightDecay = 1e-4,
    ) -> None:
        super().__init__(setup)
        self.lr, self.weight_decay = lr, weight_decay
        layers = layers or _papers_layers(encoder_name)
        if len(layers) % 2:
            msg = (
                "`layers` of Dinomaly must be an even number of blocks, since it rebuilds the mean "
                f"of either half of them; got {len(layers)}: {', '.join(layers)}."
            )
            raise SettingError(msg)
        encoder = FeatureExtractor(encoder_name, layers, setup=setup)
        if not encoder.has_tokens:
            raise SettingError(_no_transformer(encoder_name))
        width = encoder.channels[0]
        heads = width // 64 if width % 64 == 0 else 1  # as the encoders' own
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(setup.seed, 3))
            decoder = Decoder(width, heads, depth=decoder_depth, dropout=bottleneck_dropout)
        self.detector = DinomalyDetector(encoder, decoder).to(setup.device).eval()
        self.ramp = 1
        self.steps = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """That there were too few steps; see `Trainer.notes`."""
        enough = 3000 if min(self.setup.img_size) <= 224 else 5000
        return budget_note("Dinomaly", self.steps, enough, "10,000 of 16 pictures, for 15 products")

    def frozen(self, images: Tensor) -> Sequence[Tensor]:
        """Both groups' means: all that is needed of eight layers; see `GradientTrainer.frozen`."""
        return self.detector.groups(images)

    def losses(self, batch: LearningBatch) -> dict[str, Tensor]:
        """Half of each group's loss; see `GradientTrainer.losses`."""
        shallow, deep = batch.frozen
        rebuilt = self.detector.rebuild(shallow, deep)
        share = min(_HARD * batch.step / self.ramp, _HARD)
        return {
            name: hard_cosine_loss(
                self.detector.patches(theirs), self.detector.patches(ours), share
            )
            / 2
            for name, theirs, ours in zip(
                ("shallow", "deep"), (shallow, deep), rebuilt, strict=True
            )
        }

    def optimizers(self, total_steps: int) -> Sequence[Optimization]:
        """StableAdamW, warmed up, along a cosine; see `GradientTrainer.optimizers`.

        In few steps the first tenth is what 100 are of the authors' 10,000 to warm up, and what
        1,000 are until the loss has its full share of little gradients.
        """
        self.steps = total_steps
        tenth = math.ceil(total_steps / 10)
        self.ramp = min(1000, tenth)
        adam = StableAdamW(
            self.detector.decoder.parameters(), self.lr, weight_decay=self.weight_decay
        )
        return [
            Optimization(
                optimizer=adam,
                schedule=lambda step: warm_cosine(
                    step, total_steps, warm_up=min(100, tenth), last=0.1
                ),
                clip_norm=0.1,
            )
        ]


def _papers_layers(encoder: str) -> tuple[str, ...]:
    found = re.search(r"_(small|base|large)_", encoder)
    if found is None and not re.search(r"vit|deit|cait", encoder):
        raise SettingError(_no_transformer(encoder))
    if found is None:
        msg = (
            f"`layers` of Dinomaly must be named for encoder `{encoder}`: the paper's are those of "
            "small, base and large ones. Give an even number of blocks from the middle, such as "
            "`--set layers=blocks.2,blocks.3,blocks.4,blocks.5`."
        )
        raise SettingError(msg)
    blocks = range(4, 20, 2) if found[1] == "large" else range(2, 10)
    return tuple(f"blocks.{block}" for block in blocks)


def _no_transformer(encoder: str) -> str:
    names = ", ".join(f"`dinov2_vit_{size}_14`" for size in _SIZES)
    return (
        f"`encoder_name` of Dinomaly must be a vision transformer: {names}, or another of timm; "
        f"got `{encoder}`."
    )
