"""Videos to pictures, each video in its order: what a camera recorded, frame by frame.

What lies between two frames that are asked for must be decoded all the same, as each is coded by
its changes. So one reader goes forward through a video and keeps what it passes that will be asked
for. What is asked for again later than it is kept (for the heat map of a picture, after a batch of
large ones) is met by a second reader that follows the first.

FFmpeg decodes, by PyAV, which is imported when a video is looked at.
"""

from __future__ import annotations

import itertools
import shlex
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.errors import MissingExtraError, PictureError, how_to_install
from ad.runtime.pictures.frames import Every, Frame
from ad.runtime.pictures.opening import turn

KEPT_BYTES, KEPT = 256 * 2**20, 16
"""Bytes of decoded frames that are kept, and of how many at least."""

_READERS = 3  # of all videos together: each holds a file and the decoder's threads
_MISSING = 1.5  # seconds at the end that are told; a frame's own may be one
_MOST_BITS = 14  # of a format that says how many; of 16 a part may be empty

# EXIF's orientation by the signs of a display matrix: where a picture's x and y axes point to.
_ORIENTATIONS: dict[tuple[float, ...], int] = {
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}


@dataclass(slots=True, eq=False)
class _Clip:
    """A video that was looked through."""

    video: Path
    stamps: Sequence[int]
    """Time stamps of all its frames."""
    wanted: frozenset[int]
    """Of those that will be asked for."""
    first: int
    last: int
    """The lowest and the highest of these."""
    orientation: int | None = None
    """EXIF's number for how it is turned, 0 if by no multiple of 90 degrees; None until a frame was
    asked: what is read of a frame beside its pixels keeps all of it until the next collection."""


@final
class Reel:
    """Decodes frames of videos; several threads may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[_Clip, int], NDArray[np.uint8] | str] = OrderedDict()
        self._bytes = 0
        self._readers: list[_Reader] = []
        self._begun: set[_Clip] = set()

    def frames(self, video: Path, every: Every) -> list[Frame]:
        """The frames of a video that are looked at.

        What cannot be read is told by one that raises its error: instead of all, or behind the
        others where the video was cut short.

        Args:
            video: The file.
            every: Which of them.

        Raises:
            MissingExtraError: If PyAV is not installed.
        """
        require(video)
        try:
            stamps, base, missing = _stamps(video)
        except PictureError as error:
            return [Frame.of(video, partial(_raise, str(error)))]
        times = [(stamp - stamps[0]) * base for stamp in stamps]
        chosen = every.choose(times)
        wanted = [stamps[index] for index in chosen]
        clip = _Clip(video, stamps, frozenset(wanted), wanted[0], wanted[-1])
        decode = partial(self._image, clip)
        places = _places([times[index] for index in chosen])
        frames = [Frame.of(video, decode, index, times[index], places) for index in chosen]
        return [*frames, Frame.of(video, partial(_raise, missing))] if missing else frames

    def _image(self, clip: _Clip, index: int) -> Image.Image:
        stamp = clip.stamps[index]
        with self._lock:
            pixels = self._kept.get((clip, stamp))
            if pixels is None:
                pixels = self._decoded(clip, stamp)
        if isinstance(pixels, str):
            msg = f"Picture {index} of the video `{clip.video}`, counted from 0, {pixels}."
            raise PictureError(msg)
        return Image.fromarray(pixels)

    def _decoded(self, clip: _Clip, stamp: int) -> NDArray[np.uint8] | str:
        behind = [one for one in self._readers if one.clip is clip and one.at < stamp]
        if behind:
            reader = max(behind, key=lambda one: one.at)
            self._readers.remove(reader)
        else:  # the first one goes from the start, whichever thread was the first to ask
            reader = _Reader(clip, stamp if clip in self._begun else clip.first)
            self._begun.add(clip)
        found: NDArray[np.uint8] | str | None = None
        for at, frame in reader:
            if at in clip.wanted:
                if clip.orientation is None:
                    clip.orientation = _orientation(frame)
                pixels = _upright(frame, clip.orientation)
                self._keep(clip, at, pixels)
                found = pixels if at == stamp else None
            if at >= stamp:
                break
        if reader.at < clip.last:
            self._readers.append(reader)
            if len(self._readers) > _READERS:
                self._readers.pop(0).close()
        else:
            reader.close()
        if found is None:
            found = "cannot be decoded: the file is damaged there, or cut short"
            self._keep(clip, stamp, found)
        return found

    def _keep(self, clip: _Clip, stamp: int, pixels: NDArray[np.uint8] | str) -> None:
        if (clip, stamp) in self._kept:
            return
        self._kept[clip, stamp] = pixels
        self._bytes += _size(pixels)
        while self._bytes > KEPT_BYTES and len(self._kept) > KEPT:
            self._bytes -= _size(self._kept.popitem(last=False)[1])


@final
class _Reader:
    """Goes forward through a video: time stamps and FFmpeg's frames.

    Args:
        clip: The video.
        start: Time stamp of the first frame that is needed.

    Raises:
        PictureError: If the file is gone.
    """

    def __init__(self, clip: _Clip, start: int) -> None:
        self.clip = clip
        self.at = clip.first - 1
        """Time stamp of the frame that it is at; what it has passed is behind it for good."""
        self._container, stream = _open(clip.video)
        self._frames = _frames(self._container, stream)
        if start > clip.first:
            self._skip_to(start, stream)

    def _skip_to(self, start: int, stream: Any) -> None:  # noqa: ANN401  PyAV's types are not at hand
        import av

        try:
            # To the last frame before it that needs no other one.
            self._container.seek(start, stream=stream)
            first = next(self._frames, None)
        except av.FFmpegError:
            first = None
        if first is not None and first.pts <= start:
            self._frames = itertools.chain([first], self._frames)
        else:  # there is no such one, or the file does not tell where
            self.close()
            self._container, stream = _open(self.clip.video)
            self._frames = _frames(self._container, stream)
        self.at = start - 1  # what is shown before may lack frames that it was coded by

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for frame in self._frames:
            if frame.pts is not None and frame.pts > self.at:
                self.at = frame.pts
                yield self.at, frame
        self.at = self.clip.last

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


def require(video: Path) -> None:
    """Refuse a video where nothing is installed that reads it.

    Raises:
        MissingExtraError: If it is so.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        msg = (
            f"`{video}` is a video. Videos are read by PyAV, which is not installed: "
            f"{how_to_install('ad-runtime', 'video')}"
        )
        raise MissingExtraError(msg) from error


def _open(video: Path) -> tuple[Any, Any]:
    """An open video and its one stream of pictures."""
    import av
    from av.stream import Disposition

    try:
        # By its whole path, or a name such as `a:b.mp4` would be an address; and what some formats
        # have in place of pictures, addresses of other files, is not followed into the network.
        container = av.open(str(video.absolute()), options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError, ValueError) as error:
        raise PictureError(_unreadable(video, error)) from error
    still = Disposition.attached_pic | Disposition.timed_thumbnails  # a cover, and previews
    streams = [one for one in container.streams.video if not one.disposition & still]
    if len(streams) == 1 and streams[0].codec_context is not None:
        # Not several frames at once: where a file is cut off, those under way would be lost.
        streams[0].thread_type = "SLICE"
        return container, streams[0]
    container.close()
    if len(streams) == 1:
        msg = f"The video `{video}` is coded in a way that this FFmpeg does not know."
    elif not streams:
        msg = f"The video `{video}` holds no pictures that move (sound, or a cover, alone)."
    else:
        msg = (
            f"The video `{video}` holds {len(streams)} streams of pictures, and it is not said "
            "which one is meant. Save each in a file of its own, the first by: ffmpeg -i "
            f"{shlex.quote(str(video))} -map 0:v:0 -c copy first{video.suffix}"
        )
    raise PictureError(msg)


def _frames(container: Any, stream: Any) -> Iterator[Any]:  # noqa: ANN401
    """FFmpeg's frames, in the order in which they are shown; those of damaged packets are not."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            decoded = packet.decode()
        except av.EOFError:
            return
        except av.FFmpegError:
            continue
        yield from decoded


def _stamps(video: Path) -> tuple[list[int], Fraction, str]:
    """What a video holds; nothing is decoded.

    Returns:
        Time stamps of its frames, rising; their unit in seconds; what is missing, if anything is.

    Raises:
        PictureError: If it cannot be read, or does not say when its frames are shown.
    """
    container, stream = _open(video)
    with container:
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and stream.width * stream.height > limit:
            msg = (
                f"The pictures of the video `{video}` have more than {limit:,} pixels, the most "
                "that is decoded. Scale it down."
            )
            raise PictureError(msg)
        stamps, keys, there = [], [], []
        for packet in _packets(container, stream):
            there.append(packet.pts)
            if not packet.is_discard:
                stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        base, said = stream.time_base, _said_to_last(container, stream)
        promised = stream.frames
    if not stamps:
        msg = f"The video `{video}` holds no pictures: it is empty, or was cut short at its start."
        raise PictureError(msg)
    if None in there or len({*stamps}) < len(stamps) or keys != sorted(keys):
        msg = (
            f"The video `{video}` does not say when each of its pictures is shown, or says it "
            "wrongly. Write it anew: ffmpeg -i "
            f"{shlex.quote(str(video))} -fps_mode cfr new.mp4"
        )
        raise PictureError(msg)
    if keys:  # what is shown before the first that needs no other one cannot be decoded
        stamps = [stamp for stamp in stamps if stamp >= keys[0]]
    seconds = float((max(there) - min(there)) * base)
    missing = ""
    if promised > len(there) or said > seconds + _MISSING:
        of = f"{promised} pictures" if promised > len(there) else f"{said:.1f} s"
        missing = (
            f"The video `{video}` was cut short: it says that it holds {of}, and holds "
            f"{len(there)} pictures, {seconds:.1f} s. Copy it again."
        )
    return sorted(stamps), Fraction(base), missing


def _packets(container: Any, stream: Any) -> Iterator[Any]:  # noqa: ANN401
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the file ends in the middle of one
            return
        if packet is None:
            return
        if packet.size:
            yield packet


def _said_to_last(container: Any, stream: Any) -> float:  # noqa: ANN401
    """How many seconds a file says that its pictures last; 0 if it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    others = len(container.streams) > 1  # sound may be longer
    return 0.0 if others or container.duration is None else container.duration / 1e6


def _orientation(frame: Any) -> int:  # noqa: ANN401
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return 1 if matrix is None else _ORIENTATIONS.get(_axes(bytes(matrix)), 0)


def _upright(frame: Any, orientation: int) -> NDArray[np.uint8] | str:  # noqa: ANN401
    """Pixels of a frame ``[H, W, 3]``, RGB, as it is meant to be seen; or why there are none."""
    if frame.is_corrupt:
        return "is damaged: a part of it cannot be decoded"
    if any(part.bits > _MOST_BITS for part in frame.format.components):
        return (
            f"is of `{frame.format.name}`, of which 16 bits are stored and nobody says how many "
            "the camera filled. Save it as pictures (PNG or TIFF)"
        )
    if not orientation:
        return "is said to be shown askew, by no multiple of 90 degrees. Save it as it is shown"
    try:
        pixels = frame.to_ndarray(format="rgb24")
    except (OSError, ValueError) as error:  # FFmpeg's own are of these
        return f"cannot be brought from `{frame.format.name}` to RGB ({error})"
    return np.ascontiguousarray(turn(pixels, orientation))


def _axes(matrix: bytes) -> tuple[float, ...]:
    """The directions of a display matrix's axes, as of `_ORIENTATIONS`, to a hundredth."""
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix[:36])
    return tuple(round(part / 2**16, 2) for part in (a, b, c, d))


def _places(times: list[Fraction]) -> int:
    """How many places of the seconds tell frames apart, from 3 on."""
    return next(
        places
        for places in (3, 6, 9, 12)
        if places == 12 or len({f"{float(time):.{places}f}" for time in times}) == len(times)
    )


def _size(pixels: NDArray[np.uint8] | str) -> int:
    return 0 if isinstance(pixels, str) else pixels.nbytes


def _raise(reason: str, index: int) -> Image.Image:  # noqa: ARG001
    raise PictureError(reason)


def _unreadable(video: Path, error: Exception) -> str:
    if not video.exists():
        return f"The video `{video}` does not exist."
    if video.is_file() and video.stat().st_size == 0:
        return f"The video `{video}` is empty (0 bytes). Copy it again or remove it."
    why = getattr(error, "strerror", None) or str(error)
    return (
        f"The video `{video}` cannot be read ({why}). It may be cut short, or no video: copy it "
        "again or remove it."
    )
