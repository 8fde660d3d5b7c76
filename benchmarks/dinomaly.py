"""Seconds a picture of Dinomaly at work, against the form in which it is usually written.

    python benchmarks/dinomaly.py [--name MODEL] [--device cuda] [--rounds N] [--output FILE]

Plain is timm's whole encoder in fp32, with attention as a product, a softmax and a product, and
its positions resampled for each batch; the decoder, too, in fp32. Ours ends after the last block
that is used, has fused attention, and computes in fp32 or bf16. From pictures in memory to scores
and maps. Seeded noise as pictures, random weights and one step of learning: none of them changes
the time. The forms take turns, and the least of the rounds counts: of CPU time, or on a GPU of a
clock's, so that what else runs on the machine weighs little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from record import record
from torch import Tensor, nn

from ad.core import Detector, ModelRegistry, PictureSet, Precision, Setup, fit, load_trainer

BATCHES = (1, 4)


class PlainEncoder(nn.Module):
    """The whole encoder with the weights of a detector's, in the place of that one."""

    precision = "fp32"

    def __init__(self, ours: Any) -> None:  # noqa: ANN401 - an `ad.core.networks.FeatureExtractor`
        super().__init__()
        create: Any = timm.create_model
        self.model = create(ours.name, num_classes=0, dynamic_img_size=True).eval()
        self.model.load_state_dict(ours.net.model.state_dict(), strict=False)
        for block in self.model.blocks:
            block.attn.fused_attn = False
        self.normalize, self.blocks = ours.normalize, list(ours.net.indices)
        self.prefix_tokens, self.strides = ours.prefix_tokens, ours.strides

    def tokens(self, images: Tensor) -> list[Tensor]:
        """All tokens of the blocks that are used."""
        found = self.model.forward_intermediates(
            self.normalize(images), indices=self.blocks, return_prefix_tokens=True,
            output_fmt="NLC", intermediates_only=True,
        )  # fmt: skip
        return [torch.cat([prefix, patches], dim=1) for patches, prefix in found]


def learnt(name: str, precision: Precision, device: torch.device) -> Detector:
    """A detector after its least learning."""
    spec = ModelRegistry.get(name)
    size = spec.train["img_size"]
    setup = Setup(img_size=size, normalize=spec.train["normalize"], batch_size=1, num_steps=1,
                  weights="random", precision=precision, device=device)  # fmt: skip
    trainer = load_trainer(spec)(setup, **spec.model)
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    fit(trainer, PictureSet([noise], size))
    return trainer.detector


def seconds(detector: Callable[[Tensor], Any], images: Tensor) -> float:
    """Time of one batch."""
    now = time.process_time if images.device.type == "cpu" else time.perf_counter
    start = now()
    with torch.inference_mode():
        detector(images).score.cpu()  # waits for a GPU
    return now() - start


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dinomaly-small-392")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    size = ModelRegistry.get(options.name).train["img_size"]
    detectors: dict[str, Any] = {
        "plain, fp32": learnt(options.name, "fp32", device),
        "ours, fp32": learnt(options.name, "fp32", device),
        "ours, bf16": learnt(options.name, "bf16", device),
    }
    plain: Any = detectors["plain, fp32"]
    plain.encoder = PlainEncoder(plain.encoder).to(device)
    images = torch.rand(max(BATCHES), 3, size, size, device=device)
    with torch.inference_mode():
        said = {case: torch.cat(one.groups(images)).float() for case, one in detectors.items()}
    gaps = {case: float((each - said["plain, fp32"]).norm() / each.norm())
            for case, each in said.items()}  # fmt: skip
    rows = []
    for batch_size in BATCHES:
        times: dict[str, list[float]] = {case: [] for case in detectors}
        for _ in range(1 + options.rounds):
            for case, detector in detectors.items():
                times[case].append(seconds(detector, images[:batch_size]) / batch_size)
        least = {case: min(each[1:]) for case, each in times.items()}
        for case, each in least.items():
            row = {"model": options.name, "batch_size": batch_size, "case": case,
                   "device": options.device, "seconds_per_image": each,
                   "ratio": least["plain, fp32"] / each,
                   "relative_gap_of_features": gaps[case]}  # fmt: skip
            rows.append(row)
            print(f"batch {batch_size}  {case:12} {each * 1000:8.1f} ms a picture"
                  f"  {row['ratio']:4.2f}x  features within {gaps[case]:.0e}")  # fmt: skip
    if options.output:
        record("dinomaly", rows, options.output)


if __name__ == "__main__":
    main()
