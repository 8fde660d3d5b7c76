"""Exact detection metrics on numpy: every score counts, ties are grouped, nothing is binned.

Scores may have any range and are never rescaled; higher is more anomalous. A metric that the
data leave undefined is None: AUROC and AUPRO need positives and negatives, AP, AUPR and F1-max
need positives.

`image_metrics` and `pixel_metrics` give what a run reports; the rest works alone.
"""

from __future__ import annotations

from ad.core.metrics.counting import F1Max
from ad.core.metrics.ranking import auroc, average_precision, f1_max, precision_recall_area
from ad.core.metrics.regions import aupro
from ad.core.metrics.saturated import Defect, au_spro
from ad.core.metrics.summary import image_metrics, pixel_metrics

__all__ = [
    "Defect",
    "F1Max",
    "au_spro",
    "aupro",
    "auroc",
    "average_precision",
    "f1_max",
    "image_metrics",
    "pixel_metrics",
    "precision_recall_area",
]
