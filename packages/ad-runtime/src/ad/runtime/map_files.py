"""Maps in the pictures' own pixels, as files for other programs.

`map_file` is one of them, `MapFolder` those of many pictures.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ad.runtime.errors import OutputError, SettingError
from ad.runtime.framing import Framing
from ad.runtime.numbered import numbered_names, write_numbered
from ad.runtime.pictures.reading import upright_size


def map_file(
    path: Path,
    score: float,
    map_: NDArray[np.float32],
    *,
    framing: Framing,
    threshold: float | None,
) -> bytes:
    """Content of an ``.npz``, as `numpy.load` reads it, of one picture.

    In it are ``map`` (``[H, W]``, float32, of the upright picture's own size; NaN where the picture
    was not looked at), ``score``, ``threshold`` (NaN without one) and ``path``.

    Args:
        path: The picture.
        score: Its raw score.
        map_: ``[h, w]``, as the detector gave it.
        framing: How the picture became what was scored.
        threshold: Of scores; None without calibration.

    Raises:
        PictureError: If the picture is not there any more.
    """
    width, height = upright_size(path)
    content = io.BytesIO()
    np.savez(
        content,
        map=framing.back(map_, (height, width)),
        score=np.float32(score),
        threshold=np.float64(np.nan if threshold is None else threshold),
        path=np.array(str(path)),
    )
    return content.getvalue()


class MapFolder:
    """A ``.npz`` for each picture, in a folder that is there and empty.

    Args:
        folder: It.
        paths: All pictures that there may be.
        framing: How a picture becomes what is scored.
        threshold: Of scores; None without calibration.
    """

    def __init__(
        self, folder: Path, paths: Sequence[Path], *, framing: Framing, threshold: float | None
    ) -> None:
        self.folder, self.paths = folder, paths
        self.framing, self.threshold = framing, threshold
        self._names = numbered_names(paths, ".npz")

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


def make_map_folder(folder: Path, *, resume: bool = False) -> None:
    """Make the folder for maps.

    Args:
        folder: It; must not hold anything.
        resume: It may hold what was written before.

    Raises:
        OutputError: If it cannot be made, or is not empty.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = any(folder.iterdir())
    except OSError as error:
        msg = f"The folder for maps `{folder}` cannot be made ({error.strerror})."
        raise OutputError(msg) from error
    if taken and not resume:
        msg = f"The folder for maps `{folder}` is not empty. Name another one, or remove it first."
        raise OutputError(msg)


def refuse_without_maps(name: str, *, localises: bool) -> None:
    """Refuse to save the maps of a model that has none.

    Args:
        name: Of the model.
        localises: Whether it has them.

    Raises:
        SettingError: If it has none.
    """
    if not localises:
        msg = (
            f"`{name}` judges pictures as a whole and has no maps to save. Leave `--save-maps` "
            "(`save_maps`) out, or take a model that localises: see `ad models`."
        )
        raise SettingError(msg)
