"""The quantiser: pictures to a coarse and a fine map of codes, and back.

Knows tensors only. Coarse is called ``lo``, fine ``hi``, as in the paper: an eighth and a quarter
of the picture's side.

Source: Razavi, van den Oord, Vinyals, "Generating Diverse High-Fidelity Images with VQ-VAE-2",
NeurIPS 2019, arXiv 1906.00446, in the sizes of the DSR paper.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ad.core import join_world

LO, HI = 8, 4
"""Pixels along the side of a cell of the coarse and of the fine map."""

DECAY = 0.99
"""Of the moving averages that codes follow, for each step."""

_EPSILON = 1e-5  # keeps a code that is hardly used from being divided by next to nothing
_TILE = 512  # codes that all cells are compared with at once


class Codes(NamedTuple):
    """Quantised maps of pictures ``[B, 3, H, W]``; float32."""

    lo: Tensor
    """``[B, E, H/8, W/8]``"""
    hi: Tensor
    """``[B, E, H/4, W/4]``"""


@final
class VqModel(nn.Module):
    """Quantises pictures and rebuilds them.

    Args:
        embedding_dim: Numbers in a code, ``E``.
        num_embeddings: Codes in each of the two codebooks, ``K``.
        width: Channels of the first map; all others have twice as many, ``C``. The paper's is 64.
    """

    def __init__(self, embedding_dim: int, num_embeddings: int, width: int) -> None:
        super().__init__()
        c = 2 * width
        self.encoder_hi = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(width, c, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(c, c, 3, padding=1), residual_stack(c)),
        )
        self.encoder_lo = nn.Sequential(
            *(nn.Conv2d(c, c, 4, 2, 1), nn.ReLU()),
            *(nn.Conv2d(c, c, 3, padding=1), nn.ReLU()),
            residual_stack(c),
        )
        self.to_lo = nn.Conv2d(c, embedding_dim, 1)
        self.to_hi = nn.Conv2d(c + embedding_dim, embedding_dim, 1)
        self.quantizer_lo = Quantizer(embedding_dim, num_embeddings)
        self.quantizer_hi = Quantizer(embedding_dim, num_embeddings)
        self.up = nn.ConvTranspose2d(embedding_dim, embedding_dim, 4, 2, 1)
        self.decoder = picture_decoder(2 * embedding_dim, width)

    def features_lo(self, encoded: Tensor) -> Tensor:
        """What the coarse codes are to be near to.

        Args:
            encoded: ``[B, C, H/4, W/4]``, of `encoder_hi`.

        Returns:
            ``[B, E, H/8, W/8]``, float32.
        """
        features: Tensor = self.to_lo(self.encoder_lo(encoded))
        return features.float()

    def features_hi(self, encoded: Tensor, lo: Tensor) -> Tensor:
        """What the fine codes are to be near to, given the coarse ones.

        Args:
            encoded: ``[B, C, H/4, W/4]``, of `encoder_hi`.
            lo: ``[B, E, H/8, W/8]``, quantised.

        Returns:
            ``[B, E, H/4, W/4]``, float32.
        """
        features: Tensor = self.to_hi(torch.cat([encoded, self.up(lo)], dim=1))
        return features.float()

    def encode(self, images: Tensor) -> Codes:
        """Quantise pictures ``[B, 3, H, W]``."""
        encoded = self.encoder_hi(images)
        lo = self.quantizer_lo(self.features_lo(encoded))
        return Codes(lo, self.quantizer_hi(self.features_hi(encoded, lo)))

    def join(self, codes: Codes) -> Tensor:
        """Both maps on the fine grid, ``[B, 2 E, H/4, W/4]``: what decoders start from."""
        return torch.cat([self.up(codes.lo), codes.hi], dim=1)

    def decode(self, codes: Codes) -> Tensor:
        """Rebuild pictures from any codes, ``[B, 3, H, W]``, float32, about [0, 1]."""
        images: Tensor = self.decoder(self.join(codes))
        return images.float()


@final
class Quantizer(nn.Module):
    """A codebook; replaces each cell's features by the nearest code.

    Args:
        embedding_dim: Numbers in a code.
        num_embeddings: How many codes.
    """

    codes: Tensor
    """``[K, E]``: a buffer, since no gradient moves it; see `CodeAverages`."""

    def __init__(self, embedding_dim: int, num_embeddings: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(num_embeddings, embedding_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Quantise; gradients pass to the features as if nothing had been done.

        Args:
            features: ``[B, E, h, w]``.

        Returns:
            ``[B, E, h, w]``, float32: codes, to the last digit.
        """
        features = features.float()
        codes = self.look_up(nearest_codes(tokens(features), self.codes), features)
        return codes + (features - features.detach())

    def look_up(self, indices: Tensor, features: Tensor) -> Tensor:
        """Codes by their numbers ``[B h w]``, in the shape of the features ``[B, E, h, w]``."""
        b, e, h, w = features.shape
        return self.codes[indices].view(b, h, w, e).permute(0, 3, 1, 2).contiguous()


def tokens(features: Tensor) -> Tensor:
    """Features of all cells, ``[B, E, h, w]`` to ``[B h w, E]``; no copy if channels come last."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def distances(features: Tensor, codes: Tensor) -> Tensor:
    """Squared distances, less the square of the features, which changes no order; float32.

    Args:
        features: ``[N, E]``.
        codes: ``[K, E]``.

    Returns:
        ``[N, K]``.
    """
    with torch.autocast(features.device.type, enabled=False):
        features, codes = features.float(), codes.float()
        return torch.addmm(codes.square().sum(dim=1), features, codes.T, alpha=-2)


@torch.no_grad()
def nearest_codes(features: Tensor, codes: Tensor) -> Tensor:
    """Find the nearest code of each row, the first of equal ones.

    Goes through the codebook tile by tile with the best so far, so that all distances are never
    in memory together.

    Args:
        features: ``[N, E]``.
        codes: ``[K, E]``.

    Returns:
        ``[N]``, int64.
    """
    best, found = distances(features, codes[:_TILE]).min(dim=1)
    for start in range(_TILE, len(codes), _TILE):
        least, where = distances(features, codes[start : start + _TILE]).min(dim=1)
        closer = least < best
        best = torch.where(closer, least, best)
        found = torch.where(closer, where + start, found)
    return found


@final
class CodeAverages(nn.Module):
    """Moves a codebook while the quantiser learns: each code to the mean of what it stands for.

    Means are moving averages over the steps. A code that stands for nothing any more is put where
    some cell is; at the first step all are.

    Source: van den Oord, Vinyals, Kavukcuoglu, "Neural Discrete Representation Learning",
    NeurIPS 2017, arXiv 1711.00937, appendix A.1. Starting idle codes anew is ours.

    Args:
        embedding_dim: Numbers in a code.
        num_embeddings: How many codes.
    """

    counts: Tensor
    """``[K]``: how many cells each code stands for, the moving average."""
    sums: Tensor
    """``[K, E]``: the sum of their features, the moving average."""
    idle: Tensor
    """``[K]``: for how many steps it has stood for none."""

    def __init__(self, embedding_dim: int, num_embeddings: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_embeddings))
        self.register_buffer("sums", torch.zeros(num_embeddings, embedding_dim))
        self.register_buffer("idle", torch.full((num_embeddings,), torch.inf))

    def quantize(self, quantizer: Quantizer, features: Tensor, *, patience: int) -> Tensor:
        """Quantise as the quantiser does, and learn its codes from it.

        Draws from torch's global generator.

        Args:
            quantizer: Its codes are changed in place.
            features: ``[B, E, h, w]``.
            patience: Steps without use after which a code is started anew.

        Returns:
            ``[B, E, h, w]``, float32; gradients pass to the features.
        """
        features = features.float()
        rows = tokens(features).detach()
        self._start_anew(quantizer, rows, self.idle >= patience)
        indices = nearest_codes(rows, quantizer.codes)
        codes = quantizer.look_up(indices, features)
        self._follow(quantizer, rows, indices)
        return codes + (features - features.detach())

    @torch.no_grad()
    def _start_anew(self, quantizer: Quantizer, rows: Tensor, due: Tensor) -> None:
        chosen = rows[torch.randint(len(rows), due.shape, device=rows.device)]  # [K, E]
        world = join_world()
        if world.size > 1 and due.any():  # idle in one process, idle in all: steps are averaged
            world.follow([chosen])  # the mean of several places would be no place of a cell
        self.counts.masked_fill_(due, 1)
        self.idle.masked_fill_(due, 0)
        for kept in (self.sums, quantizer.codes):
            kept.copy_(torch.where(due[:, None], chosen, kept))

    @torch.no_grad()
    def _follow(self, quantizer: Quantizer, rows: Tensor, indices: Tensor) -> None:
        used = torch.bincount(indices, minlength=len(self.counts))
        self.idle.add_(1).masked_fill_(used > 0, 0)
        self.counts.lerp_(used.to(rows.dtype), 1 - DECAY)
        self.sums.lerp_(torch.zeros_like(self.sums).index_add_(0, indices, rows), 1 - DECAY)
        total = self.counts.sum()
        smooth = (self.counts + _EPSILON) / (total + len(self.counts) * _EPSILON) * total
        quantizer.codes.copy_(self.sums / smooth[:, None])


@final
class Residual(nn.Module):
    """Adds to what is positive of a map what two convolutions make of it.

    Args:
        channels: Of the map; between the convolutions there are half as many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.block = nn.Sequential(
            nn.Conv2d(channels, half, 3, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(half, channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to the same shape."""
        # The authors' ReLU works in place, so that negative values are not carried on either.
        x = F.relu(x)
        change: Tensor = self.block(x)
        return x + change


def residual_stack(channels: int) -> nn.Sequential:
    """Two residual blocks and a ReLU."""
    return nn.Sequential(Residual(channels), Residual(channels), nn.ReLU())


def picture_decoder(channels: int, width: int) -> nn.Sequential:
    """From maps ``[B, channels, H/4, W/4]`` to pictures ``[B, 3, H, W]``; grey before learning."""
    last = nn.ConvTranspose2d(width, 3, 4, 2, 1)
    assert last.bias is not None
    nn.init.constant_(last.bias, 0.5)  # short runs need not learn this first
    return nn.Sequential(
        nn.Conv2d(channels, 2 * width, 3, padding=1),
        residual_stack(2 * width),
        *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU()),
        last,
    )
