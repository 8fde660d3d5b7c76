"""TensorBoard: ``tensorboard --logdir runs`` shows the losses of all runs below ``runs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from ad.core.callbacks import LoopState
from ad.core.errors import PluginError, how_to_install
from ad.core.tracking import Tracker

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    how = how_to_install("ad-core", "tensorboard")
    msg = f"The tracker `tensorboard` lacks a package ({error}).\nhint: {how}"
    raise PluginError(msg) from error


@final
class TensorboardTracker(Tracker):
    """Writes ``tensorboard/`` in the run directory: losses by step, and the figures."""

    writer: SummaryWriter | None = None
    step = 0

    def on_fit_start(self, state: LoopState) -> None:
        """Begin; what a killed run wrote beyond its checkpoint is hidden."""
        folder = str(self.run / "tensorboard")
        self.writer = SummaryWriter(folder, purge_step=state.step + 1)

    def on_batch_end(self, state: LoopState) -> None:
        """Add the losses of a step."""
        self.step = state.step
        self._add("loss", state.losses)

    def on_epoch_end(self, state: LoopState) -> None:
        """Add the monitor's value."""
        self._add("held out", {"monitor": state.monitor})

    def on_exception(self, error: BaseException) -> None:
        """Write out what there is."""
        self._close()

    def on_tested(self, metrics: Mapping[str, float | None]) -> None:
        """Add the figures."""
        self._add("test", metrics)
        self._close()

    def _add(self, group: str, values: Mapping[str, float | None]) -> None:
        assert self.writer is not None
        for name, value in values.items():
            if value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, self.step)

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
