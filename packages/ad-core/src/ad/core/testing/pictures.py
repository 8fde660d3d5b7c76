"""Tiny pictures for tests: a soft pattern that varies a little, and a bright square as defect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ad.runtime.pictures.reading import Sides, height_and_width


def make_picture(
    index: int, *, size: Sides = 64, defect: bool = False, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Make one picture and the mask of its defect.

    Args:
        index: Which one; equal arguments give equal pictures.
        size: Of the picture; sides of at least 16 pixels.
        defect: Whether there is one.
        seed: Seed of the whole series.

    Returns:
        ``[H, W, 3]`` uint8 and ``[H, W]``, True on the defect.
    """
    rng = np.random.default_rng([seed, index])
    height, width = height_and_width(size)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    wave = np.sin(8 * np.pi * (x + rng.normal(0, 0.002))) + np.cos(6 * np.pi * y)
    grey = 120 + 25 * wave + rng.normal(0, 3) + rng.normal(0, 4, (height, width))
    mask = np.zeros((height, width), dtype=bool)
    if defect:
        side = min(height, width) // 6
        top, left = rng.integers(2, [height - side - 2, width - side - 2])
        mask[top : top + side, left : left + side] = True
        grey[mask] += 110
    tint = np.array([1.0, 0.95, 0.85])
    return np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8), mask


def write_mvtec_tree(
    root: Path,
    category: str = "toy",
    *,
    train: int = 10,
    good: int = 4,
    bad: int = 4,
    size: Sides = 64,
    seed: int = 0,
) -> Path:
    """Write such pictures as a category in MVTec AD's layout.

    Args:
        root: Data root; made if missing.
        category: Name of the category.
        train: Good pictures to train on.
        good: Good pictures to test with.
        bad: Defective pictures to test with, all of kind ``square``, with masks.
        size: Of the pictures.
        seed: Seed of the series.

    Returns:
        ``root``.
    """
    home = root / category
    for split, count, start in (("train/good", train, 0), ("test/good", good, train)):
        (home / split).mkdir(parents=True)
        for number in range(count):
            picture, _ = make_picture(start + number, size=size, seed=seed)
            Image.fromarray(picture).save(home / split / f"{number:03d}.png")
    for folder in ("test/square", "ground_truth/square"):
        (home / folder).mkdir(parents=True)
    for number in range(bad):
        picture, mask = make_picture(1000 + number, size=size, defect=True, seed=seed)
        Image.fromarray(picture).save(home / "test/square" / f"{number:03d}.png")
        mask_file = home / "ground_truth/square" / f"{number:03d}_mask.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(mask_file)
    return root


def put_pictures(root: Path, *names: str, grey: int = 0) -> Path:
    """Write pictures of 4 x 4 equal pixels, to build a tree where only names count.

    Args:
        root: Folder; made if missing.
        names: Paths below it.
        grey: The pixels' value.

    Returns:
        ``root``.
    """
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), grey).save(path)
    return root
