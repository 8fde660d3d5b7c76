"""Reads 500 damaged copies of a picture; a process of its own, since a decoder may crash.

Usage: ``python damage.py FOLDER SUFFIX...``; prints for each how many became pictures and errors,
and the memory that reading them took beyond what there was, in bytes.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from ad.runtime.errors import PictureError
from ad.runtime.pictures.drawn import check_headers
from ad.runtime.pictures.reading import read_picture

COUNT = 500


def whole(suffix: str) -> bytes:
    """A picture with what formats can hold: soft areas, noise, metadata."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([x * 4, y * 5, rng.integers(0, 256, (48, 64))], axis=2).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    options = {
        "tif": {"compression": "tiff_lzw"},
    }.get(suffix, {})
    if suffix in ("jpg", "jpeg", "png", "webp", "tiff"):
        options["exif"] = exif
    if suffix == "pgm":
        image = image.convert("L")
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[f".{suffix}"], **options)
    return buffer.getvalue()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content after one to three accidents, mostly near its start, where the headers are."""
    bad = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        reach = min(len(bad), 100) if rng.random() < 0.7 else len(bad)
        at = int(rng.integers(max(reach, 1)))
        match rng.integers(6):
            case 0:
                bad[at : at + 1] = bytes([rng.integers(256)])
            case 1:
                bad[at : at + 1] = bytes([bad[at] ^ (1 << rng.integers(8))]) if bad else b""
            case 2:
                del bad[at:]
            case 3:
                del bad[at : at + int(rng.integers(1, 9))]
            case 4:
                bad[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case _:
                bad[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x7f"])
    return bytes(bad)


def main(folder: Path, suffix: str) -> None:
    """Read them all."""
    content = whole(suffix)
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    read_picture(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"pictures": 0, "errors": 0}
    for seed in range(COUNT):
        bad = damaged(content, np.random.default_rng(seed))
        path.write_bytes(bad)
        by_bytes = seed % 2 == 1
        try:
            if not by_bytes:
                check_headers(path, [])
            picture = read_picture(bad if by_bytes else path)
        except PictureError as error:
            name = "The picture" if by_bytes else str(path)
            found["errors"] += name in str(error)
        else:
            assert picture.ndim == 3
            assert picture.shape[2] == 3
            found["pictures"] += 1
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    print(json.dumps({"suffix": suffix, **found, "memory": memory}))


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Pillow's, of what it can mend
    for name in sys.argv[2:]:
        main(Path(sys.argv[1]), name)
