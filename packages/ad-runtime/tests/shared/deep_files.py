"""Writers of files with more than 8 bits a channel, from the formats' specifications."""

import struct
import zlib

import numpy as np
from PIL import Image

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by the number of channels


def write_png(path, pixels, *, chunks=()):
    """16 bits a channel; rows are filtered by none, sub and up in turn.

    ``chunks`` are kinds and contents to put before the pixels.
    """
    height, width, channels = pixels.shape
    rows = np.frombuffer(pixels.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    left = np.pad(rows, ((0, 0), (2 * channels, 0)))[:, : -2 * channels]
    above = np.pad(rows, ((1, 0), (0, 0)))[:-1]
    filtered = b"".join(
        bytes([row % 3]) + (rows[row] - (0, left[row], above[row])[row % 3]).tobytes()
        for row in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in parts:
        crc = zlib.crc32(kind + content)
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    path.write_bytes(whole)
    return path


def write_tiff(path, pixels, *, order="<", bits=16, planar=False, deflated=False, tags=()):
    """16 bits a channel, or 12 packed; one strip, or one for each plane.

    ``tags`` are numbers and lists of 16-bit values to add.
    """
    height, width, channels = pixels.shape
    planes = list(np.moveaxis(pixels, 2, 0)) if planar else [pixels]
    if bits == 12:  # one channel, an even width
        pairs = pixels.reshape(-1, 2).astype(np.uint32)
        packed = pairs[:, 0] << 12 | pairs[:, 1]
        strips = [b"".join(int(value).to_bytes(3, "big") for value in packed)]
    else:
        strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) for strip in strips] if deflated else strips
    many = len(strips)
    entries = [
        *((256, "H", [width]), (257, "H", [height]), (258, "H", [bits] * channels)),
        *((259, "H", [8 if deflated else 1]), (262, "H", [2 if channels > 1 else 1])),
        *((273, "I", [0] * many), (277, "H", [channels]), (278, "H", [height])),
        *((279, "I", [len(strip) for strip in strips]), (284, "H", [2 if planar else 1])),
        *((tag, "H", values) for tag, values in tags),
    ]
    entries.sort()
    after = 8 + 2 + 12 * len(entries) + 4
    sizes = [struct.calcsize(kind) * len(values) for _, kind, values in entries]
    at = after + sum(size for size in sizes if size > 4)
    places = [at + sum(len(strip) for strip in strips[:index]) for index in range(many)]
    table, beside = struct.pack(f"{order}H", len(entries)), b""
    for tag, kind, values in entries:
        content = struct.pack(f"{order}{len(values)}{kind}", *(places if tag == 273 else values))
        table += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        if len(content) > 4:
            table += struct.pack(f"{order}I", after + len(beside))
            beside += content
        else:
            table += content.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    whole = magic + struct.pack(f"{order}I", 8) + table + bytes(4) + beside + b"".join(strips)
    path.write_bytes(whole)
    return path


def random_values(largest, channels, *, seed=0):
    values = np.random.default_rng(seed).integers(0, largest + 1, (9, 6, channels))
    values[0, 0] = largest
    return values.astype(np.uint16)


def save(path, values):
    Image.fromarray(values).save(path)
    return path
