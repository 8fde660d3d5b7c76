"""Small videos without loss: what is written is what must be read."""

from fractions import Fraction

import numpy as np
import pytest

WITHOUT_AV = "PyAV is not installed (extra `video`)"
_FORMATS = {"libx264rgb": "rgb24", "libx264": "yuv420p", "ffv1": "gray16le"}


def coloured(count, height=24, width=32, seed=0):
    """Pictures ``[N, H, W, 3]``: noise with a bright column, another one in each."""
    noise = np.random.default_rng(seed).integers(0, 90, (height, width, 3))
    pictures = np.repeat(noise[None], count, axis=0)
    for index, picture in enumerate(pictures):
        picture[:, index % width] += 100 + 4 * (index % 10)
    return pictures.astype(np.uint8)


def write_clip(path, pictures, *, times=None, codec="libx264rgb", turned=None, options=None):
    """Write a video.

    Args:
        path: By its suffix a container that can hold the codec.
        pictures: ``[N, H, W, 3]`` uint8; of ffv1 ``[N, H, W]`` uint16.
        times: When each is shown, in milliseconds; 10 a second by default.
        codec: One of `_FORMATS`; libx264 alone has losses, and shows them in another order than
            that in which they are stored.
        turned: A display matrix.
        options: Of the container.
    """
    av = pytest.importorskip("av", reason=WITHOUT_AV)
    across = {"crf": "1", "x264-params": "bframes=2:b-adapt=0:scenecut=0"}
    coded = {"libx264rgb": {"crf": "0", "g": "5"}, "libx264": across}
    given = "rgb24" if codec != "ffv1" else "gray16le"
    with av.open(str(path), "w", options=options or {}) as file:
        stream = file.add_stream(codec, rate=10, options=coded.get(codec, {}))
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = _FORMATS[codec]
        stream.codec_context.time_base = Fraction(1, 1000)
        if turned is not None:
            stream.set_display_matrix(turned)
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=given)
            frame.pts = 100 * index if times is None else times[index]
            frame.time_base = Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
