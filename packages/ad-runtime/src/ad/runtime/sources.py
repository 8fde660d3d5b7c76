"""What a caller's paths, folders, images, bytes and arrays stand for."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import DataError
from ad.runtime.paths import given_path
from ad.runtime.pictures.masks import tell_apart
from ad.runtime.pictures.opening import still_encoded
from ad.runtime.pictures.reading import Source, rgb_array
from ad.runtime.pictures.walking import NO_FILE, OURS, SUFFIXES, everything_below

Input = str | Path | NDArray[Any] | Image.Image | bytes | bytearray | memoryview
Inputs = Input | Sequence[Input]

_BYTES = (bytes, bytearray, memoryview)


def find_sources(inputs: Inputs, *, white: int | None = None) -> list[Source]:
    """The pictures that a caller's paths, folders, images, bytes and arrays stand for, in order.

    Args:
        inputs: As `LoadedDetector.predict` takes them.
        white: The value that is white in arrays of uint16; see
            `ad.runtime.pictures.reading.rgb_array`.

    Raises:
        PictureError: If an array is no picture, or none knows what is white in it.
        DataError: If a path does not exist, or a folder holds no picture.
        PathError: If a path is empty.
    """
    alone = isinstance(inputs, (str, Path, np.ndarray, Image.Image, *_BYTES))
    sources: list[Source] = []
    for one in [inputs] if alone or not isinstance(inputs, Sequence) else inputs:
        if isinstance(one, np.ndarray):
            several = one if one.ndim == 4 else [one]
            sources += [rgb_array(picture, white=white) for picture in several]
            continue
        if isinstance(one, Image.Image):
            sources.append(still_encoded(one) or one)
            continue
        if isinstance(one, _BYTES):
            sources.append(bytes(one))
            continue
        if not isinstance(one, (str, Path)):
            msg = (
                "A picture must be a path, a folder, a PIL image, the bytes of a picture's file or "
                f"a NumPy array; got {type(one).__name__}."
            )
            raise DataError(msg)
        path = given_path(one, "a picture")
        if path.is_dir():
            sources += _parts_below(path)
        elif path.exists():
            sources.append(path)
        else:
            msg = f"There is no picture or folder `{path}`."
            raise DataError(msg)
    if not sources:
        msg = "There is no picture to score: give paths, a folder, images, bytes or arrays."
        raise DataError(msg)
    return sources


def _parts_below(folder: Path) -> list[Path]:
    """Pictures of parts below a folder; says what else is there and is not scored.

    Raises:
        DataError: If there is none.
    """
    pictures, masks = tell_apart(folder)
    others = Counter(
        why
        for path, why in everything_below(folder)
        if why in (OURS, NO_FILE) and path.suffix.lower() in SUFFIXES
    )
    if masks:
        others["masks"] = len(masks)
    left_out = ", ".join(f"{count} ({why})" for why, count in others.items())
    if not pictures:
        but = f"; {left_out} are left out" if left_out else ""
        msg = f"The folder `{folder}` holds no pictures (.jpg, .png, .bmp, .tif, ...){but}."
        raise DataError(msg)
    if left_out:
        warnings.warn(
            f"Of the files in `{folder}`, {left_out} are no pictures of parts and are left out. "
            "Name a file or its folder to score it all the same.",
            stacklevel=3,
        )
    return pictures
