"""Whether an exported model scores as the detector does: ``parity.json``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ad.core.predict import LoadedDetector
from ad.runtime.pictures.reading import Source
from ad.runtime.probe import noise, probe_score
from ad.runtime.runtime import Runtime

LEAST, MOST = 8, 64
"""Pictures, or tiles of them, to compare with."""

_OF_SCALE = 0.01
"""Largest difference, as a share of a calibration's scale."""
_OF_SCORE = 1e-4
"""The same of the largest score, where there is no scale or the pictures are noise."""
_PIXELS = 0.999
"""Share of the pixels that must be within it, where a map jumps; see `Detector.map_jumps`."""
_SIZES = (1, 2, 3)

Kind = Literal["check", "normals", "held-out", "noise"]
T = TypeVar("T")


def frames_of(runtime: Runtime, pictures: Sequence[Source]) -> NDArray[np.uint8]:
    """What the model sees of pictures, spread over all of them; noise, the same each time, of none.

    Args:
        runtime: The exported model.
        pictures: Any number.

    Returns:
        ``[n, h, w, 3]``, uint8; ``n`` is at most 64, for noise 8.

    Raises:
        PictureError: If a picture cannot be read.
    """
    size = runtime.config.framing.size
    if not pictures:
        return noise(size, LEAST)
    frames: list[NDArray[np.uint8]] = []
    for picture in spread(pictures):
        prepared = runtime.prepare(picture)
        frames.extend(prepared.some_frames(0, min(len(prepared), MOST - len(frames))))
        if len(frames) == MOST:
            break
    return np.stack(frames)


def spread(many: Sequence[T]) -> Sequence[T]:
    """At most 64 of them, in their order, from all over."""
    return many[:: math.ceil(len(many) / MOST)]


def compare(
    detector: LoadedDetector, runtime: Runtime, frames: NDArray[np.uint8], kind: Kind
) -> dict[str, Any]:
    """Score pictures by the detector and by the exported model.

    Args:
        detector: In fp32 on the CPU.
        runtime: The exported model, with its threshold.
        frames: As `frames_of` gives them.
        kind: What they are.

    Returns:
        Content of ``parity.json``; ``passed`` is the verdict and ``why`` says what did not.
    """
    calibration = runtime.config.calibration
    reference = [detector.score(torch.from_numpy(frames[n : n + 1])) for n in range(len(frames))]
    expected = np.concatenate([scores for scores, _ in reference])
    singles = [runtime.score(frames[n : n + 1]) for n in range(len(frames))]
    found = np.concatenate([scores for scores, _ in singles])
    by_scale = calibration is not None and kind != "noise"
    scale = calibration.scale if calibration is not None else None
    why = []
    gap, score = _differences(found, expected, scale)
    limit = _limit(expected, scale if by_scale else None)
    if not gap <= limit:
        why.append(f"scores differ by up to {gap:.3g}, and {limit:.3g} are allowed")
    of_map = None
    if runtime.localises:
        looked_at = runtime.config.framing.looked_at  # outside of it a map is nan
        counts = slice(None) if looked_at is None else looked_at
        true, maps = (
            np.concatenate([maps[:, counts] for _, maps in of if maps is not None])
            for of in (reference, singles)
        )
        pixel_scale = calibration.pixel_scale if calibration is not None else None
        pixel_limit = _limit(true, pixel_scale if by_scale else None)
        gap, of_map = _differences(maps, true, pixel_scale)
        within = float((np.abs(maps - true) <= pixel_limit).mean())
        of_map["within"] = within
        if within < (_PIXELS if detector.detector.map_jumps else 1):
            why.append(f"maps differ by up to {gap:.3g}, and {pixel_limit:.3g} are allowed")
    different = 0
    if calibration is not None:
        different = int(
            ((found > calibration.threshold) != (expected > calibration.threshold)).sum()
        )
        if different:
            why.append(f"{different} verdicts are different")
    some = frames[np.arange(max(_SIZES)) % len(frames)]
    alone = found[np.arange(max(_SIZES)) % len(frames)]
    for size in _SIZES:
        together = runtime.score(some[:size])[0]
        if not (gap := float(np.abs(together - alone[:size]).max())) <= limit:
            why.append(f"{size} at once differ by {gap:.3g} from one by one")
    return {
        "schema": 1,
        "reference": f"torch {torch.__version__} fp32 cpu",
        "engine": runtime.engine.described,
        "pictures": len(frames),
        "kind": kind,
        "score": score,
        "map": of_map,
        "verdicts": (
            None
            if calibration is None
            else {"same": len(frames) - different, "different": different}
        ),
        "noise_score": probe_score(runtime),
        "batch_sizes": list(_SIZES),
        "passed": not why,
        "why": why,
    }


def _differences(
    found: NDArray[np.float32], expected: NDArray[np.float32], scale: float | None
) -> tuple[float, dict[str, float | None]]:
    """The largest difference, and what is told of it; nan if something is."""
    largest = float(np.abs(expected.astype(np.float64)).max())
    gap = float(np.abs(found.astype(np.float64) - expected).max())
    return gap, {
        "max_abs": gap,
        "max_rel": gap / largest if largest else None,
        "max_scales": None if scale is None else gap / scale,
    }


def _limit(expected: NDArray[np.float32], scale: float | None) -> float:
    if scale is not None:
        return _OF_SCALE * scale
    return _OF_SCORE * float(np.abs(expected).max())
