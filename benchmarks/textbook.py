"""PatchCore and PaDiM as a textbook writes them: slow, plain, and independent of the packages.

The reference that the packages' figures are held against, in the tests of tier `data` and, as a
program, on whole data sets. It reads pictures with Pillow, extracts features in float32 with timm,
loops where a loop is plainest, and measures with scikit-learn.

    AD_WEIGHTS=../shared/weights python benchmarks/textbook.py --data ../shared/data \
        --output benchmarks/results/textbook.json
"""

from __future__ import annotations

import argparse
import os
from functools import cache
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from ad.core import Sample, collect, get_dataset

SIZE = 256
SEEDS = (0, 1, 2)  # which patches a coreset meets moves AUROC by some hundredths
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def read(path: Path) -> torch.Tensor:
    """One picture, ``[3, 256, 256]``, normalised."""
    with Image.open(path) as image:
        small = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255 - MEAN) / STD


def read_mask(sample: Sample) -> np.ndarray:
    """The mask of a sample, ``[256, 256]``, bool."""
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    for path in sample.masks:
        with Image.open(path) as image:
            stored = Image.fromarray((np.asarray(image.convert("L")) > 0).astype(np.uint8))
        mask |= np.asarray(stored.resize((SIZE, SIZE), Image.Resampling.NEAREST)) > 0
    return mask


@cache
def network(layers: tuple[int, ...]) -> torch.nn.Module:
    """The pretrained resnet18, which gives these layers."""
    net = timm.create_model("resnet18", features_only=True, out_indices=layers).eval()
    state = load_file(Path(os.environ["AD_WEIGHTS"]) / "resnet18.tv_in1k.safetensors")
    wanted = net.state_dict().keys()
    net.load_state_dict({key: value for key, value in state.items() if key in wanted})
    return net


@torch.inference_mode()
def extract(paths: list[Path], layers: tuple[int, ...]) -> list[torch.Tensor]:
    """Feature maps of the pretrained resnet18, one ``[N, D, h, w]`` per layer, float32."""
    net = network(layers)
    batches = [net(read(path)[None]) for path in paths]
    return [torch.cat([batch[i] for batch in batches]) for i in range(len(layers))]


def patches(paths: list[Path]) -> torch.Tensor:
    """PatchCore's patches of pictures, layers 2 and 3 side by side: ``[N, h * w, 384]``."""
    mid, deep = (F.avg_pool2d(f, 3, 1, 1) for f in extract(paths, (2, 3)))
    deep = F.interpolate(deep, size=mid.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([mid, deep], dim=1).flatten(2).transpose(1, 2)


@torch.inference_mode()
def first_gap(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """What a greedy coreset starts from: each row's mean distance to ten random ones, ``[N]``."""
    start = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:10]
    return torch.stack([torch.linalg.norm(rows - rows[i], dim=1) for i in start]).mean(dim=0)


def greedy(rows: torch.Tensor, count: int, seed: int) -> tuple[torch.Tensor, float]:
    """Picks of a greedy coreset, and the largest gap that it leaves.

    A row's gap is its distance to the nearest pick, or what it started from where that is less.
    """
    gap = first_gap(rows, seed)
    picks = []
    for _ in range(count):
        pick = int(gap.argmax())
        picks.append(pick)
        gap = torch.minimum(gap, torch.linalg.norm(rows - rows[pick], dim=1))
    return torch.tensor(picks), float(gap.max())


@torch.inference_mode()
def patchcore(bank: torch.Tensor, test: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Image scores ``[N]`` and maps ``[N, 256, 256]`` of PatchCore with a given bank."""
    scores, maps = [], []
    for path in test:
        nearest = torch.cdist(patches([path])[0], bank).amin(dim=1)
        side = int(len(nearest) ** 0.5)
        scores.append(float(nearest.max()))
        maps.append(_smooth(nearest.view(side, side)))
    return np.array(scores), np.stack(maps)


@torch.inference_mode()
def padim(
    train: list[Path], test: list[Path], index: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Image scores and maps of PaDiM on layers 1 to 3, with the given channels of the 448."""

    def embed(paths: list[Path]) -> torch.Tensor:  # [N, D, h*w]
        first, *deeper = extract(paths, (1, 2, 3))
        grown = [F.interpolate(f, size=first.shape[-2:], mode="nearest") for f in deeper]
        return torch.cat([first, *grown], dim=1)[:, index].flatten(2)

    known = embed(train)
    mean = known.mean(dim=0)  # [D, h*w]
    inverse = np.empty((known.shape[2], len(index), len(index)), dtype=np.float32)
    for position in range(known.shape[2]):
        covariance = np.cov(known[:, :, position].numpy(), rowvar=False)
        inverse[position] = np.linalg.inv(covariance + 0.01 * np.eye(len(index)))
    del known

    scores, maps = [], []
    for path in test:
        gap = (embed([path])[0] - mean).numpy()
        distance = np.sqrt(np.einsum("dp,pde,ep->p", gap, inverse, gap, optimize=True))
        side = int(len(distance) ** 0.5)
        maps.append(_smooth(torch.from_numpy(distance).view(side, side)))
        scores.append(float(maps[-1].max()))
    return np.array(scores), np.stack(maps)


def figures(test: list[Sample], scores: np.ndarray, maps: np.ndarray) -> dict[str, float]:
    """Image and pixel AUROC, by scikit-learn."""
    masks = np.stack([read_mask(sample) for sample in test])
    return {
        "image_auroc": float(roc_auc_score([s.label for s in test], scores)),
        "pixel_auroc": float(roc_auc_score(masks.ravel(), maps.ravel())),
    }


def _smooth(distances: torch.Tensor) -> np.ndarray:
    up = F.interpolate(
        distances[None, None].float(), size=(SIZE, SIZE), mode="bilinear", align_corners=False
    )
    return gaussian_filter(up[0, 0].numpy(), sigma=4)


def main() -> None:
    """Run both on Magnetic Tile Defects and hazelnut_toy, print and write the figures."""
    from record import record

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mtd, hazelnut_toy")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []

    def measure(dataset: str, model: str, seed: int, found: tuple[np.ndarray, np.ndarray]) -> None:
        rows.append({"dataset": dataset, "model": model, "seed": seed,
                     "metrics": figures(test, *found)})  # fmt: skip
        print(rows[-1], flush=True)

    for title, name, root, category, ratio in (
        ("mtd", "mtd", options.data / "mtd", "all", 0.00125),
        ("hazelnut_toy", "mvtec", options.data, "hazelnut_toy", 0.01),
    ):
        samples = collect(get_dataset(name), category, root=root, seed=0)
        train = [s.path for s in samples if s.split == "train"]
        test = [s for s in samples if s.split == "test"]
        paths = [s.path for s in test]
        known = torch.cat([patches([path])[0] for path in train])
        for seed in SEEDS:
            picks, _ = greedy(known, int(len(known) * ratio), seed)
            measure(title, f"patchcore, {ratio:.3%}", seed, patchcore(known[picks], paths))
        del known
        index = torch.randperm(448, generator=torch.Generator().manual_seed(0))[:100]
        measure(title, "padim, 100 random channels", 0, padim(train, paths, index))
    if options.output:
        record("textbook", rows, options.output)


if __name__ == "__main__":
    main()
