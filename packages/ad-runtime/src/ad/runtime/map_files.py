"""Maps in the pictures' own pixels, as files for other programs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ad.runtime.framing import Framing
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
