"""Synthetic defects: a batch at once against the usual picture by picture in NumPy and Pillow.

    python benchmarks/synth.py [--textures DIR] [--device cuda] [--output FILE]

Both draw from the same distributions: Perlin masks, textures of a folder, three of ten changes of
them, and DRAEM's whole recipe. As in the usual pipeline, the baseline decodes a texture whenever it
is drawn; ours keeps it. Without `--textures`, sixteen JPEG files of 640 x 480 pixels are made. The
share of pixels in masks is printed as a check.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from record import record

from ad.core import pictures_below
from ad.core.synth import FolderTextures, PerlinAnomalies, augment, perlin_masks

SIZE, BATCH = 256, 8
Floats = NDArray[np.floating[Any]]
Levels = NDArray[np.uint8]


def mask(rng: np.random.Generator) -> Floats:
    """Rotated Perlin noise above a half, ``[SIZE, SIZE]``."""
    down, across = 2 ** rng.integers(0, 6, 2)
    angles = rng.uniform(0, 2 * np.pi, (down + 1, across + 1))
    gradients = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    y, x = np.mgrid[:SIZE, :SIZE]
    v, u = y * down / SIZE, x * across / SIZE
    i, j = v.astype(int), u.astype(int)
    fv, fu = v - i, u - j

    def corner(di: int, dj: int) -> Floats:
        g = gradients[i + di, j + dj]
        dot: Floats = g[..., 0] * (fv - di) + g[..., 1] * (fu - dj)
        return dot

    fade_v, fade_u = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (fv, fu))
    left = corner(0, 0) + fade_v * (corner(1, 0) - corner(0, 0))
    right = corner(0, 1) + fade_v * (corner(1, 1) - corner(0, 1))
    noise = np.sqrt(2) * (left + fade_u * (right - left))
    return (turned(noise.astype(np.float32), rng.uniform(-90, 90)) > 0.5).astype(np.float32)


def turned(values: Floats, degrees: float) -> Floats:
    """One channel of floats, turned about its centre."""
    return np.asarray(Image.fromarray(values).rotate(degrees, Image.Resampling.BILINEAR))


def texture(rng: np.random.Generator, paths: list[Path]) -> Levels:
    """A picture of the folder, decoded and resized, ``[SIZE, SIZE, 3]``."""
    with Image.open(paths[rng.integers(len(paths))]) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def changed(rng: np.random.Generator, levels: Levels) -> Levels:
    """Three of the ten changes, one after the other."""
    picture = Image.fromarray(levels)
    for number in rng.permutation(10)[:3]:
        picture = CHANGES[number](rng, picture)
    return np.asarray(picture)


def _gamma(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    return _rounded(255 * (np.asarray(picture) / 255) ** rng.uniform(0.5, 2, 3))


def _brightness(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture.convert("YCbCr")).astype(np.float32)
    pixels[..., 0] = pixels[..., 0] * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30)
    levels = np.rint(pixels).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels, "YCbCr").convert("RGB")


def _hue(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    pixels = np.asarray(picture.convert("HSV")).astype(np.int64)
    pixels[..., 0] = (pixels[..., 0] + rng.integers(-50, 51)) % 256
    pixels[..., 1] = (pixels[..., 1] + rng.integers(-50, 51)).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8), "HSV").convert("RGB")


def _solarize(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    threshold = int(rng.integers(32, 129))
    return ImageOps.solarize(picture, threshold) if rng.random() < 0.5 else picture


def _rounded(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


CHANGES: list[Callable[[np.random.Generator, Image.Image], Image.Image]] = [
    _gamma,
    _brightness,
    lambda rng, picture: ImageEnhance.Sharpness(picture).enhance(rng.uniform(0.1, 1.9)),
    _hue,
    _solarize,
    lambda rng, picture: ImageOps.posterize(picture, int(rng.integers(1, 9))),
    lambda rng, picture: ImageOps.invert(picture),
    lambda rng, picture: ImageOps.autocontrast(picture, int(rng.integers(21))),
    lambda rng, picture: ImageOps.equalize(picture),
    lambda rng, picture: picture.rotate(rng.uniform(-45, 45), Image.Resampling.BILINEAR),
]


def broken(rng: np.random.Generator, image: Floats, paths: list[Path]) -> tuple[Floats, Floats]:
    """DRAEM's recipe for one picture ``[SIZE, SIZE, 3]`` in [0, 1]: broken picture and mask."""
    if rng.random() < 0.3:
        degrees = rng.uniform(-90, 90)
        image = np.stack([turned(channel, degrees) for channel in image.transpose(2, 0, 1)], axis=2)
    if rng.random() >= 0.5:
        return image, np.zeros((SIZE, SIZE), dtype=np.float32)
    where = mask(rng)
    beta = rng.uniform(0, 0.8)
    filling = changed(rng, texture(rng, paths)).astype(np.float32) / 255
    m = where[..., None]
    return (1 - m) * image + m * ((1 - beta) * filling + beta * image), where


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--textures", type=Path, help="folder of pictures; made by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.textures or _made_textures(Path(made))
        rows = measure(folder, torch.device(options.device), options.batches)
    for row in rows:
        print(
            f"{row['case']:22} {row['baseline_seconds'] * 1000:8.2f} ms a picture before "
            f"{row['seconds'] * 1000:8.2f} ms ours {row['ratio']:6.1f}x"
        )
    print("share of pixels in masks, before and ours:", *rows[0]["mask_shares"])
    if options.output:
        record("synthetic defects", rows, options.output)


def measure(folder: Path, device: torch.device, batches: int) -> list[dict[str, Any]]:
    """Seconds a picture of each case, ours after a batch to warm up."""
    paths = pictures_below(folder)
    textures = FolderTextures(folder)
    recipe = PerlinAnomalies(textures)
    rng = np.random.default_rng(0)
    sources = [torch.Generator().manual_seed(number) for number in range(BATCH)]
    plain = [rng.random((SIZE, SIZE, 3), dtype=np.float32) for _ in range(BATCH)]
    images = torch.from_numpy(np.stack(plain)).permute(0, 3, 1, 2).to(device)
    filling = [texture(rng, paths) for _ in range(BATCH)]
    fillings = torch.from_numpy(np.stack(filling)).permute(0, 3, 1, 2).float().to(device) / 255
    for _ in range(4 * len(paths) // BATCH + 1):  # nearly all textures are decoded
        textures.draw(images, sources)
    cases: list[tuple[str, Callable[[int], Any], Callable[[], Any]]] = [
        (
            "Perlin masks",
            lambda row: mask(rng),
            lambda: perlin_masks((SIZE, SIZE), sources, device=device),
        ),
        (
            "textures of a folder",
            lambda row: texture(rng, paths),
            lambda: textures.draw(images, sources),
        ),
        (
            "three changes of ten",
            lambda row: changed(rng, filling[row]),
            lambda: augment(fillings, sources),
        ),
        (
            "DRAEM's whole recipe",
            lambda row: broken(rng, plain[row], paths),
            lambda: recipe(images, sources),
        ),
    ]
    rows = []
    for case, one, all_ in cases:
        all_()
        before = _seconds(lambda one=one: [one(row) for row in range(BATCH)], batches, device)
        ours = _seconds(all_, batches, device)
        rows.append(
            {
                "case": case,
                "batch_size": BATCH,
                "size": SIZE,
                "device": device.type,
                "baseline_seconds": before / BATCH,
                "seconds": ours / BATCH,
                "ratio": before / ours,
            }
        )
    shares = (
        np.mean([mask(rng).mean() for _ in range(200)]),
        perlin_masks((SIZE, SIZE), sources * 25, device=device).mean(),
    )
    rows[0]["mask_shares"] = [round(float(share), 4) for share in shares]
    return rows


def _seconds(work: Callable[[], Any], times: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / times


def _made_textures(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return folder


if __name__ == "__main__":
    main()
