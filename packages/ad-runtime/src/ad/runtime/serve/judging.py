"""Pictures of one request through the stages of work: decode, wait, infer, encode."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ad.runtime.calibration import Calibration
from ad.runtime.errors import DataError
from ad.runtime.findings import Finding
from ad.runtime.framing import Size
from ad.runtime.runtime import Prepared, Runtime
from ad.runtime.serve.limits import Limits, Refused, check_picture
from ad.runtime.serve.metrics import Metrics
from ad.runtime.serve.queue import Work
from ad.runtime.serve.repository import Model

Picture = bytes | NDArray[np.uint8]
"""A file, or a picture ``[h, w, 3]`` that has the model's size already."""


class Judged(NamedTuple):
    """A picture and what was found in it."""

    size: Size
    """Of the picture."""
    finding: Finding


class Judge:
    """Has pictures judged.

    Args:
        work: The threads.
        limits: Of the server.
        metrics: Told of every picture.
    """

    def __init__(self, work: Work, limits: Limits, metrics: Metrics) -> None:
        self._work = work
        self._limits = limits
        self._metrics = metrics

    async def judge(
        self,
        model: Model,
        pictures: Sequence[Picture],
        *,
        category: str | None,
        threshold: float | None,
        min_area: int | None = None,
    ) -> list[Judged]:
        """Judge pictures, each by itself; the first that fails ends the work on all others.

        Args:
            model: By which.
            pictures: Of one request.
            category: Whose threshold to take; see `Runtime.predict`.
            threshold: In place of the saved one.
            min_area: Of the smallest region; None if regions are not asked for.

        Raises:
            AdError: If the category or a picture cannot be used, or the model fails.
        """
        verdict_by(model.runtime, category, threshold)  # what cannot be is not computed
        several = len(pictures) > 1
        names = [
            f"Picture {number} of {len(pictures)}" if several else "The picture"
            for number in range(1, len(pictures) + 1)
        ]
        tasks: list[asyncio.Task[Judged]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for picture, name in zip(pictures, names, strict=True):
                    work = self._one(model, picture, name, category, threshold, min_area)
                    tasks.append(group.create_task(work))
        except ExceptionGroup as failed:
            raise _first(tasks) or failed from None
        judged = [task.result() for task in tasks]
        for one in judged:
            self._metrics.judged(model, category, one.finding)
        return judged

    async def _one(
        self,
        model: Model,
        picture: Picture,
        name: str,
        category: str | None,
        threshold: float | None,
        min_area: int | None,
    ) -> Judged:
        runtime = model.runtime
        took = partial(self._metrics.took, model.name)
        if isinstance(picture, bytes):
            prepared = await self._work.in_thread(partial(self._decode, model, picture, name))
        else:
            size = Size(*picture.shape[:2])
            prepared = Prepared(source=picture, size=size, seen=picture, tiling=None, places=())
        scores, maps = await self._work.score(runtime, prepared, took)
        if not np.isfinite(scores).all():  # whatever gave it: it would pass as good
            msg = f"{name} has the score {scores[~np.isfinite(scores)][0]}: the model is broken."
            raise DataError(msg)
        conclude = partial(
            runtime.conclude,
            prepared,
            scores,
            maps,
            category=category,
            threshold=threshold,
            min_area=min_area,
        )
        # Joining tiles takes its time, and so may regions.
        at_once = prepared.tiling is None and min_area is None
        finding = conclude() if at_once else await self._work.in_thread(conclude)
        return Judged(prepared.size, finding)

    def _decode(self, model: Model, content: bytes, name: str) -> Prepared:
        began = time.perf_counter()
        check_picture(content, name, self._limits.pixels)
        prepared = model.runtime.prepare(content)
        self._metrics.took(model.name, "decode", time.perf_counter() - began)
        return prepared


def _first(tasks: Sequence[asyncio.Task[Judged]]) -> BaseException | None:
    """What went wrong with the first picture of which something did."""
    ended = (task for task in tasks if task.done() and not task.cancelled())
    return next((error for task in ended if (error := task.exception()) is not None), None)


def verdict_by(
    runtime: Runtime, category: str | None, threshold: float | None
) -> Calibration | None:
    """What verdicts of a request are made by.

    Raises:
        UnknownNameError: If the model was not trained on the category.
        Refused: If there is a threshold, and no calibration with the scale around it.
    """
    if threshold is not None and runtime.config.calibration is None:
        msg = (
            f"`{runtime.config.name}` has no calibration, and so no scale that 0-to-1 scores "
            "around a threshold could be on. Leave `threshold` out, and compare the scores."
        )
        raise Refused(400, msg)
    return runtime.calibration(category, threshold)
