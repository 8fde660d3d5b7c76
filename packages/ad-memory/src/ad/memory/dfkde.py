"""DFKDE: a kernel density over pooled deep features; the score is the negative log-density.

Features of a frozen network, averaged over the picture, centred, projected to a few principal
components and brought to one scale, follow a density that a Gaussian kernel estimate gives. It
judges whole pictures and cannot say where a defect is.

There is no paper: a baseline known from the anomalib library.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal, final

import torch
from torch import Tensor

from ad.core import (
    FROM_MODEL_FILE,
    Detector,
    Field,
    Layers,
    Name,
    OnePassTrainer,
    Prediction,
    Setup,
    learned_buffer,
)
from ad.core.errors import DataError, ModelFileError, SettingError
from ad.core.networks import FeatureExtractor, principal_components
from ad.memory.density import GaussianKde

Scaling = Literal["scale", "norm"]


@final
class DfkdeDetector(Detector):
    """Scores whole pictures by how unlikely their pooled features are.

    Args:
        extractor: The frozen network.
        scaling: ``scale`` divides by the largest length among the normal pictures, ``norm`` by
            each vector's own length.
    """

    localises: ClassVar[bool] = False

    mean: Tensor
    """``[F]``: mean of the pooled features."""
    components: Tensor
    """``[F, k]``: principal components."""
    length: Tensor
    """``[]``: largest length of a projected normal picture."""

    def __init__(self, extractor: FeatureExtractor, *, scaling: Scaling) -> None:
        super().__init__()
        self.extractor = extractor
        self.scaling = scaling
        features = sum(extractor.channels)
        learned_buffer(self, "mean", shape=(features,))
        learned_buffer(self, "components", shape=(features, "k"))
        learned_buffer(self, "length", shape=())
        self.density = GaussianKde()

    def pool(self, images: Tensor) -> Tensor:
        """Average each layer's map and join the layers, ``[B, F]``, float32."""
        maps = self.extractor(images)
        return torch.cat([m.float().mean(dim=(2, 3)) for m in maps], dim=1)

    def project(self, features: Tensor) -> Tensor:
        """Bring pooled features, ``[B, F]``, to where the density lives, ``[B, k]``."""
        vectors = (features - self.mean) @ self.components
        if self.scaling == "scale":
            return vectors / self.length
        tiny = torch.finfo(vectors.dtype).tiny  # a picture at the mean has no direction
        lengths: Tensor = vectors.norm(dim=1, keepdim=True).clamp_min(tiny)
        return vectors / lengths

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Negative natural log-densities, and no map.

        Raises:
            NotFittedError: If the detector has not been fitted.
            ModelFileError: If components and density that were loaded are not of one size.
        """
        self.require_fitted()
        kept, known = self.components.shape[1], len(self.density.center)
        if kept != known:  # never of one training; a single number would broadcast
            msg = (
                f"DFKDE projects to {kept} components and its density knows {known}. The saved "
                "model was changed; take it from the original again."
            )
            raise ModelFileError(msg)
        log_density: Tensor = self.density(self.project(self.pool(images)))
        return Prediction(-log_density, None)


@final
class DfkdeTrainer(OnePassTrainer):
    """Learns the components and the density from every normal picture once.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; their pooled features are joined.
        pre_trained: Whether the backbone's weights are pretrained; if not, it is built from the
            seed, as with ``weights="random"``.
        n_components: Principal components, ``k``; with ``N`` pictures at most ``N - 1`` are used.
        scaling: See `DfkdeDetector`.
        max_points: Pictures that the density remembers; of more, a random choice is taken.

    Raises:
        SettingError: If an option has a value that cannot work, or a weights file is named
            although ``pre_trained`` is off.
        WeightsError: If the backbone has no weights.
    """

    detector: DfkdeDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layers: Layers = ("layer4",),
        pre_trained: bool = True,
        n_components: Annotated[int, Field(ge=1, le=4096)] = 16,
        scaling: Scaling = "scale",
        max_points: Annotated[int, Field(ge=2, le=10**6)] = 40_000,
    ) -> None:
        super().__init__(setup)
        if not pre_trained:
            setup = _without_pretraining(setup)
        self.n_components = n_components
        self.max_points = max_points
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        self.detector = DfkdeDetector(extractor, scaling=scaling).to(setup.device)
        self.detector.eval()
        self._kept: frozenset[int] | None = None  # indices of the pictures to keep; None for all
        self._seen = 0
        self._features: list[Tensor] = []

    def begin(self, num_images: int) -> None:
        """Choose which pictures to keep; see `OnePassTrainer.begin`.

        Raises:
            DataError: If there are fewer than two pictures.
        """
        if num_images < 2:
            raise _too_few(num_images)
        self._seen, self._features, self._kept = 0, [], None
        if num_images > self.max_points:
            generator = torch.Generator().manual_seed(self.setup.seed)
            order = torch.randperm(num_images, generator=generator)
            self._kept = frozenset(order[: self.max_points].tolist())

    def extract(self, images: Tensor) -> Tensor:
        """Pooled features ``[B, D]``; see `OnePassTrainer.extract`."""
        return self.detector.pool(images)

    def observe(self, features: Tensor) -> None:
        """Keep one batch, or what was drawn of it; see `OnePassTrainer.observe`."""
        rows = range(self._seen, self._seen + len(features))
        self._seen = rows.stop
        if self._kept is not None:
            features = features[torch.tensor([row in self._kept for row in rows])]
        self._features.append(features)

    def conclude(self) -> None:
        """Fit components and density; see `OnePassTrainer.conclude`.

        Raises:
            DataError: If fewer than two pictures were observed, or all look the same.
        """
        count = sum(len(features) for features in self._features)
        if count < 2:
            raise _too_few(count)
        detector = self.detector
        features = torch.cat(self._features).double()
        plane = principal_components(features, min(self.n_components, count - 1))
        components = plane.directions.T
        detector.mean, detector.components = plane.mean.float(), components.float().contiguous()
        detector.length = ((features - plane.mean) @ components).norm(dim=1).amax().float()
        detector.density.fit(detector.project(features.float()))
        self._features = []


def _without_pretraining(setup: Setup) -> Setup:
    if setup.weights == FROM_MODEL_FILE:
        return setup
    if setup.weights not in ("auto", "random"):
        msg = (
            f"`pre_trained=False` builds the backbone from the seed, but `weights` names the file "
            f"`{setup.weights}`. Leave out one of the two."
        )
        raise SettingError(msg)
    return dataclasses.replace(setup, weights="random")


def _too_few(count: int) -> DataError:
    return DataError(
        f"DFKDE needs at least 2 normal pictures; got {count}. "
        "Add pictures of good parts to the training set."
    )
