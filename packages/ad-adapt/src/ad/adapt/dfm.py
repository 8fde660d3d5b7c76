"""DFM: a Gaussian in the plane of deep features; the score is what it does not explain.

The maps of one layer of a frozen network, pooled and flattened, are brought down to the principal
components that hold nearly all of their variance over good parts. A picture's score is what lies
beside them, or how unlikely it is within them.

Paper: Ahuja, Ndiour, Kalyanpur, Tickoo, "Probabilistic Modeling of Deep Features for
Out-of-Distribution and Adversarial Detection", NeurIPS workshops 2019, arXiv 1909.11786. Official
code: IntelLabs/dfm, MIT, which by now has the first of both scores alone.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
from torch import Tensor

from ad.core import Field, Name, OnePassTrainer, Setup, Sides, learned_buffer
from ad.core.errors import SettingError
from ad.core.networks import (
    FeatureExtractor,
    SubspaceDetector,
    pictures_of_plane,
    principal_components,
)

ScoreType = Literal["fre", "nll"]

MAX_PICTURES = 4096
"""Pictures the components are computed from; of more, a random choice is taken."""

_LEAST_VARIANCE = 1e-8  # along a component: what is less is rounding


@final
class DfmDetector(SubspaceDetector):
    """Scores a picture by what the components miss of it, or by its place among good ones.

    Args:
        extractor: The frozen network, with one layer.
        pool: Side of the square of cells that are averaged before flattening.
        img_size: Side of the pictures in pixels, or height and width: each feature has its place.
        score_type: ``"fre"``: the square of the distance to the plane, the sum of the map.
            ``"nll"``: twice the negative log-likelihood within the plane, without its constant;
            the map is that of ``"fre"`` all the same, since likelihood has no place in a picture.
    """

    title = "DFM"

    variances: Tensor
    """``[h]``: of good pictures along each component, over ``N``."""

    def __init__(
        self, extractor: FeatureExtractor, *, pool: int, img_size: Sides, score_type: ScoreType
    ) -> None:
        super().__init__(extractor, pool=pool, img_size=img_size)
        self.score_type: ScoreType = score_type
        learned_buffer(self, "variances", shape=("h",))

    def score(self, features: Tensor, cells: Tensor) -> Tensor:
        """One score for each picture; see `SubspaceDetector.score`."""
        if self.score_type == "fre":
            return super().score(features, cells)
        variances = self.variances.clamp_min(_LEAST_VARIANCE)
        return (self.code(features).square() / variances).sum(1) + variances.log().sum()


@final
class DfmTrainer(OnePassTrainer):
    """Collects the features of all normal pictures and takes their principal components.

    Memory: the features in float32, of at most `MAX_PICTURES` pictures. Of more a random part,
    drawn from the seed, is collected, with a warning.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layer: Whose map is looked at.
        score_type: See `DfmDetector`.
        pool: Side of the square of cells that are averaged.
        pca_level: Share of the variance that the components hold: the fewest that hold more.

    Raises:
        SettingError: If an option has a value that cannot work.
        WeightsError: If the backbone has no weights.
    """

    detector: DfmDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "resnet50",
        layer: Name = "layer3",
        score_type: ScoreType = "fre",
        pool: Annotated[int, Field(ge=1, le=256)] = 4,
        pca_level: Annotated[float, Field(gt=0, le=1)] = 0.97,
    ) -> None:
        super().__init__(setup)
        self.pca_level = pca_level
        extractor = FeatureExtractor(backbone, (layer,), setup=setup)
        self.detector = DfmDetector(
            extractor, pool=pool, img_size=setup.img_size, score_type=score_type
        ).to(setup.device)
        self.detector.eval()
        self._wanted: frozenset[int] = frozenset()
        self._seen = 0
        self._collected: list[Tensor] = []

    def begin(self, num_images: int) -> None:
        """Choose which pictures to collect; see `OnePassTrainer.begin`.

        Raises:
            DataError: If there are fewer than two.
        """
        chosen = pictures_of_plane(
            num_images, MAX_PICTURES, seed=self.setup.seed, title=self.detector.title
        )
        self._wanted = frozenset(chosen)
        self._seen = 0
        self._collected = []

    def extract(self, images: Tensor) -> Tensor:
        """Pooled features, flattened, ``[B, D]``; see `OnePassTrainer.extract`."""
        return self.detector.features(images).flatten(1)

    def observe(self, features: Tensor) -> None:
        """Collect a batch's features; see `OnePassTrainer.observe`."""
        first, self._seen = self._seen, self._seen + len(features)
        rows = [row for row in range(len(features)) if first + row in self._wanted]
        self._collected.append(features[rows])

    def conclude(self) -> None:
        """Take the components.

        Raises:
            SettingError: If no picture was observed.
            DataError: If all pictures look the same.
        """
        if not self._collected:
            msg = "DFM cannot learn from 0 pictures; `observe` at least two."
            raise SettingError(msg)
        rows = torch.cat(self._collected)
        self._collected = []
        plane = principal_components(rows, share=self.pca_level)
        self.detector.span(plane)
        # Over N, as in the paper.
        variances = plane.variances * (len(rows) - 1) / len(rows)
        self.detector.variances = variances.to(plane.directions.dtype)
