"""What a server counts, for Prometheus to ask for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from ad.runtime.findings import Finding
from ad.runtime.serve.drifts import Drifts
from ad.runtime.serve.repository import Model

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
STAGES = ("decode", "wait", "infer", "encode")
"""What becomes of a request's pictures, in this order."""


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "ad_requests", "Requests that were answered.", ("model", "status"), registry=registry
        )
        self.pictures = Counter(
            "ad_pictures", "Pictures that were judged.", ("model", "verdict"), registry=registry
        )
        self.seconds = Histogram(
            "ad_seconds",
            "Seconds that each stage of a picture took.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Gauge("ad_queue", "Requests that are being worked on.", registry=registry)
        self.normalized = Histogram(
            "ad_normalized_score",
            "Scores, 0.5 at the threshold: a drift shows.",
            ("model",),
            buckets=_SHARES,
            registry=registry,
        )
        self.info = Gauge(
            "ad_model_info",
            "What is served; always 1.",
            ("model", "version", "engine", "sha256"),
            registry=registry,
        )
        self.reloads = Counter(
            "ad_reloads", "Models that were loaded.", ("model", "result"), registry=registry
        )
        self.drifts = Drifts(registry)

    def judged(self, model: Model, category: str | None, finding: Finding) -> None:
        """Count a picture's verdict and where its score lies.

        Args:
            model: That judged it.
            category: That the request named.
            finding: Of the picture.
        """
        self.pictures.labels(model.name, finding.verdict).inc()
        if finding.normalized is not None:
            self.normalized.labels(model.name).observe(finding.normalized)
        if finding.score is not None:
            self.drifts.see(model, category, finding.score)

    def took(self, model: str, stage: str, seconds: float) -> None:
        """Count how long one of the `STAGES` took."""
        self.seconds.labels(model, stage).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return bytes(generate_latest(self.registry))
