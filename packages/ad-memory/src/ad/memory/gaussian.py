"""One Gaussian at every position of a feature map, and the Mahalanobis distance to it.

Knows vectors at positions; neither pictures nor networks. Everything is position-major, so that
a batch is one `torch.bmm` over positions.

The covariance is ``S / (N - 1) + eps I`` of ``N`` samples with ``D`` features. It can be had
exactly in two ways; `start_fit` takes the one that stores less:

* `StreamedFit` sums ``D x D`` products while samples pass by: memory ``P D^2``, whatever N is.
* `StoredFit` keeps the samples, ``P N (D + N)``, and never forms a ``D x D`` matrix (Woodbury's
  identity): for few samples.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor, nn

from ad.core import SILENT, Progress, learned_buffer
from ad.core.errors import DataError, ModelFileError, SettingError

_CACHED_VALUES = 2**21
"""Numbers of the factors that are used at a time while distances are measured: 8 MB."""

_CHUNK_VALUES = 2**20
"""Numbers in the float64 working copy of one chunk of positions while fitting: 8 MB."""

_PENDING_SHARE = 1 / 5
"""Memory of the samples that wait, against that of the covariances: each update of these reads
and writes all of them, so it is worth gathering samples first."""


@final
class PositionGaussians(nn.Module):
    """Mahalanobis distances to one Gaussian per position.

    Args:
        eps: What is added to the covariance's diagonal, in squared units of the features.

    Raises:
        SettingError: If ``eps`` is not a positive number.
    """

    mean: Tensor
    """``[P, D]``"""
    factor: Tensor
    """``[P, D, D]``: ``W`` with ``W W^T`` the inverse covariance; or ``[P, N, D + N]``, ``N < D``:
    ``Z`` and ``T`` of `StoredFit`, side by side."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        if not (math.isfinite(eps) and eps > 0):
            msg = f"`eps` must be a positive number, such as 0.01; got {eps}."
            raise SettingError(msg)
        self.eps = eps
        learned_buffer(self, "mean", shape=("P", "D"))
        learned_buffer(self, "factor", shape=("P", "N", "M"))

    def fit(self, samples: GaussianFit, progress: Progress = SILENT) -> None:
        """Take over what was learnt; the samples' memory becomes this module's."""
        self.mean, self.factor = samples.finish(progress)

    def forward(self, samples: Tensor) -> Tensor:
        """Measure how far samples are from what is normal at their position.

        Args:
            samples: ``[P, B, D]``, float32.

        Returns:
            ``[P, B]``: Mahalanobis distances, in standard deviations.

        Raises:
            ModelFileError: If what was loaded is not of the samples' positions and features.
        """
        self._check(samples.shape[0], samples.shape[2])
        if torch.compiler.is_exporting():  # where each chunk would be a part of the graph
            return self._distances(samples - self.mean[:, None], self.factor)
        # In chunks of positions, whose factors and gaps stay in the processor's cache.
        size = max(1, _CACHED_VALUES // self.factor[0].numel())
        chunks = zip(
            torch.split(samples, size),
            torch.split(self.mean, size),
            torch.split(self.factor, size),
            strict=True,
        )
        return torch.cat([self._distances(s - m[:, None], f) for s, m, f in chunks])

    def _check(self, positions: int, features: int) -> None:
        # What was fitted always fits; a file from elsewhere may not, and may broadcast.
        count = self.factor.shape[1]
        width = features if count == features else features + count
        for name, needed in (("mean", (features,)), ("factor", (count, width))):
            shape = tuple(self.get_buffer(name).shape)
            if shape != (positions, *needed):
                msg = (
                    f"The Gaussians' `{name}` is {shape}; {(positions, *needed)} is needed for "
                    f"{positions} positions of {features} features. The saved model was changed; "
                    "take it from the original again."
                )
                raise ModelFileError(msg)

    def _distances(self, gap: Tensor, factor: Tensor) -> Tensor:  # [p, B, D] -> [p, B]
        num_features = gap.shape[-1]
        if factor.shape[-2] == num_features:
            return torch.sqrt(torch.bmm(gap, factor).square_().sum(dim=-1))
        z, t = factor[..., :num_features], factor[..., num_features:]
        inside = torch.bmm(torch.bmm(gap, z.mT), t)  # [p, B, N]
        outside = torch.baddbmm(gap, inside, z, alpha=-1)
        return torch.sqrt(outside.square_().sum(dim=-1) / self.eps)


class GaussianFit(abc.ABC):
    """Takes in samples batch by batch and ends with the tensors of `PositionGaussians`.

    Args:
        num_positions: ``P``.
        num_features: ``D``.
        eps: What is added to the covariance's diagonal.
        device: Where the samples are.
    """

    def __init__(
        self, num_positions: int, num_features: int, eps: float, device: torch.device
    ) -> None:
        self.num_positions = num_positions
        self.num_features = num_features
        self.eps = eps
        self.device = device
        self.count = 0
        """Samples seen at each position."""

    @abc.abstractmethod
    def add(self, samples: Tensor) -> None:
        """Take in ``[P, B, D]``, float32: ``B`` samples for every position."""

    @abc.abstractmethod
    def finish(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """Compute ``mean`` and ``factor``; call it once, after the last sample.

        Raises:
            DataError: If fewer than two samples came.
            SettingError: If ``eps`` is too small to make every covariance invertible.
        """

    def _chunks(self, values_per_position: int, progress: Progress) -> Iterator[slice]:
        if self.count < 2:
            raise too_few(self.count)
        size = max(1, _CHUNK_VALUES // values_per_position)
        with progress.step("covariances", total=self.num_positions, unit="positions") as advance:
            for start in range(0, self.num_positions, size):
                stop = min(start + size, self.num_positions)
                yield slice(start, stop)
                advance(stop - start)


@final
class StreamedFit(GaussianFit):
    """Sums of samples and of their products, both about the mean of the first samples.

    The shift keeps the float32 sums exact to the last digits where features have a large common
    offset. See `GaussianFit` for the arguments.
    """

    def __init__(
        self, num_positions: int, num_features: int, eps: float, device: torch.device
    ) -> None:
        super().__init__(num_positions, num_features, eps, device)
        self._shift = torch.zeros(num_positions, 1, num_features, device=device)
        self._shifted = False
        self._sum = torch.zeros(num_positions, num_features, device=device)
        self._products = torch.zeros(num_positions, num_features, num_features, device=device)
        waiting = max(8, round(_PENDING_SHARE * num_features))
        self._pending = torch.empty(num_positions, waiting, num_features, device=device)
        self._num_pending = 0

    def add(self, samples: Tensor) -> None:
        """Take in samples; see `GaussianFit.add`."""
        waiting = self._pending.shape[1]
        for part in torch.split(samples, waiting, dim=1):
            room = min(part.shape[1], waiting - self._num_pending)
            for piece in (part[:, :room], part[:, room:]):
                end = self._num_pending + piece.shape[1]
                self._pending[:, self._num_pending : end] = piece
                self._num_pending = end
                if end == waiting:
                    self._update()
        self.count += samples.shape[1]

    def covariance(self, positions: slice) -> Tensor:
        """The covariances of some positions, ``[p, D, D]``, float64, ``eps`` included."""
        self._update()
        total = self._sum[positions].double()
        covariance = self._products[positions].double()
        covariance.baddbmm_(total[:, :, None], total[:, None], alpha=-1 / self.count)
        covariance /= self.count - 1
        covariance.diagonal(dim1=-2, dim2=-1).add_(self.eps)
        return covariance

    def finish(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """Replace the sums by the factors, in place; see `GaussianFit.finish`."""
        identity = torch.eye(self.num_features, dtype=torch.float64, device=self.device)
        for chunk in self._chunks(self.num_features**2, progress):
            lower = _cholesky(self.covariance(chunk), self.eps)
            inverse = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False)
            self._products[chunk] = inverse.mT
        mean = self._shift[:, 0] + self._sum / self.count
        return mean, self._products

    def _update(self) -> None:
        if self._num_pending == 0:
            return
        gap = self._pending[:, : self._num_pending]
        if not self._shifted:
            self._shift = gap.mean(dim=1, keepdim=True)
            self._shifted = True
        gap -= self._shift
        self._sum += gap.sum(dim=1)
        self._products.baddbmm_(gap.mT, gap)
        self._num_pending = 0


@final
class StoredFit(GaussianFit):
    """Keeps the samples and inverts ``N x N`` matrices instead of ``D x D`` ones.

    With the centred samples ``X`` (``N x D``), ``c = eps (N - 1)`` and the Cholesky factor
    ``R R^T = X X^T + c I``, Woodbury's identity gives the squared distance of a gap ``d`` as
    ``(|d|^2 - |R^-1 X d|^2) / eps``. That difference of nearly equal numbers loses digits: its
    error grows with the covariance's condition. So the distance is taken as a norm, whose error
    grows with the root of the condition only::

        |d - Z^T T^T Z d|^2 / eps,  Z = R^-1 X,  T = (R + sqrt(c) I)^-1 R

    Source:
        Andrews, "A square root formulation of the Kalman covariance equations", AIAA Journal 6,
        1968, for this factor of Woodbury's inverse.

    Args:
        num_samples: ``N``: how many samples will come.
        num_positions: ``P``.
        num_features: ``D``.
        eps: What is added to the covariance's diagonal.
        device: Where the samples are.
    """

    def __init__(
        self,
        num_samples: int,
        num_positions: int,
        num_features: int,
        eps: float,
        device: torch.device,
    ) -> None:
        super().__init__(num_positions, num_features, eps, device)
        self.num_samples = num_samples
        width = num_features + num_samples
        self._factor = torch.empty(num_positions, num_samples, width, device=device)

    def add(self, samples: Tensor) -> None:
        """Take in samples; see `GaussianFit.add`."""
        end = self.count + samples.shape[1]
        if end > self.num_samples:
            msg = f"{self.num_samples} samples were announced for each position; got {end}."
            raise DataError(msg)
        self._factor[:, self.count : end, : self.num_features] = samples
        self.count = end

    def finish(self, progress: Progress) -> tuple[Tensor, Tensor]:
        """Replace the samples by the factors, in place; see `GaussianFit.finish`."""
        num, features = self.count, self.num_features
        mean = torch.empty(self.num_positions, features, device=self.device)
        factor = self._factor[:, :num, : features + num]
        ridge = self.eps * (num - 1)
        for chunk in self._chunks(num * (features + num), progress):
            rows = factor[chunk, :, :features].double()
            center = rows.mean(dim=1, keepdim=True)
            rows -= center
            gram = torch.bmm(rows, rows.mT)
            gram.diagonal(dim1=-2, dim2=-1).add_(ridge)
            root = _cholesky(gram, self.eps)  # R, [p, N, N]
            mean[chunk] = center[:, 0]
            factor[chunk, :, :features] = torch.linalg.solve_triangular(root, rows, upper=False)
            shifted = root.clone()
            shifted.diagonal(dim1=-2, dim2=-1).add_(math.sqrt(ridge))
            factor[chunk, :, features:] = torch.linalg.solve_triangular(shifted, root, upper=False)
        return mean, factor.contiguous()


def start_fit(
    num_samples: int, num_positions: int, num_features: int, eps: float, device: torch.device
) -> GaussianFit:
    """Choose how to fit: both ways are exact, the one that stores less is taken.

    Args:
        num_samples: ``N``, how many samples will come for each position.
        num_positions: ``P``.
        num_features: ``D``.
        eps: What is added to the covariance's diagonal.
        device: Where the samples will be.

    Raises:
        DataError: If there are fewer than two samples.
    """
    if num_samples < 2:
        raise too_few(num_samples)
    if num_samples * (num_features + num_samples) < num_features**2:
        return StoredFit(num_samples, num_positions, num_features, eps, device)
    return StreamedFit(num_positions, num_features, eps, device)


def too_few(count: int) -> DataError:
    """The error of a training set that is too small for a covariance."""
    return DataError(
        f"A Gaussian needs at least 2 normal pictures; got {count}. "
        "Add pictures of good parts to the training set."
    )


def _cholesky(matrices: Tensor, eps: float) -> Tensor:
    lower: Tensor
    lower, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any():
        msg = (
            f"`eps` = {eps:g} is too small against the features' spread: the covariance of a "
            "position cannot be inverted. Raise it; 0.01 is usual."
        )
        raise SettingError(msg)
    return lower
