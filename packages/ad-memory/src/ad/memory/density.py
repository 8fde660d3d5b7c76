"""Gaussian kernel density of vectors, as log-densities that never underflow.

Knows vectors only.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn

from ad.core import learned_buffer
from ad.core.errors import DataError

_JITTER = 1e-6
"""Added to a singular covariance's diagonal, in units of its mean variance."""

_SINGULAR = 1e-10
"""A variance this small against the mean variance, given all others, counts as none."""


@final
class GaussianKde(nn.Module):
    """Log-density of a kernel estimate whose kernel has the data's own covariance.

    The bandwidth is Scott's, ``n^(-1 / (k + 4))`` standard deviations for ``n`` points in ``k``
    dimensions. Points are whitened once, so a query is squared distances and one logsumexp.

    Source:
        Scott, "Multivariate Density Estimation", 1992.
    """

    center: Tensor
    """``[k]``: the mean of the points."""
    whitening: Tensor
    """``[k, k]``: ``A`` with ``A A^T`` the inverse of the kernel's covariance."""
    points: Tensor
    """``[n, k]``: the whitened points."""
    log_norm: Tensor
    """``[]``: log-density of one kernel at its centre, less ``ln n``."""

    def __init__(self) -> None:
        super().__init__()
        learned_buffer(self, "center", shape=("k",))
        learned_buffer(self, "whitening", shape=("k", "k"))
        learned_buffer(self, "points", shape=("n", "k"))
        learned_buffer(self, "log_norm", shape=())

    def fit(self, points: Tensor) -> None:
        """Remember the points.

        Args:
            points: ``[n, k]``, n from 2.

        Raises:
            DataError: If there are fewer than two points, or all are the same.
        """
        n, k = points.shape
        if n < 2:
            msg = f"A density needs at least 2 points; got {n}."
            raise DataError(msg)
        exact = points.double()
        center = exact.mean(dim=0)
        gap = exact - center
        lower = _cholesky(gap.T @ gap / (n - 1)) * n ** (-1 / (k + 4))
        identity = torch.eye(k, dtype=lower.dtype, device=lower.device)
        whitening = torch.linalg.solve_triangular(lower, identity, upper=False).T
        log_det = lower.diagonal().log().sum()
        self.center = center.float()
        self.whitening = whitening.float().contiguous()
        self.points = (gap @ whitening).float()
        self.log_norm = (-math.log(n) - log_det - k / 2 * math.log(2 * math.pi)).float()

    def forward(self, queries: Tensor) -> Tensor:
        """Compute log-densities.

        Args:
            queries: ``[B, k]``, float32.

        Returns:
            ``[B]``: natural logarithms; finite however far a query is.
        """
        whitened = (queries - self.center) @ self.whitening
        # Differences, not the expanded square: that would lose digits near the points.
        square = (whitened[:, None] - self.points).square().sum(dim=-1)  # [B, n]
        return self.log_norm + torch.logsumexp(-0.5 * square, dim=1)


def _cholesky(covariance: Tensor) -> Tensor:
    k = len(covariance)
    mean_variance = covariance.diagonal().sum() / k
    if mean_variance <= 0:
        msg = "All points are the same; a density needs points that differ."
        raise DataError(msg)
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed or lower.diagonal().square().min() < _SINGULAR * mean_variance:
        jitter = _JITTER * mean_variance * torch.eye(k, dtype=lower.dtype, device=lower.device)
        lower = torch.linalg.cholesky(covariance + jitter)
    return lower
