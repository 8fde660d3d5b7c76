"""torch's own archive at work: for the threshold and the check of one that was just written.

Only those. Reading an archive lets torch evaluate texts and unpickle tensors that are in it, so
that one from anywhere could run any code: it is for programs whose authors know where it is from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from numpy.typing import NDArray

from ad.core.exporting.tracing import quiet
from ad.runtime.config import ExportConfig
from ad.runtime.engines.base import Engine


@final
class ArchiveEngine(Engine):
    """See `Engine`; fp32 on the CPU, by as many threads as torch has."""

    name = "torch"

    def __init__(self, model: Path, config: ExportConfig) -> None:
        super().__init__(model, config, device="cpu", threads=torch.get_num_threads())
        self.version = torch.__version__
        with quiet():
            self._module = torch.export.load(model).module()

    def settings(self) -> dict[str, Any]:
        """See `Engine.settings`."""
        return {"threads": torch.get_num_threads()}

    def _infer(self, batch: NDArray[Any]) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            return [one.numpy() for one in self._module(torch.from_numpy(batch))]
