"""Whether a model in lower precision still judges as the one in fp32 does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from ad.core.data.samples import Sample
from ad.core.metrics import auroc
from ad.runtime.progress import SILENT, Progress
from ad.runtime.runtime import Runtime

_AUROC_LOST, _SAME_VERDICTS, _RANKS = 0.005, 0.99, 0.99


def judged(
    full: Runtime,
    low: Runtime,
    samples: Sequence[Sample],
    *,
    labelled: bool,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Compare two exports of one detector, each by its own threshold.

    Args:
        full: In fp32.
        low: In the lower precision.
        samples: Pictures to judge, at least three.
        labelled: Whether it is known which of them are defective.
        progress: Where to show how far it is.

    Returns:
        Figures for ``parity.json``: the image AUROC of both (None without labels), the share of
        equal verdicts (None without thresholds) and the correlation of ranks; ``why`` says which
        are not good enough.

    Raises:
        PictureError: If a picture cannot be read.
    """
    by_full, by_low = (_scores(one, samples, progress) for one in (full, low))
    why: list[str] = []
    before = after = None
    labels = [sample.label for sample in samples]
    if labelled and 0 < sum(labels) < len(labels):
        before, after = auroc(by_full, labels), auroc(by_low, labels)
        assert before is not None
        assert after is not None
        if before - after > _AUROC_LOST:
            why.append(
                f"image AUROC falls from {before:.4f} to {after:.4f}, by more than {_AUROC_LOST}"
            )
    same = None
    if full.threshold is not None and low.threshold is not None:
        same = float(((by_full > full.threshold) == (by_low > low.threshold)).mean())
        if same < _SAME_VERDICTS:
            why.append(f"{same:.1%} of the verdicts are the same; {_SAME_VERDICTS:.0%} are needed")
    ranks = np.nan  # where all scores are the same
    if np.ptp(by_full) and np.ptp(by_low):
        ranks = float(spearmanr(by_full, by_low).statistic)
    if not ranks >= _RANKS:
        why.append(f"the correlation of ranks is {ranks:.4f}; {_RANKS} is needed")
    return {
        "pictures": len(samples),
        "against": full.engine.described,
        "image_auroc": None if before is None else {"fp32": before, low.config.precision: after},
        "same_verdicts": same,
        "rank_correlation": None if np.isnan(ranks) else ranks,
        "passed": not why,
        "why": why,
    }


def _scores(runtime: Runtime, samples: Sequence[Sample], progress: Progress) -> NDArray[np.float32]:
    found = []
    name = f"scoring in {runtime.config.precision}"
    with progress.step(name, total=len(samples), unit="pictures") as advance:
        for batch, scores, _ in runtime.scored([sample.path for sample in samples], 1):
            found.append(scores)
            advance(len(batch.indices))
    return np.concatenate(found)
