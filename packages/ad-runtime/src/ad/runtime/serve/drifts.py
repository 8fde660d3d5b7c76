"""Drift of every model that is served: told in the log once, for Prometheus, and when asked."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, final

from prometheus_client import CollectorRegistry, Gauge

from ad.runtime.drift import Drift, Stream
from ad.runtime.serve import log
from ad.runtime.serve.repository import Model

_LABELS = ("model", "version", "category")


@final
class Drifts:
    """Compares scores with those of calibration, for each threshold that a model has.

    A model that is loaded anew begins anew. Thresholds that a request brings count for nothing: its
    scores are compared with those of the saved one.

    Args:
        registry: Where its gauges are.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()  # models come and go in another thread
        self._of: dict[tuple[str, str], tuple[Model, dict[str, Stream]]] = {}
        self._drifting = Gauge(
            "ad_drift",
            "1 while scores are not those of calibration; from 20 pictures on.",
            _LABELS,
            registry=registry,
        )
        self._distance = Gauge(
            "ad_drift_distance",
            "Of the scores of pictures called good from those of calibration, 0 to 1.",
            _LABELS,
            registry=registry,
        )
        self._above = Gauge(
            "ad_share_above",
            "Share of the last pictures that is above the threshold.",
            _LABELS,
            registry=registry,
        )

    def begin(self, model: Model) -> None:
        """Know of a model that is served from now on."""
        with self._lock:
            self._of[model.name, model.version] = (model, {})

    def end(self, model: Model) -> None:
        """Forget a model."""
        with self._lock:
            _, streams = self._of.pop((model.name, model.version), (model, {}))
            for category in streams:
                for gauge in (self._drifting, self._distance, self._above):
                    with suppress(KeyError):  # it has shown nothing yet
                        gauge.remove(model.name, model.version, category)

    def see(self, model: Model, category: str | None, score: float) -> None:
        """Take the score of a picture.

        Args:
            model: That gave it; one that is not served any more counts for nothing.
            category: That the request named.
            score: Finite.
        """
        with self._lock:
            known, streams = self._of.get((model.name, model.version), (None, {}))
            if known is not model:
                return
            config = model.runtime.config
            own = category if category and category in config.calibrations else ""
            if own not in streams:
                calibration, together = config.calibration_of(own or None)
                streams[own] = Stream(calibration, categories=together)
            stream = streams[own]
            before = stream.latest
            lines = stream.add(score)
            if stream.latest is not None and stream.latest is not before:
                self._show((model.name, model.version, own), stream)
        if lines:
            names = {"model": model.name, "version": model.version}
            log.tell("drift", **{**names, **_told(own, stream), "told": lines})

    def of(self, model: Model) -> list[dict[str, Any]]:
        """What the last look at the scores of each of a model's thresholds has shown."""
        with self._lock:
            known, streams = self._of.get((model.name, model.version), (None, {}))
            if known is not model:
                return []
            return [_told(category, stream) for category, stream in streams.items()]

    def _show(self, labels: tuple[str, str, str], stream: Stream) -> None:
        drift = stream.latest
        assert drift is not None
        if drift.found is not None:
            self._drifting.labels(*labels).set(stream.drifting)
        if drift.difference is not None:
            self._distance.labels(*labels).set(drift.difference.distance)
        if drift.pictures:
            self._above.labels(*labels).set(drift.above / drift.pictures)


def _told(category: str, stream: Stream) -> dict[str, Any]:
    latest = Drift() if stream.latest is None else stream.latest
    return {"category": category or None, "drifting": stream.drifting, **latest.to_json()}
