"""A saved detector at work: pictures in, scores, verdicts and heat maps out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray

from ad.core.data.batches import Batch, PictureSet, to_device
from ad.core.detector import Detector, wrong_prediction
from ad.core.errors import PluginError, SettingError
from ad.core.framing import Framing
from ad.core.predict.config import ModelConfig
from ad.runtime.conditions import other_tiles
from ad.runtime.findings import Finding as Finding
from ad.runtime.findings import all_findings, check_batch_size, findings_of, least_area
from ad.runtime.framing.size import Size
from ad.runtime.framing.tiles import Joined
from ad.runtime.pictures.opening import said
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Progress
from ad.runtime.sources import Inputs, find_sources

if TYPE_CHECKING:
    from ad.core.predict.compiled import CompiledForm


@final
class LoadedDetector:
    """A fitted detector with its threshold, ready for pictures of any size.

    Attributes:
        detector: The `torch.nn.Module` itself: ``[B, 3, H, W]`` in [0, 1] to scores and maps.
        config: What it is.
        compiled: Its compiled form, which then scores in its place; None without one.
    """

    def __init__(self, detector: Detector, config: ModelConfig, device: torch.device) -> None:
        self.detector = detector.to(device).eval().requires_grad_(False)
        self.config = config
        self.device = device
        self.compiled: CompiledForm | None = None

    @property
    def threshold(self) -> float | None:
        """Score above which a picture is called anomalous; None without calibration."""
        return self.config.calibration.threshold if self.config.calibration else None

    @property
    def localises(self) -> bool:
        """Whether there are maps."""
        return self.detector.localises

    def compile(self, progress: Progress = SILENT) -> None:
        """Score by the detector's compiled form from here on; see `load`."""
        from ad.core.predict.compiled import CompiledForm, reason

        try:
            size = self.config.framing.size
            self.compiled = CompiledForm(self.detector, size, self.device, progress)
        except Exception as error:  # whatever torch's compiler raises: this machine lacks something
            warnings.warn(
                f"`{self.config.model}` cannot be compiled here ({reason(error)}): it runs as it "
                "is. On a CPU, torch needs a C++ compiler, such as g++.",
                stacklevel=3,
            )

    def predict(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 8,
        min_area: int | None = None,
        outlines: bool = False,
        every: int | str | None = None,
        progress: Progress = SILENT,
    ) -> list[Finding]:
        """Score pictures.

        Args:
            inputs: A picture's path, a folder (searched with its sub-folders), a video's path
                (which stands for its frames), a PIL image, the bytes of a picture's file, an array
                as `rgb_array` in `ad.runtime.pictures.reading` takes it, ``[N, H, W, 3]`` for
                several, or a sequence of such. The same picture has the same score, whatever it
                comes as.
            batch_size: Pictures scored at once; does not change the results.
            min_area: Leave out regions of fewer pixels of the picture; None for none.
            outlines: Whether to ask for the detector's own outline, too, which takes its time.
            every: Of videos, only every n-th frame (``10``), or the first of each stretch of time
                (``"0.5s"``, ``"40ms"``); None for all.
            progress: Where to show how far it is.

        Returns:
            One finding per picture, in the order given; folders in the order of their paths. A
            picture that cannot be read has its ``error`` set.

        Raises:
            DataError: If there is no picture, or a path does not exist.
            MissingExtraError: If there is a video, and PyAV is not installed.
            SettingError: If the batch size, the area or the choice of frames cannot be.
        """
        return all_findings(
            self.stream(
                inputs,
                batch_size=batch_size,
                min_area=min_area,
                outlines=outlines,
                every=every,
                progress=progress,
            )
        )

    def stream(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 8,
        min_area: int | None = None,
        outlines: bool = False,
        every: int | str | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[Finding]:
        """Like `predict`, one finding at a time: for more pictures than fit into memory.

        There is a warning, once, if pictures are cut and one has another number of tiles than those
        that the threshold is from.
        """
        check_batch_size(batch_size)
        config = self.config
        least = self.least_area(min_area)
        sources = find_sources(inputs, white=config.white_level, every=every)
        with progress.step("predicting", total=len(sources), unit="pictures") as advance:
            told = False
            for batch, scores, maps in self.scored(sources, batch_size, on_error="record"):
                for index in () if told else batch.indices:
                    if (other := self.other_tiles(sources[index])) is not None:
                        warnings.warn(other, stacklevel=2)
                        told = True
                        break
                outlined = self.outline(batch.pictures) if outlines else None
                found = findings_of(
                    sources,
                    batch,
                    scores,
                    maps,
                    config.calibration,
                    framing=config.framing,
                    min_area=least,
                    outlines=outlined,
                )
                yield from found
                advance(len(found))

    def least_area(self, min_area: int | None) -> int:
        """The area of the smallest region that is told; see `ad.runtime.findings.least_area`."""
        config = self.config
        return least_area(min_area, config.calibration, name=config.model, localises=self.localises)

    def scored(
        self,
        sources: Sequence[Source],
        batch_size: int,
        *,
        order: Sequence[int] | None = None,
        on_error: Literal["raise", "record"] = "raise",
    ) -> Iterator[tuple[Batch, NDArray[np.float32], NDArray[np.float32] | None]]:
        """Read and score pictures; those that are cut into tiles one by one, a batch of tiles each.

        Args:
            sources: Files, images or arrays.
            batch_size: Pictures, or tiles, scored at once.
            order: Which pictures, in which order; all by default.
            on_error: Whether a picture that cannot be read is raised or recorded in its batch.

        Yields:
            A batch with its scores ``[B]`` and maps ``[B, H, W]`` as `score` gives them. Where
            pictures are cut it has one picture, scaled, and the map of that.

        Raises:
            PictureError: Of the first picture that cannot be read, if ``on_error`` is ``raise``.
        """
        framing, white = self.config.framing, self.config.white_level
        if framing.tiling is None:
            pictures = framing.pictures(sources, white=white)
            for batch in pictures.batches(batch_size, order=order, on_error=on_error):
                yield batch, *self.score(batch.pictures)
            return
        for batch in framing.uncut(sources, white=white).batches(1, order=order, on_error=on_error):
            if not batch.indices:
                yield batch, *self.score(batch.pictures)
                continue
            (index,) = batch.indices
            score, map_ = self._score_tiles(sources[index], batch.pictures[0].numpy(), batch_size)
            yield batch, np.array([score], np.float32), None if map_ is None else map_[None]

    def _score_tiles(
        self, source: Source, picture: NDArray[np.uint8], batch_size: int
    ) -> tuple[float, NDArray[np.float32] | None]:
        """Score a picture that is cut: the largest score of its tiles, and their joined map."""
        framing = self.config.framing
        assert framing.tiling is not None
        places = framing.places(source)
        joined = Joined(framing.tiling, Size(*picture.shape[:2]))
        highest = -np.inf
        for start in range(0, len(places), batch_size):
            some = places[start : start + batch_size]
            tiles = np.stack([framing.tiling.cut(picture, place) for place in some])
            scores, maps = self.score(torch.from_numpy(tiles))
            highest = max(highest, float(scores.max()))
            for place, map_ in zip(some, () if maps is None else maps, strict=maps is not None):
                joined.add(place, map_)
        if not self.detector.localises:
            check_localises(self.detector, framing, self.config.model)
            return highest, None
        map_ = joined.map()
        if framing.region is None:
            return highest, map_
        counted = framing.counted(source)
        return float(map_[counted].max()), np.where(counted, map_, np.float32(np.nan))

    def other_tiles(self, source: Source) -> str | None:
        """Say so if a picture has another number of tiles than those the threshold is from.

        Raises:
            PictureError: If its size cannot be read.
        """
        where = self.config.calibrated_on
        if self.config.calibration is None or where is None or where.tiles is None:
            return None
        name = "The array" if isinstance(source, np.ndarray) else said("picture", source)
        return other_tiles(name, len(self.config.framing.places(source)), where.tiles, "RUN")

    def pictures(self, sources: Sequence[Source]) -> PictureSet:
        """Pictures as this detector sees them: at its size, by its white level."""
        return self.config.framing.pictures(sources, white=self.config.white_level)

    def score(
        self, pictures: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Score one batch of decoded pictures.

        Args:
            pictures: ``[B, H, W, 3]``, uint8, at the detector's size; ``B`` may be 0.

        Returns:
            Scores ``[B]`` and maps ``[B, H, W]``, or None for maps if it cannot localise. With a
            region of interest a score is the largest of the map inside it, and the map is NaN
            outside.

        Raises:
            SettingError: If there is a region of interest and it cannot localise.
            PluginError: If what the model gives is not of the form that was promised.
        """
        if len(pictures) == 0:
            empty = np.zeros((0, *self.config.framing.size), dtype=np.float32)
            return empty[:, 0, 0], empty if self.detector.localises else None
        with torch.inference_mode():
            images = to_device(pictures, self.device)  # here: see `CompiledForm`
            prediction = (self.compiled or self.detector)(images)
        if wrong := wrong_prediction(prediction, images, localises=self.detector.localises):
            name = self.config.model
            msg = f"Model `{name}` breaks a promise: {wrong}. `ad check {name}` tries it whole."
            raise PluginError(msg)
        looked_at = self.config.framing.looked_at
        if prediction.map is None:
            check_localises(self.detector, self.config.framing, self.config.model)
            return prediction.score.float().cpu().numpy(), None
        maps = prediction.map.float().cpu().numpy()
        if looked_at is None:
            return prediction.score.float().cpu().numpy(), maps
        maps = np.where(looked_at, maps, np.float32(np.nan))
        return maps[:, looked_at].max(axis=1), maps

    def outline(self, pictures: torch.Tensor) -> NDArray[np.float32] | None:
        """Ask for the detector's own outline; see `Detector.outline`.

        Args:
            pictures: As `score` takes them.

        Returns:
            ``[B, H, W]``, above 0 inside; None if it has none, or pictures are cut into tiles.
        """
        if not self.detector.outlines or self.config.framing.tiling is not None:
            return None
        if len(pictures) == 0:
            return np.zeros((0, *self.config.framing.size), dtype=np.float32)
        with torch.inference_mode():
            outline = self.detector.outline(to_device(pictures, self.device)).float().cpu().numpy()
        looked_at = self.config.framing.looked_at
        return outline if looked_at is None else np.where(looked_at, outline, np.float32(0))


def check_localises(detector: Detector, framing: Framing, name: str) -> None:
    """Check that a detector has maps, if only a region of them counts.

    Raises:
        SettingError: If it has none.
    """
    if framing.region is not None and not detector.localises:
        msg = (
            f"`{name}` judges pictures as a whole and has no map, so it cannot leave out what is "
            "outside a region of interest (`roi`). Leave `roi` out and cut pictures by a rectangle "
            "(`crop`), or take a model that localises: see `ad models`."
        )
        raise SettingError(msg)
