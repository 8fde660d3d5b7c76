"""Writes maps in the pictures' own pixels, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from ad.core.saved.claims import make_folder
from ad.runtime.map_files import MapFolder, refuse_without_maps
from ad.runtime.paths import given_path
from ad.runtime.runtime import Runtime

if TYPE_CHECKING:
    from ad.core.data.batches import Batch
    from ad.core.predict import LoadedDetector


@final
class MapFiles(MapFolder):
    """A ``.npz`` for each picture; see `ad.runtime.map_files`.

    Args:
        folder: To make; must be empty.
        paths: All pictures that there may be.
        detector: That scores them.
        threshold: That verdicts are made by; None without one.

    Raises:
        SettingError: If it does not localise.
        OutputError: If the folder cannot be made, or is not empty.
    """

    def __init__(
        self,
        folder: str | Path,
        paths: Sequence[Path],
        detector: LoadedDetector | Runtime,
        threshold: float | None,
    ) -> None:
        refuse_without_maps(detector.config.model, localises=detector.localises)
        path = given_path(folder, "the folder for maps")
        make_folder(path)
        super().__init__(path, paths, framing=detector.config.framing, threshold=threshold)

    def see(
        self, batch: Batch, scores: NDArray[np.float32], maps: NDArray[np.float32] | None
    ) -> None:
        """Write the maps of a batch, whose indices are those of the paths."""
        for row, index in enumerate(batch.indices):
            if maps is not None:
                self.write(index, float(scores[row]), maps[row])
