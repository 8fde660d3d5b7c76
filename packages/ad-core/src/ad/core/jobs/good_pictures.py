"""Good pictures for a run's report where there are no test pictures: those of its threshold.

They were held out, and are scored by the saved model; or each was scored by a detector that had not
seen it (cross-fitting), while these detectors were there. What a detector has learnt from scores
lower than new pictures do, so no other good picture is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ad.core.data.samples import Sample
from ad.core.errors import ModelFileError
from ad.core.framing import Framing
from ad.core.jobs.data_now import data_now
from ad.core.jobs.plan import Plan, RunData
from ad.core.predict import LoadedDetector
from ad.core.report.gallery import Gallery, GoodPictures
from ad.core.saved.record import RUN, calibrations_since
from ad.runtime.calibration import Calibration
from ad.runtime.calibration.good_scores import Scored
from ad.runtime.files import read_limited, write_atomic
from ad.runtime.pictures.reading import Source
from ad.runtime.progress import SILENT, Progress

SCORES = "good_scores.jsonl"
"""Name of the file of cross-fitted scores in the directory of a run without test pictures."""

_NO_MAPS = (
    "Maps are not shown: each score is of a detector that had not seen the picture, and these "
    "detectors are gone. The report that training wrote has their maps."
)


class CrossFitted:
    """What detectors that have not seen them say of good pictures, kept as it comes.

    Args:
        samples: All of them.
        framing: How the detectors see them.
        shown: Whether what they look like is kept, for a report, beside the scores.
    """

    def __init__(self, samples: Sequence[Sample], framing: Framing, *, shown: bool) -> None:
        self.samples = samples
        self.scores = np.zeros(len(samples), dtype=np.float32)
        self.gallery = Gallery(samples, None, framing=framing, later=True) if shown else None

    def watching(
        self, detector: LoadedDetector, fold: Sequence[int]
    ) -> Callable[[Sequence[Source], int], Scored]:
        """What scores the pictures of a fold, looked at as they go by."""

        def scored(pictures: Sequence[Source], batch_size: int) -> Scored:
            for batch, scores, maps in detector.scored(pictures, batch_size):
                numbers = [fold[index] for index in batch.indices]
                self.scores[numbers] = scores
                if self.gallery is not None:
                    self.gallery.see(replace(batch, indices=numbers), scores, maps)
                yield batch, scores, maps

        return scored

    def write(self, run: Path) -> None:
        """Keep the scores for reports that are made again."""
        lines = (
            json.dumps({"path": str(sample.path), "score": float(score)})
            for sample, score in zip(self.samples, self.scores, strict=True)
        )
        write_atomic(run / SCORES, "".join(f"{line}\n" for line in lines).encode())

    def found(self, calibration: Calibration) -> GoodPictures:
        """For the report, once the threshold is known; if they are shown."""
        assert self.gallery is not None
        self.gallery.calibrate(calibration)
        return _of_folds(self.gallery, self.scores, calibration)


def good_pictures(
    plan: Plan, data: RunData, detector: LoadedDetector, watch: CrossFitted | None
) -> GoodPictures | None:
    """What the report of a training shows without test pictures; None if nothing.

    Args:
        plan: Of the run.
        data: Of the run.
        detector: The saved one.
        watch: What has seen the folds of cross-fitting.

    Raises:
        PictureError: If one that was held out cannot be read any more.
    """
    calibration = detector.config.calibration
    if watch is not None and calibration is not None:
        return watch.found(calibration)
    return held_out_pictures(
        detector, data.held_out, batch_size=plan.settings.batch_size, progress=plan.progress
    )


def held_out_pictures(
    detector: LoadedDetector,
    held_out: Sequence[Sample],
    *,
    batch_size: int = 8,
    renewed: bool = False,
    progress: Progress = SILENT,
) -> GoodPictures | None:
    """Score what was held out by the saved model; None if nothing was.

    Args:
        detector: The saved one.
        held_out: What its threshold was set on.
        batch_size: Pictures scored at once.
        renewed: Whether its threshold was set anew since.
        progress: Where to show how far it is.

    Raises:
        PictureError: If one cannot be read.
    """
    if not held_out:
        return None
    gallery = Gallery(held_out, detector.config.calibration, detector)
    scores = np.zeros(len(held_out), dtype=np.float32)
    with progress.step("held-out pictures", total=len(held_out), unit="pictures") as advance:
        for batch, own, maps in detector.scored([one.path for one in held_out], batch_size):
            scores[batch.indices] = own
            gallery.see(batch, own, maps)
            advance(len(batch.indices))
    held = f"{len(scores)} good pictures were" if len(scores) > 1 else "1 good picture was"
    return GoodPictures(
        gallery=gallery,
        scores=tuple(float(score) for score in scores),
        lead=f"No test pictures. {held} held out to set the threshold. "
        f"{_above(scores, detector.config.calibration, renewed)}",
        renewed=renewed,
    )


def good_pictures_again(
    run: Path, detector: LoadedDetector, progress: Progress
) -> GoodPictures | None:
    """What a run without test pictures can show when its report is made again; None if nothing.

    Raises:
        PictureError: If one cannot be read.
        ModelFileError: If the scores that training kept cannot be read.
    """
    now = data_now(run, progress)
    if now is None or detector.config.calibration is None:
        return None
    renewed = bool(calibrations_since(run))
    if not now.cross_fitted:
        return held_out_pictures(detector, now.held_out, renewed=renewed, progress=progress)
    known = _read_scores(run / SCORES)
    samples = [sample for sample in now.learning if str(sample.path) in known]
    if not samples:
        return None
    scores = np.array([known[str(sample.path)] for sample in samples], dtype=np.float32)
    gallery = Gallery(samples, detector.config.calibration, detector)
    paths = [sample.path for sample in samples]
    framing = detector.config.framing
    seen = framing.pictures if framing.tiling is None else framing.uncut
    for batch in seen(paths, white=detector.config.white_level).batches(1):
        gallery.see(batch, scores[batch.indices], None)
    found = _of_folds(gallery, scores, detector.config.calibration, renewed=renewed)
    return replace(found, without=_NO_MAPS if detector.localises else "")


def _of_folds(
    gallery: Gallery,
    scores: NDArray[np.float32],
    calibration: Calibration,
    *,
    renewed: bool = False,
) -> GoodPictures:
    return GoodPictures(
        gallery=gallery,
        scores=tuple(float(score) for score in scores),
        lead=f"No test pictures. Each of {len(scores)} good pictures was scored by a detector that "
        f"had not seen it. {_above(scores, calibration, renewed)}",
        renewed=renewed,
    )


def _above(scores: NDArray[np.float32], calibration: Calibration | None, renewed: bool) -> str:
    if calibration is None:
        return ""
    above = sum(calibration.is_anomalous(float(score)) for score in scores)
    which = "which was set on others since" if renewed else "which was set on these scores"
    many = f"{above} of them {'is' if above == 1 else 'are'}" if above else "None is"
    return f"{many} above the threshold, {which}."


def _read_scores(path: Path) -> dict[str, float]:
    try:
        lines = read_limited(path, RUN).decode().splitlines()
        return {line["path"]: float(line["score"]) for line in map(json.loads, lines)}
    except FileNotFoundError:  # of a run from before they were kept
        return {}
    except ModelFileError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        msg = (
            f"`{path}` cannot be read ({type(error).__name__}: {error}). Move it away: then the "
            "report shows no good pictures."
        )
        raise ModelFileError(msg) from error
