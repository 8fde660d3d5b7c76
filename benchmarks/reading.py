"""Pictures from files to batches, and heat maps back to files, in seconds of the processor.

    python benchmarks/reading.py [--sizes 512 1000 4000] [--rounds N] [--output FILE]

Reading ends at float32 batches of 256 x 256 pixels. The limit is Pillow's bare decode by as many
threads, and beside it, to judge small pictures by, torch's antialiased resize of what is decoded
already: `of_both` is what the two together take, of ours. The baseline is anomalib's way, written
out again: Pillow's RGB to float32, torch, torchvision's antialiased `Resize` and `Normalize`, in a
`DataLoader`. Heat maps are drawn of the same pictures as `ad predict` does it; the baseline blends
in NumPy at the picture's own size and has Pillow write PNG as it does by default. Pictures are
made: soft colours, a texture, noise; JPEG in quality 90. All take turns in one run, and the least
of their times counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from record import record
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from ad.core import PictureSet, read_picture, resize, to_device
from ad.runtime.calibration import Calibration
from ad.runtime.findings import finding_of
from ad.runtime.framing import Framing, Size
from ad.runtime.heatmaps import colour_table, heat_of
from ad.runtime.ordered import in_order
from ad.runtime.overlays import overlay_of
from ad.runtime.pictures.opening import drawn_jpeg
from ad.runtime.pictures.reading import glimpse

SEEN, BATCH = 256, 8
FORMATS = {
    "JPEG": ("jpg", "RGB", {"quality": 90}),
    "PNG": ("png", "RGB", {}),
    "grey JPEG": ("jpg", "L", {"quality": 90}),
}
CPU = torch.device("cpu")


def made(folder: Path, side: int, kind: str, count: int) -> list[Path]:
    """Pictures of a size in a format."""
    suffix, mode, options = FORMATS[kind]
    paths = []
    for number in range(count):
        rng = np.random.default_rng(side + number)
        soft = _enlarged(rng.integers(40, 216, (side // 64 + 2, side // 64 + 2, 3)), side)
        texture = _enlarged(rng.integers(0, 256, (side // 4, side // 4, 1)).repeat(3, 2), side)
        pixels = soft + 0.15 * (texture - 128) + rng.normal(0, 3, (side, side, 1))
        paths.append(folder / f"{side}-{kind}-{number}.{suffix}")
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)
        image.save(paths[-1], **options)
    return paths


def _enlarged(values: NDArray[np.int64], side: int) -> NDArray[np.float32]:
    image = Image.fromarray(values.astype(np.uint8))
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def decode(paths: list[Path]) -> None:
    """The limit: what Pillow takes to decode them, by as many threads as `PictureSet` has."""

    def one(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        list(pool.map(one, paths))


def read(paths: list[Path]) -> None:
    """Ours."""
    for batch in PictureSet(paths, SEEN).batches(BATCH):
        to_device(batch.pictures, CPU)


class _Usual(Dataset[torch.Tensor]):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        self.transform = v2.Compose([v2.Resize((SEEN, SEEN), antialias=True), normalize])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as image:
            pixels = np.asarray(image.convert("RGB")).astype(np.float32) / 255
        seen: torch.Tensor = self.transform(torch.from_numpy(pixels).permute(2, 0, 1))
        return seen


def read_usually(paths: list[Path]) -> None:
    """The baseline."""
    for _ in DataLoader(_Usual(paths), batch_size=BATCH):
        pass


FRAMING = Framing(size=Size(SEEN, SEEN))
CALIBRATION = Calibration(
    threshold=1.0,
    scale=0.2,
    pixel_threshold=1.0,
    pixel_scale=0.2,
    rate=0.01,
    promised_rate=0.01,
    num_images=100,
)


def a_map() -> NDArray[np.float32]:
    """A map with one hot place and noise below the threshold."""
    rows, columns = np.mgrid[:SEEN, :SEEN]
    hot = 1.2 * np.exp(-((rows - 100) ** 2 + (columns - 60) ** 2) / 200)
    noise = np.random.default_rng(0).uniform(0.3, 0.6, (SEEN, SEEN))
    return (hot + noise).astype(np.float32)


def draw(paths: list[Path], folder: Path) -> int:
    """Heat maps as `ad predict` writes them; bytes of all."""
    map_ = a_map()

    def one(path: Path) -> int:
        pixels = glimpse(path)
        size = Size(*pixels.shape[:2])
        finding = finding_of(path, 1.5, map_, CALIBRATION, size=size, framing=FRAMING)
        content = drawn_jpeg(overlay_of(finding, pixels, FRAMING, CALIBRATION))
        return (folder / f"{path.stem}-heat.jpg").write_bytes(content)

    return sum(in_order(iter(paths), one))


def draw_usually(paths: list[Path], folder: Path) -> int:
    """The baseline, in the same colours; bytes of all."""
    written = 0
    table = colour_table().astype(np.float32)
    heat = Image.fromarray(heat_of(a_map(), CALIBRATION))
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        large = np.asarray(heat.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))
        shade = table[(large.clip(0, 1) * 255).astype(np.uint8)]
        alpha = shade[..., 3:] / 255
        mixed = (pixels * (1 - alpha) + shade[..., :3] * alpha).astype(np.uint8)
        file = folder / f"{path.stem}-heat.png"
        Image.fromarray(np.concatenate([pixels, mixed], axis=1)).save(file)
        written += file.stat().st_size
    return written


def least(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """The least seconds of the processor, and by a clock, of each case; all in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for turn in range(rounds + 1):
        for name, work in cases.items():
            start, clock = time.process_time(), time.perf_counter()
            work()
            if turn:  # the first one is to warm up
                taken[name].append((time.process_time() - start, time.perf_counter() - clock))
    return {name: (min(c for c, _ in own), min(w for _, w in own)) for name, own in taken.items()}


def measure(sizes: list[int], rounds: int, folder: Path) -> list[dict[str, Any]]:
    """A row for each size and format, and one for heat maps of each size."""
    rows = []
    for side in sizes:
        count = max(1, min(64, 24_000_000 // side**2))  # threads take their time to start
        for kind in FORMATS:
            paths = made(folder, side, kind, count)
            pixels = [read_picture(path) for path in paths]
            found = least(
                {
                    "limit": lambda paths=paths: decode(paths),
                    "resize": lambda pixels=pixels: [resize(one, SEEN) for one in pixels],
                    "ours": lambda paths=paths: read(paths),
                    "baseline": lambda paths=paths: read_usually(paths),
                },
                rounds,
            )
            cpu = {name: 1000 * own[0] / count for name, own in found.items()}
            rows.append(
                {
                    "case": "reading",
                    "side": side,
                    "format": kind,
                    "bits_a_pixel": round(8 * paths[0].stat().st_size / side**2, 2),
                    **{f"{name}_cpu_ms": round(own, 2) for name, own in cpu.items()},
                    **{f"{name}_a_second": round(count / own[1], 1) for name, own in found.items()},
                    "of_limit": round(cpu["limit"] / cpu["ours"], 2),
                    "of_both": round((cpu["limit"] + cpu["resize"]) / cpu["ours"], 2),
                    "ratio": round(cpu["baseline"] / cpu["ours"], 2),
                    "most_ratio": round(cpu["baseline"] / cpu["limit"], 2),
                }
            )
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        paths = made(folder, side, "JPEG", max(1, count // 8))
        found = least(
            {
                "ours": lambda paths=paths: draw(paths, folder),
                "baseline": lambda paths=paths: draw_usually(paths, folder),
            },
            max(1, rounds // 2),
        )
        cpu = {name: 1000 * own[0] / len(paths) for name, own in found.items()}
        rows.append(
            {
                "case": "heat maps",
                "side": side,
                **{f"{name}_cpu_ms": round(own, 1) for name, own in cpu.items()},
                "ours_kb": round(draw(paths, folder) / len(paths) / 1000),
                "baseline_kb": round(draw_usually(paths, folder) / len(paths) / 1000),
                "ratio": round(cpu["baseline"] / cpu["ours"], 2),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    """Measure all, print it, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1000, 4000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options.sizes, options.rounds, Path(folder))
    if options.output:
        record("reading", rows, options.output)


if __name__ == "__main__":
    main()
