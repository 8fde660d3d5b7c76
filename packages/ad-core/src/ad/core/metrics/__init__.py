"""Exact detection metrics on numpy: every score counts, ties are grouped, nothing is binned.

Scores may have any range and are never rescaled; higher is more anomalous. A metric that the
data leave undefined is None: AUROC and AUPRO need positives and negatives, AP, AUPR and F1-max
need positives.

`image_metrics` and `pixel_metrics` give what a run reports; the rest works alone.
"""

from __future__ import annotations

from ad.core.metrics.counting import F1Max as F1Max
from ad.core.metrics.ranking import auroc as auroc
from ad.core.metrics.ranking import average_precision as average_precision
from ad.core.metrics.ranking import f1_max as f1_max
from ad.core.metrics.ranking import precision_recall_area as precision_recall_area
from ad.core.metrics.regions import aupro as aupro
from ad.core.metrics.saturated import Defect as Defect
from ad.core.metrics.saturated import au_spro as au_spro
from ad.core.metrics.summary import image_metrics as image_metrics
from ad.core.metrics.summary import pixel_metrics as pixel_metrics
