"""Writes maps in the pictures' own pixels, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from ad.core.errors import SettingError
from ad.core.saved.claims import make_folder
from ad.runtime.map_files import map_file
from ad.runtime.numbered import numbered_names, write_numbered
from ad.runtime.paths import given_path
from ad.runtime.runtime import Runtime

if TYPE_CHECKING:
    from ad.core.data.batches import Batch
    from ad.core.predict import LoadedDetector


@final
class MapFiles:
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
        if not detector.localises:
            msg = (
                f"`{detector.config.model}` judges pictures as a whole and has no maps to save. "
                "Leave `save_maps` out, or take a model that localises: see `ad models`."
            )
            raise SettingError(msg)
        self.folder = given_path(folder, "the folder for maps")
        make_folder(self.folder)
        self.paths = paths
        self.framing = detector.config.framing
        self.threshold = threshold
        self._names = numbered_names(paths, ".npz")

    def see(
        self, batch: Batch, scores: NDArray[np.float32], maps: NDArray[np.float32] | None
    ) -> None:
        """Write the maps of a batch, whose indices are those of the paths."""
        for row, index in enumerate(batch.indices):
            if maps is not None:
                self.write(index, float(scores[row]), maps[row])

    def write(self, index: int, score: float, map_: NDArray[np.float32]) -> Path:
        """Write the map of one picture.

        Args:
            index: Which of the paths.
            score: Its raw score.
            map_: ``[h, w]``, as the detector gave it.

        Raises:
            PictureError: If the picture is not there any more.
            OutputError: If the file cannot be written.
        """
        path = self.paths[index]
        content = map_file(path, score, map_, framing=self.framing, threshold=self.threshold)
        return write_numbered(self.folder, self._names[index], content)
