"""How well scores rank positives above negatives: AUROC, AP, AUPR and F1-max.

Checks scores and labels of any kind; `ad.core.metrics.counting` does the sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ad.core.errors import DataError
from ad.core.metrics.counting import F1Max, RankCounts, count_ranks


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve.

    Args:
        scores: Any shape; finite, higher is more anomalous.
        labels: As many; bool, or integers 0 (normal) and 1 (anomalous).

    Returns:
        In [0, 1]; None if there are no positives or no negatives.

    Raises:
        DataError: If scores are not finite, labels are no labels, or their shapes differ.
    """
    return count_labelled(scores, labels).auroc()


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Average precision: precision at each distinct score, weighted by the recall gained there.

    Args:
        scores: As for `auroc`.
        labels: As for `auroc`.

    Returns:
        In (0, 1]; None if there are no positives.

    Raises:
        DataError: As for `auroc`.
    """
    return count_labelled(scores, labels).average_precision()


def precision_recall_area(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the precision-recall curve by trapezoids (AUPR).

    Args:
        scores: As for `auroc`.
        labels: As for `auroc`.

    Returns:
        In (0, 1]; None if there are no positives.

    Raises:
        DataError: As for `auroc`.
    """
    return count_labelled(scores, labels).precision_recall_area()


def f1_max(scores: ArrayLike, labels: ArrayLike) -> F1Max | None:
    """The largest F1 score over all thresholds, and the threshold that reaches it.

    Args:
        scores: As for `auroc`.
        labels: As for `auroc`.

    Returns:
        None if there are no positives.

    Raises:
        DataError: As for `auroc`.
    """
    return count_labelled(scores, labels).f1_max()


def count_labelled(scores: ArrayLike, labels: ArrayLike) -> RankCounts:
    """Check scores and labels, and count them.

    Args:
        scores: As for `auroc`.
        labels: As for `auroc`.

    Raises:
        DataError: As for `auroc`.
    """
    values, truth = np.asarray(scores), np.asarray(labels)
    if values.shape != truth.shape:
        msg = (
            f"`scores` and `labels` must have the same shape; got {values.shape} and {truth.shape}."
        )
        raise DataError(msg)
    if truth.dtype != np.bool_:
        if truth.size and (truth.dtype.kind not in "iu" or np.any((truth != 0) & (truth != 1))):
            msg = (
                "`labels` must be bool, or integers 0 (normal) and 1 (anomalous); "
                f"got {truth.dtype} with values from {truth.min()} to {truth.max()}."
            )
            raise DataError(msg)
        truth = truth.astype(np.bool_)
    values = values.astype(score_type(values), copy=False)
    finite = np.isfinite(values)
    if not finite.all():
        first = int(np.argmin(finite))
        msg = f"Scores must be finite; score {first} is {values.flat[first]}."
        raise DataError(msg)
    return count_ranks(values[truth], values[~truth])


def score_type(*values: NDArray[Any]) -> np.dtype[Any]:
    """The type scores are compared in: float32, or a wider one if they need it.

    Raises:
        DataError: If they are not real numbers.
    """
    types = {value.dtype for value in values}
    wrong = [kind for kind in types if kind.kind not in "biuf"]
    if wrong:
        msg = f"Scores must be real numbers; got {wrong[0]}."
        raise DataError(msg)
    return np.result_type(np.float32, *types)
