"""From a coarse anomaly map to one in the input's resolution, smoothed as the papers do.

Knows tensors only. Everything here can be exported.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ad.core.errors import SettingError
from ad.core.options import Field

_SMALLEST, _LARGEST = 1e-3, 256.0

Sigma = Annotated[float, Field(ge=_SMALLEST, le=_LARGEST)]
"""Standard deviation of smoothing, in pixels."""

SigmaOrNone = Annotated[float, Field(ge=0, le=_LARGEST)]
"""The same; 0 for no smoothing."""


def upsample(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize anomaly maps bilinearly (``align_corners=False``).

    Args:
        anomaly_map: ``[B, h, w]``, floating point.
        size: Height and width to reach, in pixels.

    Returns:
        ``[B, H, W]``.
    """
    return F.interpolate(anomaly_map[:, None], size=size, mode="bilinear", align_corners=False)[
        :, 0
    ]


def cells_looked_at(looked_at: NDArray[np.bool_], grid: tuple[int, int], *, reach: int) -> Tensor:
    """Which cells of a coarse map have a say in the pixels of a region.

    A cell reaches the pixels within it, those up to the middles of its neighbours, which lie
    between the two, and as far beyond as the map is smoothed.

    Args:
        looked_at: ``[H, W]``: the region, in the input's pixels.
        grid: Height and width of the map, in cells; as many as pixels or fewer.
        reach: How far smoothing reaches, in pixels.

    Returns:
        ``[h, w]``, bool, on the CPU.
    """
    near = torch.from_numpy(np.array(looked_at, dtype=np.float32))[None]
    for axis in (1, 2):  # the largest within reach, one axis after the other
        near = F.max_pool1d(near.transpose(axis, 2), 2 * reach + 1, 1, reach).transpose(axis, 2)
    cells = F.adaptive_max_pool2d(near, grid)
    return F.max_pool2d(cells, 3, 1, 1)[0] > 0


@final
class GaussianBlur(nn.Module):
    """Smooth anomaly maps as `scipy.ndimage.gaussian_filter` does with its defaults.

    The kernel is cut off at 4 sigma and normalised; the border is half-sample symmetric (the
    edge pixel is repeated), however small the map is.

    Each axis is one matmul with a square matrix that has the border folded in; on a CPU that
    is quicker than two depthwise convolutions over a padded map.

    Args:
        sigma: Standard deviation in pixels, from 0.001 to 256.
        radius: How far the kernel reaches, in pixels; 4 sigma by default.
        border: ``symmetric`` repeats the edge pixel, ``reflect`` does not, as torch's padding and
            torchvision's blur.

    Raises:
        SettingError: If ``sigma`` is not.
    """

    def __init__(
        self,
        sigma: float,
        *,
        radius: int | None = None,
        border: Literal["symmetric", "reflect"] = "symmetric",
    ) -> None:
        super().__init__()
        if not _SMALLEST <= sigma <= _LARGEST:
            msg = (
                f"`sigma` must be a positive number of pixels; got {sigma}. It may be from "
                f"{_SMALLEST} to {_LARGEST:g}."
            )
            raise SettingError(msg)
        self.sigma = sigma
        self.radius = int(4 * sigma + 0.5) if radius is None else radius
        """How far the kernel reaches, in pixels."""
        self.border = border

    def forward(self, anomaly_map: Tensor) -> Tensor:
        """Smooth a batch of maps.

        Args:
            anomaly_map: ``[B, H, W]``, float32.

        Returns:
            ``[B, H, W]``.
        """
        height, width = anomaly_map.shape[-2:]
        down = self._matrix(height, anomaly_map)
        across = down if width == height else self._matrix(width, anomaly_map)
        return down @ (anomaly_map @ across.T)

    def _matrix(self, length: int, like: Tensor) -> Tensor:
        if torch.compiler.is_exporting() and isinstance(length, int):  # not one to stay free
            return torch.from_numpy(self._constant(length)).to(like)
        tap = torch.arange(-self.radius, self.radius + 1, device=like.device)
        weight = torch.exp(-0.5 * (tap.to(like.dtype) / self.sigma) ** 2)
        weight = weight / weight.sum()
        source = tap + torch.arange(length, device=like.device)[:, None]  # [length, taps]
        # Beyond its ends the line goes on as mirror images of itself, as often as is needed.
        period, last = 2 * length, 2 * length - 1
        if self.border == "reflect":
            period, last = max(1, 2 * length - 2), 2 * length - 2
        source = source.remainder(period)
        source = torch.minimum(source, last - source)
        matrix = torch.zeros(length, length, device=like.device, dtype=like.dtype)
        return matrix.scatter_add(1, source, weight.expand(length, -1))

    def _constant(self, length: int) -> NDArray[np.float32]:
        """The same matrix of numbers, not of operations that a graph would repeat each time."""
        weight = np.exp(-0.5 * (np.arange(-self.radius, self.radius + 1) / self.sigma) ** 2)
        line = np.pad(np.eye(length), ((self.radius, self.radius), (0, 0)), mode=self.border)
        matrix = np.zeros((length, length))
        for tap, share in enumerate(weight / weight.sum()):
            matrix += share * line[tap : tap + length]
        return matrix.astype(np.float32)
