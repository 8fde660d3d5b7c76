"""Single pictures of a video: what they are called, and which of them are looked at.

A frame goes where the path of a picture goes: to a finding, a table, the name of a heat map.
`ad.runtime.pictures.reel` finds and decodes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeGuard, final

from ad.runtime.errors import DataError, SettingError, shown

if TYPE_CHECKING:
    from PIL import Image

    _Plain = Path
else:
    _Plain = type(Path())  # `Path` itself can have children from Python 3.12 on alone

SUFFIXES = frozenset(
    {
        *(".3gp", ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"),
        *(".ogv", ".ts", ".webm", ".wmv"),
    }
)
"""File names that end like this are videos; case does not matter."""

AS_PICTURES = "ffmpeg -i {video} -vf fps=1 frame-%04d.png"
"""What makes pictures of a video, one a second, where only pictures are taken."""

_NAME = re.compile(r"(?P<video>.+)#t=(?P<time>[0-9]+(?:\.[0-9]{1,12})?)")
_PLACES = 3  # of the seconds in a name, at least
_EVERY = re.compile(r"(?P<count>[0-9]{1,9})|(?P<time>[0-9]{1,9}(?:\.[0-9]{1,9})?)(?P<unit>m?s)")


@final
class Frame(_Plain):
    """A picture of a video, as a path: ``clip.mp4#t=12.480``. There is no file of that name.

    It is made by `Frame.of`; what is derived from it, such as its parent, is a path like any other
    (see `is_frame`).

    Attributes:
        video: The file.
        index: Which picture of it, from 0 on, in the order in which they are shown.
        seconds: When it is shown, counted from the first one; None if the video cannot be read, of
            which this then is the whole.
    """

    __slots__ = ("_decode", "index", "seconds", "video")  # an hour of video has 90,000 of them
    video: Path
    index: int
    seconds: float | None
    _decode: Callable[[int], Image.Image]

    @classmethod
    def of(
        cls,
        video: Path,
        decode: Callable[[int], Image.Image],
        index: int = 0,
        seconds: Fraction | None = None,
        places: int = _PLACES,
    ) -> Self:
        """Make one.

        Args:
            video: The file.
            decode: Decodes a picture, by its index; raises `PictureError`.
            index: Which picture.
            seconds: When it is shown.
            places: Of the seconds in its name.
        """
        time = "" if seconds is None else f"#t={float(seconds):.{places}f}"
        frame = cls(f"{video}{time}")
        frame.video, frame.index, frame._decode = video, index, decode
        frame.seconds = None if seconds is None else float(seconds)
        return frame

    def image(self) -> Image.Image:
        """Decode it.

        Raises:
            PictureError: If it cannot be.
        """
        return self._decode(self.index)


def is_frame(path: object) -> TypeGuard[Frame]:
    """Whether something is a picture of a video, and not only derived from the path of one."""
    return isinstance(path, Frame) and hasattr(path, "video")


def is_video(path: Path) -> bool:
    """Whether a path is named like a video."""
    return path.suffix.lower() in SUFFIXES


def video_of(path: Path) -> Path | None:
    """The video that a path is or names a frame of; None for anything else, such as a folder."""
    found = path
    if (named := _NAME.fullmatch(path.name)) is not None and not path.exists():
        found = path.with_name(named["video"])
    return found if is_video(found) and found.is_file() else None


def frame_named(path: Path, frames: Sequence[Frame]) -> Frame:
    """The frame that a path names, as a table does.

    Args:
        path: Such a name: ``clip.mp4#t=12.480``, or shorter for the same, ``clip.mp4#t=12.48``.
        frames: All of the video.

    Raises:
        DataError: If there is no such frame, or several are at that time.
    """
    named = _NAME.fullmatch(path.name)
    assert named is not None
    if frames[0].seconds is None:  # it cannot be read, and says so
        return frames[0]
    whole, _, part = named["time"].partition(".")
    places = max(_PLACES, len(part))
    time = f"{whole}.{part.ljust(places, '0')}"
    there = [one for one in frames if one.seconds is not None]
    found = [one for one in there if f"{one.seconds:.{places}f}" == time]
    if len(found) == 1:
        return found[0]
    nearest = min(there, key=lambda one: abs((one.seconds or 0.0) - float(time)))
    how = f"{len(found)} pictures" if found else "no picture"
    msg = (
        f"The video `{there[0].video}` has {how} at {time} s; the nearest is `{nearest}`. It has "
        f"{len(there)} pictures, the last at {there[-1].seconds:.{_PLACES}f} s."
    )
    raise DataError(msg)


def without_suffix(path: Path) -> Path:
    """The path of a picture without its suffix; for a frame, with its time in place of it."""
    if not is_frame(path):
        return path.with_suffix("")
    return path.video.with_name(path.name.replace(path.video.suffix, "").replace("#t=", "-t"))


@final
@dataclass(frozen=True, slots=True)
class Every:
    """Which pictures of a video are looked at: every n-th, or the first of each stretch of time."""

    frames: int = 1
    """Every n-th, the first one among them."""
    seconds: Fraction | None = None
    """Or how long a stretch is."""

    @classmethod
    def of(cls, given: int | str | None) -> Self:
        """Read ``10`` (each tenth picture), ``0.5s``, ``40ms``; None is each one.

        Raises:
            SettingError: If it is something else.
        """
        if given is None:
            return cls()
        found = None
        if isinstance(given, (int, str)) and not isinstance(given, bool):
            found = _EVERY.fullmatch(str(given).strip())
        if found is not None and found["count"] and int(found["count"]) > 0:
            return cls(frames=int(found["count"]))
        if found is not None and found["time"] and Fraction(found["time"]) > 0:
            return cls(seconds=Fraction(found["time"]) / (1000 if found["unit"] == "ms" else 1))
        msg = (
            "`--every` (`every`) says which pictures of a video are scored: a whole number from 1 "
            "counts pictures (`10`: every tenth), a time has its unit (`1s`, `0.5s`, `40ms`: the "
            f"first picture of each such stretch); got {shown(given)}."
        )
        raise SettingError(msg)

    def choose(self, times: Iterable[Fraction]) -> list[int]:
        """Which pictures are looked at.

        Args:
            times: Of all pictures, in seconds from the first one, rising.

        Returns:
            Their indices. Of a stretch without pictures there is none.
        """
        if self.seconds is None:
            return [index for index, _ in enumerate(times) if index % self.frames == 0]
        chosen, last = [], -1
        for index, time in enumerate(times):
            if (stretch := time // self.seconds) > last:
                chosen.append(index)
                last = stretch
        return chosen


def check_every(every: int | str | None, paths: Iterable[object]) -> None:
    """Refuse a choice of frames that cannot be, or where there is no video.

    Args:
        every: As it was given; None for none.
        paths: All that is to be looked at.

    Raises:
        SettingError: If it cannot be.
    """
    Every.of(every)
    if every is not None and not any(isinstance(one, Path) and is_video(one) for one in paths):
        msg = (
            f"`--every {every}` is for videos ({', '.join(sorted(SUFFIXES))}), and none is named. "
            "Leave it out. Videos in folders are not looked for: name them, or give a pattern such "
            "as 'clips/*.mp4'."
        )
        raise SettingError(msg)
