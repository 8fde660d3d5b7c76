"""MLflow: one MLflow run for each run, in the experiment ``ad``.

Where it is kept is MLflow's own setting, ``MLFLOW_TRACKING_URI``; without it, a file ``mlflow.db``
in the folder where ``ad`` was started, as is MLflow's own way.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from ad.core.callbacks import LoopState
from ad.core.errors import Interrupted, PluginError, how_to_install
from ad.core.tracking import Tracker

try:
    import sqlalchemy  # noqa: F401 - what keeps mlflow.db, and no part of mlflow-skinny
    from mlflow import MlflowClient
except ImportError as error:
    how = how_to_install("ad-core", "mlflow")
    msg = f"The tracker `mlflow` lacks a package ({error}).\nhint: {how}"
    raise PluginError(msg) from error

EXPERIMENT = "ad"


@final
class MlflowTracker(Tracker):
    """Writes settings, the mean losses of each epoch and the figures; resuming goes on with it."""

    def __init__(self, run: Path, record: Mapping[str, Any]) -> None:
        super().__init__(run, record)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"
        self.client = MlflowClient(tracking_uri=uri)
        self.id: str | None = None
        self.step = 0

    def on_fit_start(self, state: LoopState) -> None:
        """Begin a run, or go on with the one that a checkpoint names."""
        if self.id is not None:
            self.client.update_run(self.id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        where = experiment.experiment_id if experiment else self._make_experiment()
        tags = {"command": self.record["command"], "run directory": str(self.run.resolve())}
        self.id = self.client.create_run(where, run_name=self.run.name, tags=tags).info.run_id
        for name, value in self.record["settings"].items():
            for key, one in value.items() if name == "options" else [(name, value)]:
                self.client.log_param(self.id, key, one)

    def on_epoch_end(self, state: LoopState) -> None:
        """Add the epoch's losses and the monitor's value."""
        self.step = state.step
        self._add({**state.losses, "monitor": state.monitor})

    def on_exception(self, error: BaseException) -> None:
        """Say that it did not finish."""
        if self.id is not None:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            self.client.set_terminated(self.id, "KILLED" if stopped else "FAILED")

    def on_tested(self, metrics: Mapping[str, float | None]) -> None:
        """Add the figures."""
        assert self.id is not None
        self._add(metrics)
        self.client.set_terminated(self.id, "FINISHED")

    def state_dict(self) -> dict[str, Any]:
        """Which run it is; see `Callback.state_dict`."""
        return {"id": self.id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Callback.load_state_dict`."""
        self.id = state["id"]

    def _make_experiment(self) -> str:
        made: str = self.client.create_experiment(EXPERIMENT)
        return made

    def _add(self, values: Mapping[str, float | None]) -> None:
        assert self.id is not None
        for name, value in values.items():
            if value is not None:
                self.client.log_metric(self.id, name, value, step=self.step)
