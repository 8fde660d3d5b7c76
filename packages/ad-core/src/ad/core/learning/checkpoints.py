"""Where a run stands, on disk: so that a run that was killed goes on as if it had not been.

A checkpoint is a folder in the format of a saved model, ``checkpoint/step-000000120``: tensors,
JSON and a manifest of hashes, written whole or not at all. The last two are kept; if the newest
was damaged, the one before is used.
"""

from __future__ import annotations

import shutil
import time
import warnings
from pathlib import Path
from typing import Any, final

from torch import Tensor

from ad.core.errors import ModelFileError
from ad.core.saved.files import read_model, save_tensors

_KEPT = 2


@final
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are; made when the first is saved.
        every_seconds: How long to learn until the next is due.
    """

    def __init__(self, folder: Path, *, every_seconds: float = 300.0) -> None:
        self.folder = folder
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Save where the run stands after a number of steps.

        Raises:
            OutputError: If it cannot be written; older ones are then still there.
        """
        target = self.folder / f"step-{step:09d}"
        if target.exists():  # equal by construction, unless it was damaged
            shutil.rmtree(target)
        save_tensors(target, tensors, {"step": step, **state})
        self._last = time.monotonic()
        for old in self._all()[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint that is whole; None without any."""
        for folder in reversed(self._all()):
            try:
                return read_model(folder)
            except ModelFileError as error:
                warnings.warn(f"A checkpoint is left out: {error}", stacklevel=2)
        return None

    @property
    def saved(self) -> bool:
        """Whether there is one, whole or not."""
        return bool(self._all())

    def clear(self) -> None:
        """Remove all of them: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())
