"""PatchCore: a memory of normal patches; the score is the distance to the nearest of them.

Mid-level features of a frozen network, averaged over neighbouring cells, describe the patches of
a picture. A coreset of the patches of good parts is remembered. A patch far from all of them is
anomalous, wherever it lies, so parts need not be aligned.

Paper: Roth, Pemula, Zepeda, Schoelkopf, Brox, Gehler, "Towards Total Recall in Industrial Anomaly
Detection", CVPR 2022, arXiv 2106.08265. Official code: amazon-science/patchcore-inspection,
Apache-2.0; its scores are squared distances, ours are distances.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Literal, final

import torch
from torch import Tensor

from ad.core import (
    Advance,
    Detector,
    Field,
    Layers,
    Name,
    OnePassTrainer,
    Prediction,
    Setup,
    renamed,
)
from ad.core.errors import DataError, SettingError
from ad.core.networks import (
    ConcatenatedPatches,
    FeatureExtractor,
    GaussianBlur,
    PooledPatches,
    cells_looked_at,
    upsample,
)
from ad.memory.coreset import (
    k_center_greedy,
    k_center_greedy_of_folds,
    k_means_medoids,
    project,
    random_rows,
)
from ad.memory.faiss_index import FaissSettings, Kind
from ad.memory.neighbors import NearestNeighbors, as_stored
from ad.memory.recall import Recall, measured

Embedding = Annotated[
    Literal["pooled", "concatenated"],
    # Numbers of features that only a Wide ResNet-50 has.
    renamed({"official1024": "pooled", "concat1536": "concatenated"}),
]
Coreset = Literal["greedy", "random", "kmeans"]
Score = Literal["max", "reweight"]
Knn = Literal["torch", "faiss"]
Precision = Annotated[
    Literal["exact"],
    renamed(
        {"fast": "exact"},
        told="`knn_precision=fast` had become slower than the exact search and is gone: the search "
        "is exact. Leave it out; for a search that is not exact: `--set knn=faiss --set "
        "index=hnsw`.",
    ),
]

MAX_PATCHES = 1_000_000
"""Patches that are kept for choosing the coreset; of more, a random part is."""

_SIGMA = 4.0  # of the map's smoothing, in pixels
_REWEIGHT_NEIGHBORS = 9  # b of the paper's equation 7


@final
class PatchcoreDetector(Detector):
    """Scores each patch by its distance to the remembered ones.

    Args:
        extractor: The frozen network.
        embedding: How its maps become patches.
        n_neighbors: Over how many nearest patches the distance is averaged.
        score: ``"max"``: an image's score is its largest patch score, before smoothing.
            ``"reweight"``: that distance is lowered where the remembered patches are sparse.
        faiss: How faiss searches; None for the exact search of `ad.memory.neighbors`.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        *,
        embedding: Embedding,
        n_neighbors: int,
        score: Score,
        faiss: FaissSettings | None,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        kind = PooledPatches if embedding == "pooled" else ConcatenatedPatches
        self.patches = kind(extractor.channels)
        self.memory = NearestNeighbors(faiss=faiss)
        self.blur = GaussianBlur(_SIGMA)
        self.n_neighbors = n_neighbors
        self.score: Score = score

    def embed(self, images: Tensor) -> Tensor:
        """Describe the patches of images.

        Returns:
            ``[B, h, w, D]``, float32.
        """
        patches: Tensor = self.patches(self.extractor(images))
        return patches

    def forward(self, images: Tensor) -> Prediction:
        """Score a batch; see `Detector.forward`.

        Returns:
            Smoothed distances in the units of the features; an image's score comes from the
            distances before smoothing.

        Raises:
            NotFittedError: If the detector has not been fitted.
        """
        self.require_fitted()
        patches = self.embed(images)
        batch, height, width, _ = patches.shape
        rows = patches.flatten(0, 2)  # [B h w, D]
        k = min(self.n_neighbors, len(self.memory.bank))
        distance, neighbor = self.memory(rows, k)
        patch_score = distance.mean(1).view(batch, height * width)
        score, worst = patch_score.max(1)
        if self.score == "reweight":
            worst = worst + torch.arange(batch, device=worst.device) * (height * width)
            score = self._reweighted(rows[worst], score, distance[worst, 0], neighbor[worst, 0])
        size = (images.shape[2], images.shape[3])
        anomaly_map = self.blur(upsample(patch_score.view(batch, height, width), size))
        return Prediction(score, anomaly_map)

    def prepare_export(self) -> tuple[str, ...]:
        """Have it search as its graph will; see `Detector.prepare_export`."""
        faiss, self.memory.faiss = self.memory.faiss, None
        self.memory.forget_index()
        if faiss is None or faiss.index == "flat":
            return ()
        how = faiss.described(len(self.memory.bank))
        return (f"The graph goes through the whole bank: it is exact, which faiss ({how}) is not.",)

    def _reweighted(
        self, patch: Tensor, score: Tensor, distance: Tensor, nearest: Tensor
    ) -> Tensor:
        """Equation 7: times 1 - exp(distance to the nearest) / the sum over its neighbours.

        Args:
            patch: ``[B, D]``: the worst patch of each image.
            score: ``[B]``: its score.
            distance: ``[B]``: to the nearest remembered patch.
            nearest: ``[B]``, int64: which that is.
        """
        bank = self.memory.bank
        _, around = self.memory(bank[nearest].float(), min(_REWEIGHT_NEIGHBORS, len(bank)))
        # The nearest is its own first neighbour, unless its equals took all the places.
        first = torch.where((around == nearest[:, None]).any(1), around[:, 0], nearest)
        around = torch.cat([first[:, None], around[:, 1:]], 1)
        distances = (patch[:, None] - bank[around].float()).square().sum(2).sqrt()  # [B, b]
        share = torch.exp(distance - torch.logsumexp(distances, 1))
        return (1 - share) * score


@final
class PatchcoreTrainer(OnePassTrainer):
    """Collects the patches of all normal pictures and keeps a coreset of them.

    Memory: the patches in float16, at most `MAX_PATCHES`, and some 750 bytes each for choosing
    the coreset. Of more patches a random part, drawn from the seed, is collected, with a warning.

    Args:
        setup: What the run sets.
        backbone: A timm model name.
        layers: From shallow to deep; the first one's grid is the map's.
        embedding: ``"pooled"``: the authors' pooling to 1024 features. ``"concatenated"``: the
            layers' averages side by side, as many features as they have channels.
        coreset_ratio: Part of the patches that is remembered.
        coreset: ``"greedy"``: the farthest from all before, again and again, as in the paper.
            ``"kmeans"``: the medoids of clusters. ``"random"``: any.
        proj_dim: To how many dimensions patches are projected at random while the coreset is
            chosen; 0 for none, which is slower and often scores a little better.
        n_neighbors: Over how many nearest patches a distance is averaged; the paper's 1.
        score: ``"max"`` as in the authors' code, ``"reweight"`` as in the paper's equation 7.
        knn_precision: ``"exact"``; there is no other any more.
        knn: What searches: ``"torch"``, exactly, or ``"faiss"``, which needs the extra of that
            name.
        index: Of faiss: ``"flat"`` is exact, ``"ivf"`` and ``"hnsw"`` look at some rows. How many
            nearest those find of patches that were learnt from is measured and noted.
        nlist: Cells of ``"ivf"``; 0 for 4 times the root of the bank's rows.
        nprobe: Cells of ``"ivf"`` that are looked into.
        hnsw_m: Neighbours of a row in the graph of ``"hnsw"``.
        ef_search: Candidates that a walk in that graph keeps.

    Raises:
        SettingError: If an option has a value that cannot work.
        MissingExtraError: If faiss is asked for and not installed.
        WeightsError: If the backbone has no weights.
    """

    detector: PatchcoreDetector

    def __init__(
        self,
        setup: Setup,
        *,
        backbone: Name = "wide_resnet50_2",
        layers: Layers = ("layer2", "layer3"),
        embedding: Embedding = "pooled",
        coreset_ratio: Annotated[float, Field(gt=0, le=1)] = 0.1,
        coreset: Coreset = "greedy",
        proj_dim: Annotated[int, Field(ge=0, le=2**13)] = 128,
        n_neighbors: Annotated[int, Field(ge=1, le=1000)] = 1,
        score: Score = "max",
        knn_precision: Precision = "exact",
        knn: Knn = "torch",
        index: Kind = "flat",
        nlist: Annotated[int, Field(ge=0, le=2**20)] = 0,
        nprobe: Annotated[int, Field(ge=1, le=2**20)] = 16,
        hnsw_m: Annotated[int, Field(ge=2, le=512)] = 16,
        ef_search: Annotated[int, Field(ge=1, le=2**20)] = 32,
    ) -> None:
        super().__init__(setup)
        faiss = FaissSettings(index, nlist, nprobe, hnsw_m, ef_search)
        if knn != "faiss" and index != "flat":
            msg = (
                f"`index={index}` is an index of faiss, and `knn` is `{knn}`. Choose `knn=faiss`, "
                "or leave `index` out: `torch` searches exactly."
            )
            raise SettingError(msg)
        self.coreset_ratio = coreset_ratio
        self.coreset: Coreset = coreset
        self.proj_dim = proj_dim
        self._detector = partial(
            PatchcoreDetector,
            FeatureExtractor(backbone, layers, setup=setup),
            embedding=embedding,
            n_neighbors=n_neighbors,
            score=score,
            faiss=faiss if knn == "faiss" else None,
        )
        self.detector = self._detector().to(setup.device)
        self.detector.eval()
        self._num_images = 0
        self._collected: _Collected | None = None
        self._cells: Tensor | None = None
        self._recall: Recall | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """How much an index that is not exact finds; see `Trainer.notes`."""
        return () if self._recall is None else (self._recall.told(),)

    def begin(self, num_images: int) -> None:
        """Forget what was collected before; see `OnePassTrainer.begin`."""
        self._num_images = num_images
        self._collected = None
        self._cells = None

    def extract(self, images: Tensor) -> Tensor:
        """Patches ``[B, h, w, D]``; see `OnePassTrainer.extract`."""
        return self.detector.embed(images)

    def observe(self, patches: Tensor) -> None:
        """Collect a batch's patches; see `OnePassTrainer.observe`.

        Raises:
            DataError: If a feature is no finite number, or beyond float16.
        """
        if self._collected is None:
            _, height, width, num_features = patches.shape
            self._cells = self._counting(height, width).to(patches.device)
            total = self._num_images * int(self._cells.sum())
            self._collected = _Collected(total, num_features, seed=self.setup.seed)
        self._collected.add(patches[:, self._cells].flatten(0, 1))

    def _counting(self, height: int, width: int) -> Tensor:
        """Cells whose patches count, ``[h, w]``: all, or those that the region's pixels hear of.

        Those beside the region that a smoothed map mixes into it count, too: if they were not
        remembered, they would be far from all that is, and its rim would always be anomalous.
        """
        looked_at = self.setup.looked_at
        if looked_at is None:
            return torch.ones(height, width, dtype=torch.bool)
        return cells_looked_at(looked_at, (height, width), reach=self.detector.blur.radius)

    def conclude(self) -> None:
        """Choose the coreset and remember it.

        Raises:
            SettingError: If no picture was observed.
            DataError: If all features are so small that float16 has no digits for them.
        """
        if self._collected is None:
            msg = "PatchCore cannot learn from 0 pictures; `observe` at least one."
            raise SettingError(msg)
        patches = self._collected.rows()
        n = max(1, int(self.coreset_ratio * len(patches)))
        with self.setup.progress.step("coreset", total=n, unit="patches") as advance:
            chosen = self._choose(patches, n, advance)
        memory = self.detector.memory
        memory.remember(patches[chosen].to(self.setup.device))
        self._collected = None
        if memory.faiss is not None and memory.faiss.index != "flat":
            k = min(self.detector.n_neighbors, n)
            with self.setup.progress.step("recall", total=1, unit="measurement") as advance:
                self._recall = measured(memory, patches, chosen, k, seed=self.setup.seed)
                advance(1)

    def fit_folds(self, folds: Sequence[tuple[int, Iterator[Tensor]]]) -> Iterator[Detector] | None:
        """Choose all folds' coresets from patches that are there once; see `OnePassTrainer`.

        Not of more than `MAX_PATCHES`, of which each fold draws its own part.
        """
        if self.coreset != "greedy" or self.coreset_ratio == 1 or self.setup.device.type != "cpu":
            return None
        self.begin(sum(count for count, _ in folds))
        parts = []
        for _, batches in folds:
            first = 0 if self._collected is None else self._collected.filled
            largest = 0.0
            for patches in batches:
                if self._num_images * patches[0, ..., 0].numel() > MAX_PATCHES:
                    return None
                self.observe(patches)
                largest = max(largest, float(patches.abs().max()))
            last = 0 if self._collected is None else self._collected.filled
            parts.append((first, last, largest))
        assert self._collected is not None  # no fold is empty
        return self._fitted(self._collected.rows(), parts)

    def _fitted(
        self, patches: Tensor, parts: Sequence[tuple[int, int, float]]
    ) -> Iterator[Detector]:
        """For each part of the patches a detector that remembers others.

        Args:
            patches: All of them.
            parts: Where each part begins and ends, and its largest feature.
        """
        for own in range(len(parts)):
            _check_digits(max(part[2] for number, part in enumerate(parts) if number != own))
        rows, seed = torch.arange(len(patches)), self.setup.seed
        others = [torch.cat([rows[:first], rows[last:]]) for first, last, _ in parts]
        counts = [max(1, int(self.coreset_ratio * len(known))) for known in others]
        compared = project(patches, num_dims=self.proj_dim, seed=seed) if self.proj_dim else patches
        chosen = k_center_greedy_of_folds(compared, others, counts, seed=seed)
        for known, picks in zip(others, chosen, strict=True):
            detector = self._detector()
            detector.memory.remember(patches[known[picks]])
            yield detector

    def _choose(self, patches: Tensor, n: int, advance: Advance) -> Tensor:
        seed = self.setup.seed
        if self.coreset == "random" or n == len(patches):
            chosen = random_rows(patches, n, seed=seed)
            advance(n)
            return chosen
        compared = project(patches, num_dims=self.proj_dim, seed=seed) if self.proj_dim else patches
        if self.setup.device.type == "cuda":
            compared = compared.to(self.setup.device)
        select = k_center_greedy if self.coreset == "greedy" else k_means_medoids
        return select(compared, n, seed=seed, advance=advance).cpu()


@final
class _Collected:
    """Patches in float16, in memory that was reserved for all of them at once."""

    def __init__(self, total: int, num_features: int, *, seed: int) -> None:
        self.seen = 0
        self.filled = 0
        self.largest = 0.0
        self.kept: Tensor | None = None  # which of all patches, ascending; None for all
        if total > MAX_PATCHES:
            generator = torch.Generator().manual_seed(seed)
            self.kept = torch.randperm(total, generator=generator)[:MAX_PATCHES].sort().values
            warnings.warn(
                f"{total:,} patches are more than the {MAX_PATCHES:,} that PatchCore chooses its "
                "coreset from; a random part of that size is used.",
                stacklevel=2,
            )
        self._rows = torch.empty(min(total, MAX_PATCHES), num_features, dtype=torch.float16)

    def add(self, patches: Tensor) -> None:
        first, self.seen = self.seen, self.seen + len(patches)
        if self.kept is not None:
            low, high = torch.searchsorted(self.kept, torch.tensor([first, self.seen])).tolist()
            patches = patches[(self.kept[low:high] - first).to(patches.device)]
        new = slice(self.filled, self.filled + len(patches))
        self._rows[new] = as_stored(patches)
        self.filled = new.stop
        if len(patches):
            self.largest = max(self.largest, float(patches.abs().max()))

    def rows(self) -> Tensor:
        _check_digits(self.largest)
        return self._rows[: self.filled]


def _check_digits(largest: float) -> None:
    if 0 < largest < torch.finfo(torch.float16).tiny:
        msg = (
            f"No feature is larger than {largest:.2g}: patches are stored in float16, which has no "
            "digits left there. Choose other `layers` or another `backbone`, or a model that "
            "stores float32, such as `padim`."
        )
        raise DataError(msg)
