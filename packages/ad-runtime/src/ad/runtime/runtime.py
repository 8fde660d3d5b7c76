"""An exported model at work: pictures in, scores, verdicts and maps out."""

from __future__ import annotations

import os
import shlex
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration import Calibration
from ad.runtime.conditions import other_tiles
from ad.runtime.config import ExportConfig
from ad.runtime.engines import open_engine
from ad.runtime.engines.base import Engine
from ad.runtime.errors import PictureError, SettingError, UnknownNameError, listed, nearest
from ad.runtime.findings import (
    Finding,
    Maps,
    all_findings,
    check_batch_size,
    finding_of,
    findings_of,
    least_area,
)
from ad.runtime.framing import Joined, Place, Size, Tiling
from ad.runtime.package import Package, read_package
from ad.runtime.paths import given_path
from ad.runtime.pictures.opening import said
from ad.runtime.pictures.reading import Source, glimpse, rgb_array
from ad.runtime.progress import SILENT, Progress
from ad.runtime.sources import Inputs, find_sources


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A picture that is decoded and framed."""

    source: Source
    """What it was made of."""
    size: Size
    """Of the picture itself, upright, in its own pixels."""
    seen: NDArray[np.uint8]
    """``[h, w, 3]``: what is seen of it, or what is cut into tiles."""
    tiling: Tiling | None
    """How it is cut; None if it is not."""
    places: tuple[Place, ...]
    """Of its tiles; none if it is not cut."""

    def __len__(self) -> int:
        """How many frames the model takes for it: 1 unless it is cut."""
        return 1 if self.tiling is None else len(self.places)

    @property
    def frames(self) -> NDArray[np.uint8]:
        """What the model takes, ``[T, h, w, 3]``."""
        return self.some_frames(0, len(self))

    def some_frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Those from ``start`` to before ``stop``: all tiles of a large picture take much room."""
        if self.tiling is None:
            return self.seen[None][start:stop]
        return np.stack([self.tiling.cut(self.seen, place) for place in self.places[start:stop]])


@dataclass(slots=True)
class Batch:
    """Some pictures and what is seen of them."""

    indices: list[int]
    """Which ones, ``B`` of them; those that could not be read are not among them."""
    pictures: NDArray[np.uint8]
    """``[B, h, w, 3]``."""
    sizes: list[Size] = field(default_factory=list)
    """Of each, upright, in its own pixels."""
    errors: list[tuple[int, PictureError]] = field(default_factory=list)
    """Index and reason of those that could not be read, if errors are recorded."""


def load(
    path: str | Path, engine: str = "auto", device: str = "cpu", threads: int | None = None
) -> Runtime:
    """Load an exported model.

    Args:
        path: The folder that `ad export` wrote, or a model's file that was exported as one.
        engine: ``onnxruntime``, ``openvino``, or ``auto`` for the one that it was made for.
        device: ``cpu``, ``cuda[:N]`` (onnxruntime) or ``gpu[:N]`` (OpenVINO).
        threads: Of the CPU, for one batch; all that this process may use by default.

    Returns:
        The model at work. There is a warning if its threshold was found by another engine or
        precision, on another device or with another number of threads, and if these are more than
        the cores.

    Raises:
        ModelFileError: If it is no exported model, was changed, or is not what it says.
        MissingExtraError: If the engine is not installed.
        SettingError: If engine, device or number of threads cannot be.
    """
    if threads is None:
        threads = usable_threads()
    if type(threads) is not int or not 1 <= threads <= 1024:
        msg = f"`threads` must be a whole number from 1 to 1024; got {threads!r}."
        raise SettingError(msg)
    package = read_package(given_path(path, "the exported model"))
    if device == "cpu":
        warn_of_more_threads_than_cores(threads)
    config = package.config
    opened = open_engine(package.model, config, engine=engine, device=device, threads=threads)
    runtime = Runtime(package, opened)
    if config.calibration is not None and config.calibrated_on is not None:
        other = opened.conditions.other(config.calibrated_on)
        if other is not None:
            warnings.warn(
                f"The threshold of `{path}` {other}. Set it anew here: ad calibrate "
                f"{shlex.quote(str(path))} --normals DIR",
                stacklevel=2,
            )
    return runtime


def usable_threads() -> int:
    """How many threads of the CPU this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def warn_of_more_threads_than_cores(threads: int, workers: int = 1) -> None:
    """Warn where threads of an engine would wait for each other, which they do at full load.

    Args:
        threads: Of one engine; a single one waits for no other.
        workers: Processes that have one each.
    """
    cores = usable_threads()
    if threads > 1 and threads * workers > cores:
        each = "" if workers == 1 else f" ({workers} processes with {threads} each)"
        warnings.warn(
            f"{threads * workers} threads{each} are more than there are cores to use here, "
            f"{cores}: they wait for each other, and a picture takes far longer, many times as "
            "long where they are many.",
            stacklevel=3,
        )


@final
class Runtime:
    """An exported model at work; may be used by several threads at once.

    Attributes:
        package: What it was read from.
        config: What it is.
        engine: What computes.
    """

    def __init__(self, package: Package, engine: Engine) -> None:
        self.package = package
        self.config: ExportConfig = package.config
        self.engine = engine
        self._told: set[str] = set()
        self._lock = threading.Lock()

    @property
    def localises(self) -> bool:
        """Whether there are maps."""
        return self.config.localises

    @property
    def threshold(self) -> float | None:
        """Score above which a picture is called anomalous; None without calibration."""
        return self.config.calibration.threshold if self.config.calibration else None

    def score(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Maps]:
        """Score one batch of pictures that are as the model sees them.

        Args:
            batch: ``[B, h, w, 3]``, uint8, at the model's size; ``B`` may be 0.

        Returns:
            Scores ``[B]`` and maps ``[B, h, w]``, or None for maps if it cannot localise. With a
            region of interest a score is the largest of the map inside it, and the map is NaN
            outside; but not of tiles, in each of which it lies elsewhere.

        Raises:
            SettingError: If the batch is of another type, shape or size.
            DataError: If a score or a map is not finite.
            ModelFileError: If the graph fails, or gives what it did not promise.
        """
        scores, maps = self.engine.run(batch)
        looked_at = self.config.framing.looked_at
        if looked_at is None or maps is None or not len(batch):
            return scores, maps
        maps = np.where(looked_at, maps, np.float32(np.nan))
        return maps[:, looked_at].max(axis=1), maps

    def prepare(self, source: Source) -> Prepared:
        """Decode a picture and frame it.

        Args:
            source: A file's path, the bytes of a file, a PIL image or an array.

        Raises:
            PictureError: If it cannot be read, or cannot be framed.
        """
        framing, white = self.config.framing, self.config.white_level
        if isinstance(source, np.ndarray):
            pixels, name = rgb_array(source, white=white), "The array"
        else:
            pixels, name = glimpse(source, white=white), said("picture", source)
        seen = np.asarray(framing.view(pixels, name))
        places = () if framing.tiling is None else tuple(framing.places(pixels))
        size = Size(*pixels.shape[:2])
        return Prepared(source=source, size=size, seen=seen, tiling=framing.tiling, places=places)

    def conclude(
        self,
        prepared: Prepared,
        scores: NDArray[np.float32],
        maps: Maps,
        *,
        category: str | None = None,
        threshold: float | None = None,
        min_area: int | None = 1,
    ) -> Finding:
        """From the scores of a picture's frames to what was found in it.

        Args:
            prepared: The picture.
            scores: ``[T]``, of its frames as `score` gives them.
            maps: ``[T, h, w]``, or None.
            category: Whose threshold to take; see `predict`.
            threshold: In place of the saved one; see `predict`.
            min_area: Of the smallest region; None if regions are not asked for.

        Raises:
            UnknownNameError: If the model was not trained on the category.
            SettingError: If the threshold cannot be.
        """
        calibration = self.calibration(category, threshold)
        score, map_ = self._joined(prepared, [(scores, maps)])
        return finding_of(
            prepared.source,
            score,
            map_,
            calibration,
            size=prepared.size,
            framing=self.config.framing,
            min_area=min_area,
        )

    def predict(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 1,
        category: str | None = None,
        threshold: float | None = None,
        min_area: int | None = None,
        every: int | str | None = None,
        progress: Progress = SILENT,
    ) -> list[Finding]:
        """Score pictures.

        Args:
            inputs: A picture's path, a folder (searched with its sub-folders), a video's path
                (which stands for its frames), a PIL image, the bytes of a picture's file, an array
                ``[H, W]``, ``[H, W, 3]`` or, for several, ``[N, H, W, 3]``, or a sequence of such.
                The same picture has the same score, whatever it comes as.
            batch_size: Pictures, or tiles, scored at once; on a CPU more are no faster.
            category: Take the threshold of this one, where it has one of its own.
            threshold: Score above which pictures are called anomalous, in place of the saved one;
                0-to-1 scores are 0.5 there.
            min_area: Leave out regions of fewer pixels of the picture; None for none.
            every: Of videos, only every n-th frame (``10``), or the first of each stretch of time
                (``"0.5s"``, ``"40ms"``); None for all.
            progress: Where to show how far it is.

        Returns:
            One finding per picture, in the order given; folders in the order of their paths. A
            picture that cannot be read has its ``error`` set.

        Raises:
            DataError: If there is no picture, a path does not exist, or a score is not finite.
            MissingExtraError: If there is a video, and PyAV is not installed.
            UnknownNameError: If the model was not trained on the category.
            SettingError: If the batch size, the threshold, the area or the choice of frames cannot
                be.
        """
        return all_findings(
            self.stream(
                inputs,
                batch_size=batch_size,
                category=category,
                threshold=threshold,
                min_area=min_area,
                every=every,
                progress=progress,
            )
        )

    def stream(
        self,
        inputs: Inputs,
        *,
        batch_size: int = 1,
        category: str | None = None,
        threshold: float | None = None,
        min_area: int | None = None,
        every: int | str | None = None,
        progress: Progress = SILENT,
    ) -> Iterator[Finding]:
        """Like `predict`, one finding at a time: for more pictures than fit into memory."""
        calibration = self.calibration(category, threshold)
        config = self.config
        least = self.least_area(min_area, category, threshold)
        sources = find_sources(inputs, white=config.white_level, every=every)
        with progress.step("predicting", total=len(sources), unit="pictures") as advance:
            for batch, scores, maps in self.scored(sources, batch_size, on_error="record"):
                found = findings_of(
                    sources,
                    batch,
                    scores,
                    maps,
                    calibration,
                    framing=config.framing,
                    min_area=least,
                )
                yield from found
                advance(len(found))

    def scored(
        self,
        sources: Sequence[Source],
        batch_size: int,
        *,
        on_error: Literal["raise", "record"] = "raise",
    ) -> Iterator[tuple[Batch, NDArray[np.float32], Maps]]:
        """Read and score pictures; those that are cut into tiles one by one, a batch of tiles each.

        Args:
            sources: Files, images or arrays.
            batch_size: Pictures, or tiles, scored at once.
            on_error: Whether a picture that cannot be read is raised or recorded in its batch.

        Yields:
            A batch with its scores ``[B]`` and maps ``[B, H, W]`` as `score` gives them. Where
            pictures are cut it has one picture, scaled, and the map of that.

        Raises:
            PictureError: Of the first picture that cannot be read, if ``on_error`` is ``raise``.
            SettingError: If the batch size is not a whole number from 1.
        """
        check_batch_size(batch_size)
        tiled = self.config.framing.tiling is not None
        for group in self._prepared(sources, 1 if tiled else batch_size):
            batch = Batch([], np.empty((0, *self.config.framing.size, 3), np.uint8))
            read = []
            for index, one in group:
                if isinstance(one, Prepared):
                    batch.indices.append(index)
                    batch.sizes.append(one.size)
                    read.append(one)
                elif on_error == "raise":
                    raise one
                else:
                    batch.errors.append((index, one))
            if read:
                batch.pictures = np.stack([one.seen for one in read])
            if not read or not tiled:
                yield batch, *self.score(batch.pictures)
                continue
            (one,) = read
            starts = range(0, len(one), batch_size)
            chunks = (self.score(one.some_frames(at, at + batch_size)) for at in starts)
            score, map_ = self._joined(one, chunks)
            yield batch, np.array([score], np.float32), None if map_ is None else map_[None]

    def calibration(
        self, category: str | None = None, threshold: float | None = None
    ) -> Calibration | None:
        """What verdicts are made by.

        There is a warning, once, if a category has no threshold of its own.

        Args:
            category: Whose; None for that of all pictures.
            threshold: In place of the saved one.

        Raises:
            UnknownNameError: If the model was not trained on the category.
            SettingError: If the threshold is no finite number, or there is no calibration.
        """
        config = self.config
        own = config.calibration if category is None else config.calibrations.get(category)
        if category is not None and category not in config.categories:
            msg = (
                f"`{config.name}` was not trained on a category `{category}`, but on "
                f"{listed(config.categories)}.{nearest(category, config.categories)}"
            )
            raise UnknownNameError(msg)
        if own is None and category is not None and config.calibration is not None:
            own = config.calibration
            if len(config.categories) > 1:
                self._tell(
                    f"The category `{category}` of `{config.name}` has no threshold of its own, as "
                    "it had too few good pictures: verdicts are by the one of all categories."
                )
        if threshold is None:
            return own
        if own is None:
            msg = (
                f"`{config.name}` has no calibration, and so no scale that 0-to-1 scores around "
                f"the threshold {threshold} could be on. First set one from good pictures: ad "
                f"calibrate {shlex.quote(str(self.package.path))} --normals DIR"
            )
            raise SettingError(msg)
        return own.by_hand(threshold)

    def least_area(
        self, min_area: int | None, category: str | None = None, threshold: float | None = None
    ) -> int:
        """The area of the smallest region that is told; see `ad.runtime.findings.least_area`."""
        calibration = self.calibration(category, threshold)
        return least_area(min_area, calibration, name=self.config.name, localises=self.localises)

    def _prepared(
        self, sources: Sequence[Source], batch_size: int
    ) -> Iterator[list[tuple[int, Prepared | PictureError]]]:
        """Groups of pictures; the next ones are decoded while the caller works on one."""
        starts = range(0, len(sources), batch_size)
        with ThreadPoolExecutor(min(8, usable_threads()), "decode") as pool:
            ahead: deque[list[tuple[int, Future[Prepared | PictureError]]]] = deque()
            try:
                for start in starts:
                    some = range(start, min(start + batch_size, len(sources)))
                    ahead.append([(i, pool.submit(self._readable, sources[i])) for i in some])
                    if len(ahead) > 2:  # two groups are decoded ahead
                        yield [(index, one.result()) for index, one in ahead.popleft()]
                while ahead:
                    yield [(index, one.result()) for index, one in ahead.popleft()]
            finally:  # an error, or a caller that stops early: do not decode what nobody wants
                for group in ahead:
                    for _, future in group:
                        future.cancel()

    def _readable(self, source: Source) -> Prepared | PictureError:
        try:
            return self.prepare(source)
        except PictureError as error:
            return error

    def _joined(
        self, prepared: Prepared, chunks: Iterable[tuple[NDArray[np.float32], Maps]]
    ) -> tuple[float, NDArray[np.float32] | None]:
        """The score and the map of a picture, from those of its frames."""
        framing = self.config.framing
        if framing.tiling is None:
            ((scores, maps),) = chunks
            return float(scores[0]), None if maps is None else maps[0]
        self._tell_of_tiles(prepared)
        whole = Size(*prepared.seen.shape[:2])
        joined, highest, at = Joined(framing.tiling, whole), -np.inf, 0
        for scores, maps in chunks:
            highest = max(highest, float(scores.max()))
            for row in range(len(scores)):
                if maps is not None:
                    joined.add(prepared.places[at + row], maps[row])
            at += len(scores)
        if not self.localises:
            return highest, None
        map_, looked_at = joined.map(), framing.of(prepared.size).looked_at
        if looked_at is None:
            return highest, map_
        return float(map_[looked_at].max()), np.where(looked_at, map_, np.float32(np.nan))

    def _tell_of_tiles(self, prepared: Prepared) -> None:
        where = self.config.calibrated_on
        if self.config.calibration is None or where is None:
            return
        source = prepared.source
        name = "The array" if isinstance(source, np.ndarray) else said("picture", source)
        other = other_tiles(
            name, len(prepared.places), where.tiles, shlex.quote(str(self.package.path))
        )
        if other is not None:
            self._tell(other, "tiles")

    def _tell(self, text: str, once: str | None = None) -> None:
        """Warn, but only the first time."""
        with self._lock:
            told = (once or text) in self._told
            self._told.add(once or text)
        if not told:
            warnings.warn(text, stacklevel=3)
