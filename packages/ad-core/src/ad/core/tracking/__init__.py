"""Trackers: who else is told how a run goes.

``log.jsonl`` in the run directory is always written. Others are entry points of the group
``ad.trackers``, whose value is a subclass of `Tracker`; here are TensorBoard and MLflow, whose
packages are the extras ``tensorboard`` and ``mlflow`` of ad-core.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from ad.core.callbacks import Callback


class Tracker(Callback):
    """A callback that is made for one run and told its figures at the end.

    Args:
        run: The run directory.
        record: The content of its ``run.json``.
    """

    vital: ClassVar[bool] = False  # nobody loses a night of learning to a server that is down

    def __init__(self, run: Path, record: Mapping[str, Any]) -> None:
        self.run = run
        self.record = record

    def on_tested(self, metrics: Mapping[str, float | None]) -> None:
        """After the saved model was tested: the last that is said of a run.

        Args:
            metrics: Figures of the test split; None where one is not defined.
        """
