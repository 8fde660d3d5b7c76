"""From the feature maps of several layers to one short vector at every position.

Deeper maps are brought to the first one's grid by nearest neighbours. Choosing channels and
projecting commute with that, so both happen before: the long concatenated vectors never exist.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator, Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from ad.core import learned_buffer
from ad.core.errors import SettingError

Reduction = Literal["random", "pca", "semi_orth"]


class Embedding(nn.Module, abc.ABC):
    """Reduces feature maps to ``D`` features per position.

    Args:
        channels: Channels of each layer's map, ``C`` in all.
        num_features: ``D``.

    Raises:
        SettingError: If ``num_features`` is not between 1 and the number of channels.
    """

    def __init__(self, channels: Sequence[int], num_features: int) -> None:
        super().__init__()
        total = sum(channels)
        if not 1 <= num_features <= total:
            msg = (
                f"`n_features` must be between 1 and the number of channels of all layers, "
                f"{total}; got {num_features}."
            )
            raise SettingError(msg)
        self.channels = tuple(channels)
        self.num_features = num_features

    @abc.abstractmethod
    def draw(self, generator: torch.Generator) -> None:
        """Choose the reduction at random."""

    @abc.abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Reduce a batch.

        Args:
            maps: One ``[B, C_l, h_l, w_l]`` per layer, from shallow to deep.

        Returns:
            ``[h * w, B, D]``, float32, on the grid of the first map: position-major, as
            `ad.memory.gaussian` wants it.
        """


@final
class ChannelSubset(Embedding):
    """Keeps some channels as they are.

    Args:
        channels: Channels of each layer's map.
        num_features: ``D``.

    Raises:
        SettingError: If ``num_features`` is more than there are channels or fewer than there are
            layers.

    Source:
        PaDiM, section 3.3: a fixed random choice does better than principal components, because
        directions of small variance tell of defects.
    """

    def __init__(self, channels: Sequence[int], num_features: int) -> None:
        super().__init__(channels, num_features)
        if num_features < len(self.channels):
            msg = (
                f"`n_features` must be at least the number of layers, {len(self.channels)}, for "
                f"a random choice to have a channel of each; got {num_features}."
            )
            raise SettingError(msg)
        for layer, count in enumerate(self.channels):
            name, shape = f"channels_{layer}", (f"n{layer}",)
            learned_buffer(self, name, torch.int64, shape=shape, below=count)

    def draw(self, generator: torch.Generator) -> None:
        """Choose the channels, uniformly among all choices that have a channel of every layer."""
        ends = torch.tensor(self.channels).cumsum(0)
        starts = ends - torch.tensor(self.channels)
        while True:  # a small choice may miss a layer; then another is drawn
            drawn = torch.randperm(int(ends[-1]), generator=generator)[: self.num_features]
            layer = torch.bucketize(drawn, ends, right=True)
            if layer.bincount(minlength=len(self.channels)).all():
                break
        for number, start in enumerate(starts):
            chosen = (drawn[layer == number] - start).sort().values
            setattr(self, f"channels_{number}", chosen.to(self.channels_0.device))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Reduce a batch; see `Embedding.forward`."""
        grid = _grid(maps)
        parts = [
            _on_grid(cells.index_select(-1, self.get_buffer(f"channels_{layer}")).float(), grid)
            for layer, cells in enumerate(_cells_first(maps))
        ]
        return torch.cat(parts, dim=-1).flatten(0, 1)


@final
class LinearProjection(Embedding):
    """Projects all channels linearly; see `Embedding` for the arguments."""

    projection: Tensor
    """``[C, D]``: orthonormal columns."""

    def __init__(self, channels: Sequence[int], num_features: int) -> None:
        super().__init__(channels, num_features)
        learned_buffer(self, "projection", shape=(sum(channels), num_features))

    def draw(self, generator: torch.Generator) -> None:
        """Choose random orthonormal columns, uniformly distributed.

        Source:
            Kim et al., "Semi-orthogonal embedding for efficient unsupervised anomaly
            segmentation", 2021.
        """
        shape = (sum(self.channels), self.num_features)
        q, r = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))
        # Without the signs, QR's own convention would decide where a column points.
        columns = (q * r.diagonal().sign()).float()
        self.projection = columns.contiguous().to(self.projection.device)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Reduce a batch; see `Embedding.forward`."""
        grid = _grid(maps)
        weights = torch.split(self.projection, list(self.channels))
        parts = (
            _on_grid(cells.float() @ weight, grid)
            for cells, weight in zip(_cells_first(maps), weights, strict=True)
        )
        return functools.reduce(torch.add, parts).flatten(0, 1)


def nearest_index(size: int, target: int, device: torch.device) -> Tensor:
    """Which of ``size`` cells each of ``target`` cells takes its value from, ``[target]``."""
    return torch.arange(target, device=device) * size // target


def _grid(maps: Sequence[Tensor]) -> tuple[int, int]:
    height, width = maps[0].shape[-2:]
    return height, width


def _cells_first(maps: Sequence[Tensor]) -> Iterator[Tensor]:
    return (m.permute(2, 3, 0, 1) for m in maps)  # [h_l, w_l, B, C_l]


def _on_grid(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    if cells.shape[:2] == grid:
        return cells
    rows = nearest_index(cells.shape[0], grid[0], cells.device)
    columns = nearest_index(cells.shape[1], grid[1], cells.device)
    return cells[rows[:, None], columns]
