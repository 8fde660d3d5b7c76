"""PaDiM: one Gaussian per position over deep features; the score is the Mahalanobis distance.

Features of several layers of a frozen network, brought to one grid and reduced to ``D`` numbers,
are normally distributed at each position of a good part's picture. Parts must lie alike in all
pictures: a position knows only what was seen there.

Paper: Defard, Setkov, Loesch, Audigier, "PaDiM: a Patch Distribution Modeling Framework for
Anomaly Detection and Localization", ICPR workshops 2020, arXiv 2011.08785. No official code.

How the features are reduced (``reduction``):

* ``random``: a fixed random choice of channels, as in the paper;
* ``semi_orth``: a random projection with orthonormal columns (arXiv 2105.14737);
* ``pca``: the principal components of all training patches. The paper found it no better than
  the random choice. Needs a temporary file while it learns: see `ad.memory.patch_pca`.
"""

from __future__ import annotations

from typing import Annotated, final

import torch
from torch import Tensor

from ad.core import Detector, Field, Layers, Name, OnePassTrainer, Prediction, Setup, Size
from ad.core.errors import SettingError
from ad.core.networks import FeatureExtractor, GaussianBlur, Sigma, upsample
from ad.memory.gaussian import GaussianFit, PositionGaussians, start_fit, too_few
from ad.memory.patch_pca import PatchPca
from ad.memory.reduction import ChannelSubset, LinearProjection, Reduction


@final
class PadimDetector(Detector):
    """Scores each pixel by its distance to what is normal at its position.

    Args:
        extractor: The frozen network.
        embedding: Reduces its maps to ``D`` features per position.
        eps: What is added to the covariance's diagonal.
        sigma: Standard deviation of the map's smoothing, in pixels.
        img_size: Height and width of the pictures.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        embedding: ChannelSubset | LinearProjection,
        *,
        eps: float,
        sigma: float,
        img_size: Size,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.embedding = embedding
        self.gaussians = PositionGaussians(eps)
        self.blur = GaussianBlur(sigma)
        self.img_size = img_size

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed Mahalanobis distances, and the largest of each image as its score.

        Raises:
            NotFittedError: If the detector has not been fitted.
            SettingError: If the images are not of the size it was fitted at.
        """
        self.require_fitted()
        size = (images.shape[-2], images.shape[-1])
        if size != self.img_size:
            msg = (
                f"PaDiM knows each position of {self.img_size} pictures; got {size[0]} x "
                f"{size[1]}. Resize the pictures, or train at their size."
            )
            raise SettingError(msg)
        maps = self.extractor(images)
        distances = self.gaussians(self.embedding(maps))  # [h * w, B]
        grid = distances.T.unflatten(1, maps[0].shape[-2:])
        anomaly_map = self.blur(upsample(grid, size))
        return Prediction(anomaly_map.amax(dim=(1, 2)), anomaly_map)


@final
class PadimTrainer(OnePassTrainer):
    """Learns the Gaussians from every normal picture once.

    Memory: the covariances, ``h w D^2`` floats, or with few pictures the features themselves,
    ``h w N (D + N)``, whichever is less; see `ad.memory.gaussian`.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; the first one's grid is the map's.
        reduction: How channels become features.
        n_features: Features per position, ``D``. The paper keeps 100 of ResNet-18's 448 channels
            and 550 of Wide ResNet-50's 1792.
        eps: What is added to the covariance's diagonal, in squared units of the features.
        sigma: Standard deviation of the map's smoothing, in pixels.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: PadimDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer1", "layer2", "layer3"),
        reduction: Reduction = "random",
        n_features: Annotated[int, Field(ge=1, le=2**15)] = 550,
        eps: Annotated[float, Field(ge=1e-12, le=1e6)] = 0.01,
        sigma: Sigma = 4.0,
    ) -> None:
        super().__init__(setup)
        self.reduction = reduction
        extractor = FeatureExtractor(backbone, layers, setup=setup)
        kind = ChannelSubset if reduction == "random" else LinearProjection
        embedding = kind(extractor.channels, n_features)
        self.detector = PadimDetector(
            extractor, embedding, eps=eps, sigma=sigma, img_size=setup.img_size
        ).to(setup.device)
        self.detector.eval()
        self._num_images = 0
        self._fit: GaussianFit | None = None
        self._pca: PatchPca | None = None

    def begin(self, num_images: int) -> None:
        """Draw what is random; see `OnePassTrainer.begin`.

        Raises:
            DataError: If there are fewer than two pictures.
        """
        if num_images < 2:
            raise too_few(num_images)
        self._num_images = num_images
        self._fit = None
        embedding, setup = self.detector.embedding, self.setup
        if self.reduction == "pca":
            self._pca = PatchPca(num_images, embedding.channels, setup.device)
        else:
            embedding.draw(torch.Generator().manual_seed(setup.seed))

    def extract(self, images: Tensor) -> list[Tensor]:
        """The layers' maps; see `OnePassTrainer.extract`."""
        maps: list[Tensor] = self.detector.extractor(images)
        return maps

    def observe(self, maps: list[Tensor]) -> None:
        """Take in one batch; see `OnePassTrainer.observe`.

        Raises:
            OutputError: If the temporary file of ``reduction="pca"`` cannot be written.
        """
        if self._pca is None:
            self._add(maps)
        else:
            self._pca.add(maps)

    def conclude(self) -> None:
        """Fit the Gaussians; see `OnePassTrainer.conclude`.

        Raises:
            DataError: If fewer than two pictures were observed.
            SettingError: If ``eps`` is too small to invert every covariance.
        """
        if self._pca is not None:
            self._conclude_pca(self._pca)
        if self._fit is None:
            raise too_few(0)
        self.detector.gaussians.fit(self._fit, self.setup.progress)
        self._fit = None

    def _conclude_pca(self, pca: PatchPca) -> None:
        embedding = self.detector.embedding
        try:
            embedding.projection = pca.components(embedding.num_features)
            step = self.setup.progress.step("projecting", total=self._num_images, unit="pictures")
            with step as advance:
                for maps in pca.replay():
                    self._add(maps)
                    advance(len(maps[0]))
        finally:
            pca.close()
            self._pca = None

    def _add(self, maps: list[Tensor]) -> None:
        samples = self.detector.embedding(maps)  # [h * w, B, D]
        if self._fit is None:
            positions, _, features = samples.shape
            eps = self.detector.gaussians.eps
            self._fit = start_fit(self._num_images, positions, features, eps, samples.device)
        self._fit.add(samples)
