"""Damaged and hostile pictures: a clear error, in bounded memory."""

import contextlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from ad.runtime.errors import PictureError
from ad.runtime.pictures.drawn import check_headers, read_mask
from ad.runtime.pictures.reading import read_picture

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


def frames(count, *, size=(20, 30)):
    return [Image.new("RGB", size, (60 * index, 0, 0)) for index in range(count)]


def put_frames(path, pages, **options):
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


SEVERAL = (
    "holds several pictures, of which only the first would be looked at. Save each in a file of"
)


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_a_file_of_several_pictures_is_refused(tmp_path, suffix):
    path = put_frames(tmp_path / f"a.{suffix}", frames(3))
    with pytest.raises(PictureError, match=rf"^The picture `.*a\.{suffix}` {SEVERAL}"):
        read_picture(path)
    with pytest.raises(PictureError, match=SEVERAL):
        check_headers(path, [])
    with pytest.raises(PictureError, match=rf"^The picture in [\d,]+ bytes {SEVERAL}"):
        read_picture(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        with pytest.raises(PictureError, match=rf"^The PIL image .* {SEVERAL} .*`image.copy\(\)`"):
            read_picture(image)
        assert int(read_picture(image.copy())[0, 0, 0]) == pytest.approx(60, abs=2)
    picture = tmp_path / "p.png"
    frames(1)[0].save(picture)
    with pytest.raises(PictureError, match=rf"^The mask `.*a\.{suffix}` {SEVERAL}"):
        read_mask(path, picture, 8)


def tagged_pages(path, kinds, exif=None):
    """A TIFF whose pages have these values of NewSubfileType, each smaller than the one before."""
    pages = frames(len(kinds), size=(40, 60))
    with TiffImagePlugin.AppendingTiffWriter(path, new=True) as file:
        for index, (page, kind) in enumerate(zip(pages, kinds, strict=True)):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            if kind is not None:
                tags[254] = kind
            if exif is not None:
                tags[0x0112] = exif
            page.resize((40 >> index, 60 >> index)).save(file, format="TIFF", tiffinfo=tags)
            file.newFrame()
    return path


@pytest.mark.parametrize("orientation", [None, 6])
@pytest.mark.parametrize("kinds", [[0, 1], [None, 1, 1], [2, 5], [0, 4]])
def test_pages_that_say_they_are_previews_or_masks_of_the_first_count_for_nothing(
    tmp_path, kinds, orientation
):
    path = tagged_pages(tmp_path / "a.tif", kinds, orientation)
    shape = (60, 40, 3) if orientation is None else (40, 60, 3)
    assert read_picture(path).shape == shape
    assert (read_picture(path) == 0).all()
    check_headers(path, [])


@pytest.mark.parametrize("kinds", [[1, 0], [0, 1, 0], [2, 2], [1, 1]])
def test_a_preview_in_front_of_the_picture_is_not_taken_for_it(tmp_path, kinds):
    path = tagged_pages(tmp_path / "a.tif", kinds)
    with pytest.raises(PictureError, match=SEVERAL):
        read_picture(path)


def test_the_first_picture_of_an_mpo_is_the_one_that_is_meant(tmp_path):
    path = put_frames(tmp_path / "a.jpg", frames(2), format="MPO")
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert read_picture(path).max() < 5
