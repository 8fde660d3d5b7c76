"""How codes of good pictures are broken: under a mask, each becomes one that is far from it.

Source: section 3.2 of the DSR paper, with the ranks of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ad.recon.dsr.vq import HI, LO, Codes, VqModel, distances, tokens

NEAREST = 0.05
"""Share of a codebook, from the nearest code on, that is too near to be a defect."""

_TILE = 4096  # cells whose distances to all codes are in memory at once


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenCodes:
    """Codes of ``B`` pictures, some of them perhaps broken."""

    codes: Codes
    """Perhaps broken."""
    clean: Codes
    """What they were: what to restore."""
    masks: Tensor
    """``[B, 1, H, W]``, float32: 1 where broken, in squares of the cells that were."""


@torch.no_grad()
def break_codes(
    vq: VqModel,
    images: Tensor,
    masks: Tensor,
    generators: Sequence[torch.Generator],
    *,
    strength: float,
) -> BrokenCodes:
    """Quantise good pictures and break their codes under masks.

    In half of the pictures both maps are broken: the fine codes are those that follow from broken
    coarse ones, and broken in turn. In the rest it is one map, either as likely.

    Args:
        vq: Trained; not changed.
        images: ``[B, 3, H, W]``, in [0, 1].
        masks: ``[B, 1, H, W]``, float32: 1 where to break, 0 elsewhere.
        generators: One for each picture, on the CPU.
        strength: Least share of the codebook to choose from, from the nearest code on; each map of
            each picture gets one of its own between that and 1.
    """
    numbers = torch.stack([torch.rand(4, generator=g) for g in generators]).to(images.device)
    both, one = (numbers[:, :2] < 0.5).unbind(dim=1)
    at_lo, at_hi = both | one, both | ~one  # [B]
    shares = strength + (1 - strength) * numbers[:, 2:]
    masks_lo, masks_hi = F.max_pool2d(masks, LO), F.max_pool2d(masks, HI)

    encoded = vq.encoder_hi(images)
    features_lo = vq.features_lo(encoded)
    clean_lo = vq.quantizer_lo(features_lo)
    features_hi = vq.features_hi(encoded, clean_lo)
    clean_hi = vq.quantizer_hi(features_hi)

    lo = exchange(
        features_lo,
        clean_lo,
        vq.quantizer_lo.codes,
        masks_lo * _rows(at_lo),
        shares[:, 0],
        _draw(generators, masks_lo),
    )
    followed, following = clean_hi, (both & masks_lo.flatten(1).any(dim=1)).nonzero()[:, 0]
    if len(following):
        features = vq.features_hi(encoded[following], lo[following])
        features_hi = features_hi.index_copy(0, following, features)
        followed = clean_hi.index_copy(0, following, vq.quantizer_hi(features))
    hi = exchange(
        features_hi,
        followed,
        vq.quantizer_hi.codes,
        masks_hi * _rows(at_hi),
        shares[:, 1],
        _draw(generators, masks_hi),
    )
    squares = torch.where(
        _rows(at_lo),
        F.interpolate(masks_lo, scale_factor=LO, mode="nearest"),
        F.interpolate(masks_hi, scale_factor=HI, mode="nearest"),
    )
    return BrokenCodes(codes=Codes(lo, hi), clean=Codes(clean_lo, clean_hi), masks=squares)


def exchange(
    features: Tensor,
    quantized: Tensor,
    codes: Tensor,
    masks: Tensor,
    shares: Tensor,
    draws: Tensor,
) -> Tensor:
    """Replace codes under a mask by random ones that are neither near nor among the farthest.

    Only what is masked is compared with the codebook.

    Args:
        features: ``[B, E, h, w]``, float32: distances are to them.
        quantized: ``[B, E, h, w]``, float32; not changed.
        codes: ``[K, E]``.
        masks: ``[B, 1, h, w]``: 1 where to replace, 0 elsewhere.
        shares: ``[B]``: of the codebook, how much there is to choose from.
        draws: ``[B, h w]``: random numbers from 0 to below 1, that choose.

    Returns:
        ``[B, E, h, w]``, float32.
    """
    b, e, h, w = quantized.shape
    chosen = (masks > 0.5).flatten().nonzero()[:, 0]  # [n], of B h w
    first, last = candidate_ranks(len(codes), shares)
    last = last[chosen // (h * w)]
    ranks = first + (draws.flatten()[chosen] * (last - first)).long()
    ranks = ranks.minimum(last - 1)  # a product just below the end may be rounded to it
    found = codes_at_ranks(tokens(features)[chosen], codes, ranks)
    replaced = tokens(quantized).index_copy(0, chosen, codes[found])
    return replaced.view(b, h, w, e).permute(0, 3, 1, 2).contiguous()


def candidate_ranks(num_codes: int, shares: Tensor) -> tuple[int, Tensor]:
    """Ranks of the codes that may replace one, the nearest being 0.

    Args:
        num_codes: ``K``, 3 or more.
        shares: ``[B]``: of the codebook, how much there is to choose from.

    Returns:
        The first rank, and for each share the one after the last, ``[B]``.
    """
    first = max(1, int(NEAREST * num_codes))  # of few codes the nearest would break nothing
    return first, ((shares * num_codes).long() + 1).clamp(first + 1, num_codes - 1)


def codes_at_ranks(features: Tensor, codes: Tensor, ranks: Tensor) -> Tensor:
    """Find the code that is so many places from the nearest one, for each row.

    Args:
        features: ``[n, E]``.
        codes: ``[K, E]``.
        ranks: ``[n]``, from 0 for the nearest to ``K - 1``.

    Returns:
        ``[n]``, int64.
    """
    found = torch.empty_like(ranks)
    for start in range(0, len(ranks), _TILE):
        part = slice(start, start + _TILE)
        order = distances(features[part], codes).argsort(dim=1)
        found[part] = order.gather(1, ranks[part, None])[:, 0]
    return found


def _rows(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]


def _draw(generators: Sequence[torch.Generator], masks: Tensor) -> Tensor:
    """A random number for each cell, ``[B, h w]``."""
    cells = masks.shape[2] * masks.shape[3]
    return torch.stack([torch.rand(cells, generator=g) for g in generators]).to(masks.device)
