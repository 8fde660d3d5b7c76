"""What a caller's paths, folders, images, bytes and arrays stand for."""

from __future__ import annotations

import codecs
import glob
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import DataError
from ad.runtime.paths import given_path, nearest_beside
from ad.runtime.pictures.frames import (
    Every,
    Frame,
    check_every,
    frame_named,
    is_frame,
    is_video,
    video_of,
)
from ad.runtime.pictures.masks import tell_apart
from ad.runtime.pictures.opening import still_encoded
from ad.runtime.pictures.reading import Source, rgb_array
from ad.runtime.pictures.reel import Reel, require
from ad.runtime.pictures.walking import (
    NO_FILE,
    OURS,
    SUFFIXES,
    VIDEO,
    everything_below,
    is_ours,
)

Input = str | Path | NDArray[Any] | Image.Image | bytes | bytearray | memoryview
Inputs = Input | Sequence[Input]

NOTHING = (
    "There is no picture to score: give pictures, folders, a quoted pattern such as "
    "'new/**/*.png', `-` for names on stdin, or `--list FILE`."
)
"""What is said where a command names none."""

_BYTES = (bytes, bytearray, memoryview)


def find_sources(
    inputs: Inputs, *, white: int | None = None, every: int | str | None = None
) -> list[Source]:
    """The pictures that a caller's paths, folders, images, bytes and arrays stand for, in order.

    A video that is named stands for its frames, see `ad.runtime.pictures.frames`, which are taken
    themselves, and by their names, too.

    Args:
        inputs: As `LoadedDetector.predict` takes them.
        white: The value that is white in arrays of uint16; see
            `ad.runtime.pictures.reading.rgb_array`.
        every: Which frames of videos, as of `Every.of`; None for all.

    Raises:
        MissingExtraError: If there is a video, and PyAV is not installed.
        SettingError: If `every` cannot be, or there is no video.
        PictureError: If an array is no picture, or none knows what is white in it.
        DataError: If a path does not exist, or a folder holds no picture.
        PathError: If a path is empty.
    """
    alone = isinstance(inputs, (str, Path, np.ndarray, Image.Image, *_BYTES))
    given = [inputs] if alone or not isinstance(inputs, Sequence) else inputs
    check_every(every, (Path(one) if isinstance(one, str) else one for one in given))
    reel: Reel | None = None
    looked_through: dict[Path, list[Frame]] = {}
    sources: list[Source] = []
    for one in given:
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
        if is_frame(one):
            sources.append(one)
            continue
        path = given_path(one, "a picture")
        if path.is_dir():
            sources += _parts_below(path)
        elif (video := video_of(path)) is not None:
            reel = reel or Reel()
            if video == path:
                sources += reel.frames(path, Every.of(every))
                continue
            if video not in looked_through:
                looked_through[video] = reel.frames(video, Every())
            sources.append(frame_named(path, looked_through[video]))
        elif path.exists():
            sources.append(path)
        else:
            msg = f"There is no picture or folder `{path}`.{nearest_beside(path)}"
            raise DataError(msg)
    if not sources:
        msg = "There is no picture to score: give paths, a folder, images, bytes or arrays."
        raise DataError(msg)
    return sources


def named_sources(names: Sequence[str | Path], *, listed: str | Path | None = None) -> list[Path]:
    """The pictures and folders that a command's arguments name, in order, for `find_sources`.

    A name is that of a picture, a folder or a video; or, where there is none of that name, a
    pattern of `glob`, with ``**`` for all folders below; or ``-`` for the names that stdin holds.
    A list, and stdin, hold a name a line, or names that end in NUL (``find -print0``), which are
    taken as they are. Relative ones begin at the current folder.

    Args:
        names: The arguments; a `Path` is a picture or folder.
        listed: A file of names.

    Raises:
        MissingExtraError: If there is a video, and PyAV is not installed.
        DataError: If a name stands for nothing, a list cannot be read or holds no name, or there
            are neither names nor a list.
        PathError: If a name is empty.
    """
    if not names and listed is None:
        raise DataError(NOTHING)
    paths: list[Path] = []
    for name in names:
        path = given_path(name, "a picture or folder")
        if name == "-":
            paths += _names_in(sys.stdin.buffer.read(), "stdin")
        elif not os.path.lexists(path) and glob.has_magic(str(path)):
            paths += _matches(str(path))
        else:
            paths.append(_there(path))
    if listed is not None:
        file = given_path(listed, "`--list`")
        try:
            content = file.read_bytes()
        except OSError as error:
            msg = f"The list `{file}` cannot be read ({error.strerror})."
            raise DataError(msg) from error
        paths += _names_in(content, f"the list `{file}`")
    for path in paths:
        if (video := video_of(path)) is not None:
            require(video)
    return paths


def _names_in(content: bytes, what: str) -> list[Path]:
    content = content.removeprefix(codecs.BOM_UTF8)
    by_nul = b"\0" in content
    lines = (
        content.split(b"\0")
        if by_nul
        else [line.removesuffix(b"\r") for line in content.split(b"\n")]
    )
    paths = [
        _there(Path(os.fsdecode(line)), f"{'Name' if by_nul else 'Line'} {number} of {what}: ")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not paths:
        msg = f"There is no picture to score: {what} is empty. It takes the name of one a line."
        raise DataError(msg)
    return paths


def _there(path: Path, where: str = "") -> Path:
    if path.exists() or video_of(path) is not None:
        return path
    msg = f"{where}There is no picture or folder `{path}`.{nearest_beside(path)}"
    if where and not path.is_absolute():
        msg += f" Relative names begin at the current folder, `{Path.cwd()}`."
    raise DataError(msg)


def _matches(pattern: str) -> list[Path]:
    """Pictures that a pattern matches, and folders unless it goes into them itself.

    Videos only if it ends as their names do.
    """
    found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    folders = [] if "**" in Path(pattern).parts else [path for path in found if path.is_dir()]
    videos = {path for path in found if is_video(path) and not path.is_dir()}
    pictures = {path for path in found if path.suffix.lower() in SUFFIXES and not path.is_dir()}
    if is_video(Path(pattern)):
        pictures, videos = pictures | videos, set()
    first = next(i for i, part in enumerate(Path(pattern).parts) if glob.has_magic(part))
    ours = {
        path
        for path in pictures
        if any(is_ours(one) for one in path.parents if len(one.parts) > first)
    }
    kept = [path for path in found if path in {*pictures, *folders} - ours]
    if not kept:
        others = f" It matches {len(found)} that are neither." if found else ""
        if videos:
            others += f" {len(videos)} are videos: let it end as they do, such as `*.mp4`."
        msg = (
            f"The pattern `{pattern}` matches no picture (.jpg, .png, .bmp, .tif, ...) and no "
            f"folder, and there is no file of that name.{others}"
        )
        raise DataError(msg)
    if ours or videos:
        said = ", ".join(
            f"{len(some)} ({why})" for some, why in ((ours, OURS), (videos, VIDEO)) if some
        )
        warnings.warn(
            f"Of what `{pattern}` matches, {said} are no pictures of parts and are "
            "left out. Name a file or its folder to score it all the same.",
            stacklevel=3,
        )
    return kept


def _parts_below(folder: Path) -> list[Path]:
    """Pictures of parts below a folder; says what else is there and is not scored.

    Raises:
        DataError: If there is none.
    """
    pictures, masks = tell_apart(folder)
    others = Counter(
        why
        for path, why in everything_below(folder)
        if why == VIDEO or (why in (OURS, NO_FILE) and path.suffix.lower() in SUFFIXES)
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
