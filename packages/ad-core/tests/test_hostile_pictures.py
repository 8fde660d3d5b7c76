"""Damaged and hostile pictures: a clear error, in bounded memory."""

import contextlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from ad.core.data.pictures import check_headers, read_picture
from ad.core.errors import PictureError

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limits and devices")


@linux
@pytest.mark.slow
def test_500_accidents_of_each_format_are_pictures_or_errors(tmp_path):
    """In a process of its own: a decoder that crashes or hangs takes nothing else with it."""
    suffixes = ["png", "jpg", "bmp", "tif", "tiff", "webp", "gif", "pgm", "ppm"]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("damage.py"), tmp_path, *suffixes],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, suffix in zip(done.stdout.splitlines(), suffixes, strict=True):
        found = json.loads(line)
        assert found["suffix"] == suffix
        assert found["pictures"] + found["errors"] == 500
        assert found["errors"] > 100  # it was damage, and it was noticed
        assert found["memory"] < 2**30


def png(*chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in chunks:
        whole = kind + data
        parts.append(struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole)))
    return b"".join(parts)


def size(width, height):
    return (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


BOMB = zlib.compress(bytes(2**26), 9)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", png(size(60000, 60000), (b"IDAT", BOMB), (b"IEND", b"")), "more than .* pixels"),
        ("a.png", png(size(2**31 - 1, 1), (b"IDAT", BOMB), (b"IEND", b"")), "more than .* pixels"),
        ("a.bmp", b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 2**20, 2**20, 1, 24,
                                      *[0] * 6), "more than .* pixels"),
        ("a.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b";",
         "cannot be read|more than"),
        ("a.pgm", b"P5 99999999 99999999 255\n", "more than .* pixels"),
        ("a.png", png(size(4, 4), (b"zTXt", b"k\0\0" + BOMB), (b"IEND", b"")), "cannot be read"),
        ("a.png", png(size(4, 4), (b"iCCP", b"k\0\0" + BOMB), (b"IEND", b"")), "cannot be read"),
    ],
    ids=["png", "wide png", "bmp", "gif", "pgm", "png text", "png profile"],
)  # fmt: skip
def test_a_bomb_is_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PictureError, match=words):
        read_picture(path)
    with contextlib.suppress(PictureError):  # some are found when they are decoded
        check_headers(path, [])
