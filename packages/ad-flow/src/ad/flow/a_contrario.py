"""U-Flow's threshold without anomalies: how many regions as odd as this one does chance make?

Under the background model the latents of a good picture are independent standard normal numbers.
NFA(R), the number of false alarms of a region R, bounds how many regions at least as odd as R such
a picture holds on average: the number of regions that are tried, times the probability of one.
Where log10 NFA is below 0, fewer than one is expected. No picture, good or bad, sets that limit.

Two families of regions are tried. `tree_log_probability` takes connected ones of any shape, which
the level sets of the energy propose; `block_log_probability` takes squares. Maps here are
``-log10 NFA``, so that higher is more anomalous and 0 is the limit.

Paper: Tailanian, Pardo, Musé, "U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
Unsupervised Threshold", Journal of Mathematical Imaging and Vision 2024, arXiv 2211.12353.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ad.core.networks import upsample

Variant = Literal["tree", "block"]
"""Which regions are tried."""

WINDOW = 5
"""Side of the finest scale's squares, in cells."""

COVERED = 0.9
"""Share of the background's squared latents below the level that squares are counted above."""

# The number of polyominoes of r cells is near ALPHA * BETA ** r / r.
_ALPHA, _BETA = 0.316915, 4.06257


def minus_log10_nfa(
    latents: Sequence[Tensor], size: tuple[int, int], variant: Variant = "tree"
) -> Tensor:
    """How much rarer than once in a picture what a picture shows is, pixel by pixel.

    Args:
        latents: ``[B, C, h, w]`` of each scale, the finest first.
        size: Height and width of the map to make, in pixels.
        variant: ``tree`` or ``block``.

    Returns:
        ``[B, H, W]``, float32, on the CPU: above 0 where fewer than one false alarm is expected.
        All NaN for a picture with a latent that is not finite.
    """
    latents = [z.detach().float().cpu() for z in latents]
    shapes = [(z.shape[2], z.shape[3]) for z in latents]
    if variant == "tree":
        found = []
        for z in latents:
            energy = z.double().square().mean(dim=1).numpy()
            for picture in energy:
                picture[:] = tree_log_probability(picture, z.shape[1])
            found.append(upsample(torch.from_numpy(energy).nan_to_num(nan=0.0), size))
        log_nfa = torch.stack(found).amin(dim=0) + log10_number_of_regions(shapes)
    else:
        found = [
            F.interpolate(
                block_log_probability(z, scale)[:, None],
                size=size,
                mode="bicubic",
                align_corners=True,
            )[:, 0]
            for scale, z in enumerate(latents)
        ]
        log_nfa = torch.stack(found).sum(dim=0) + math.log10(sum(h * w for h, w in shapes))
    whole = torch.stack([z.isfinite().flatten(1).all(dim=1) for z in latents]).all(dim=0)
    return torch.where(whole[:, None, None], -log_nfa, torch.nan).float()


def log10_number_of_regions(shapes: Sequence[tuple[int, int]]) -> float:
    """How many connected regions there are to try, as the power of ten.

    Args:
        shapes: Height and width of each scale.
    """
    logs = []
    for height, width in shapes:
        cells = np.arange(1, height * width + 1)
        of_size = np.log(_ALPHA) + cells * np.log(_BETA) - np.log(cells)
        logs.append(np.log(height * width) + np.logaddexp.reduce(of_size))
    return float(np.logaddexp.reduce(logs) / np.log(10))


# --- connected regions -------------------------------------------------------------------------


def tree_log_probability(energy: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """The rarest connected regions of one scale, each with its log10 probability.

    The regions that are tried are the components of the level sets of the energy, which are nested:
    the max-tree. Of regions on a path without a fork the rarest one stays. A fork takes the place
    of its branches if each of them has come down to one region and none is rarer than the fork.
    What is left at the tips does not overlap.

    Args:
        energy: ``[h, w]``: mean over the channels of the squared latents.
        channels: How many there are.

    Returns:
        ``[h, w]``: of the pixel's region, Chernoff's bound on the probability that the mean of its
        squared latents is as high as its lowest pixel's; NaN where a pixel is in none that is
        left, and everywhere if an energy is not finite. 0 for a region whose lowest pixel has an
        energy of at most 1, the background's mean: below it the same formula bounds how quiet
        latents are, and would find whole pictures whose latents are.
    """
    rarity = np.full(energy.shape, np.nan)
    if not np.isfinite(energy).all():
        return rarity
    level: list[float] = energy.ravel().tolist()
    order, parent = _max_tree(energy.shape, level)
    root = order[-1]
    cells = [1] * len(level)
    for pixel in order[:-1]:
        cells[parent[pixel]] += cells[pixel]
    excess = np.maximum(energy.ravel(), 1)  # the guard
    per_cell = channels / 2 * (excess - 1 - np.log(excess)) / math.log(10)
    log_probability: list[float] = (-np.array(cells) * per_cell).tolist()

    divided = -1
    rarest = [divided] * len(level)  # of a region with all inside it: the one that is left
    inside: list[list[int]] = [[] for _ in level]
    left = []
    for node in order:
        if node != root and level[parent[node]] == level[node]:
            continue  # a pixel of a plateau, which another one stands for
        inside[parent[node]].append(node)
        tips = [rarest[one] for one in inside[node] if one != node]
        forks = len(tips) > 1 and divided not in tips
        if divided in tips or (
            forks and log_probability[node] > min(log_probability[tip] for tip in tips)
        ):
            left += [tip for tip in tips if tip != divided]
        else:
            rarest[node] = min([node, *tips], key=log_probability.__getitem__)
    if rarest[root] != divided:
        left.append(rarest[root])

    found = rarity.ravel()
    for tip in left:
        found[tip] = log_probability[tip]
    for pixel in reversed(order[:-1]):
        if math.isnan(found[pixel]):
            found[pixel] = found[parent[pixel]]
    return rarity


def _max_tree(shape: tuple[int, int], level: list[float]) -> tuple[list[int], list[int]]:
    """The components of the level sets, by union-find; each is named by its last pixel.

    Args:
        shape: Height and width.
        level: Of each pixel, row by row.

    Returns:
        The pixels from high to low, and of each the next larger component around it: of a pixel of
        a plateau the plateau's last pixel, of the last of all itself.
    """
    height, width = shape
    order: list[int] = np.argsort(-np.array(level), kind="stable").tolist()
    unseen = -1
    root_of = [unseen] * len(level)  # shortened on the way
    parent = list(range(len(level)))
    for pixel in order:
        root_of[pixel] = pixel
        row, column = divmod(pixel, width)
        for there, neighbour in (
            (row > 0, pixel - width),
            (row < height - 1, pixel + width),
            (column > 0, pixel - 1),
            (column < width - 1, pixel + 1),
        ):
            if not there or root_of[neighbour] == unseen:
                continue
            root = neighbour
            while root_of[root] != root:
                root_of[root] = root_of[root_of[root]]
                root = root_of[root]
            root_of[root] = parent[root] = pixel
    for pixel in reversed(order):
        around = parent[pixel]
        if level[parent[around]] == level[around]:
            parent[pixel] = parent[around]
    return order, parent


# --- squares -----------------------------------------------------------------------------------


def block_log_probability(
    latents: Tensor, scale: int, *, window: int = WINDOW, covered: float = COVERED
) -> Tensor:
    """How probable so many high latents in the square around each cell are, for one scale.

    Args:
        latents: ``[B, C, h, w]``, with sides above `half_window`.
        scale: Which one it is, 0 for the finest.
        window: See `WINDOW`.
        covered: Share of the background's squared latents below the level that is counted.

    Returns:
        ``[B, h, w]``, float64: log10 of the binomial probability that more than ``k`` of the
        square's cells are above the level; ``k`` is the channels' mean, rounded down. Where all of
        them are, it is that of all, since of more it would be 0.
    """
    half = half_window(scale, window)
    cells = (2 * half + 1) ** 2
    level = NormalDist().inv_cdf((1 + covered) / 2) ** 2
    high = (latents.square() >= level).sum(dim=1, dtype=torch.float32)
    padded = F.pad(high[:, None], (half,) * 4, mode="reflect")
    counts = F.avg_pool2d(padded, 2 * half + 1, stride=1, divisor_override=1)[:, 0]
    k = counts.round().long() // latents.shape[1]
    exactly = [
        math.comb(cells, j) * (1 - covered) ** j * covered ** (cells - j) for j in range(cells + 1)
    ]
    more = [math.log10(sum(exactly[min(j + 1, cells) :])) for j in range(cells + 1)]
    return torch.tensor(more, dtype=torch.float64)[k]


def half_window(scale: int, window: int = WINDOW) -> int:
    """Cells from the middle of a scale's squares to their border; a map must have more a side."""
    return max((window >> scale) // 2, 1)
