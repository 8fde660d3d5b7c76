"""Rows along their principal axes, of which a few hold most of what tells them apart."""

from __future__ import annotations

import torch
from torch import Tensor


def leading_axes(rows: Tensor, centre: Tensor, share: float, *, multiple_of: int = 1) -> Tensor:
    """Principal axes of the rows with a share of their variance, ``[D, r]``, float64.

    Args:
        rows: ``[N, D]``.
        centre: ``[D]``: their mean.
        share: Of the variance, from 0 to 1.
        multiple_of: What ``r + 1`` is a multiple of, by more axes, as long as there are more.
    """
    covariance = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for some in torch.split(rows, 16384):
        centred = some.double() - centre
        covariance.addmm_(centred.T, centred)
    variance, axes = torch.linalg.eigh(covariance)  # ascending
    so_far = variance.clamp_min(0).flip(0).cumsum(0)
    kept = int((so_far < share * so_far[-1]).sum()) + 1
    kept = min(len(axes), -(-(kept + 1) // multiple_of) * multiple_of - 1)
    leading: Tensor = axes.flip(1)[:, :kept].contiguous()
    return leading


def along(centred: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of rows along some axes, and how long they are across these.

    By the triangle inequality rows of both are no farther from each other than the rows are.

    Args:
        centred: ``[N, D]``, float64.
        axes: ``[D, r]``, orthonormal, float64.

    Returns:
        ``[N, r]`` and ``[N, 1]``.
    """
    leading = centred @ axes
    rest = centred.square().sum(1, keepdim=True) - leading.square().sum(1, keepdim=True)
    return leading, rest.clamp_min_(0).sqrt_()
