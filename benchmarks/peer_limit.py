"""The least that this machine takes for a row of `peer.py`: the bare work, with nothing around it.

Not a side that does the work, but a bound that neither side can be below with these libraries:

* Networks: the convolutions that our own network is seen to make for the same pictures, in the same
  batch and precision; see `bare`. In a step also those backward, and of the two gradients of each
  only what was asked for. What a step keeps of frozen networks is left out, as it is in ours.
* PaDiM: beside those, a product of each position's samples for its covariance and the factor of
  that; at a test the product of what is off the mean with that factor.
* PatchCore: beside those, at a test the products of all patches with the bank, of as many leading
  coordinates as our search multiplies, in whole numbers of 8 bits or bfloat16, whichever is faster;
  while it learns the projection, but no distance: how few of those suffice for the same coreset is
  not known.
* DFKDE: those alone.
* Import of a class: `import torch`. A verdict: that and the network's convolutions for one picture.
* Metrics: a sort of the normal pixels, of AUPRO those of the highest 0.3.
* Reading: Pillow's decode of the whole file, and no more.
* Memory: that of `import torch`, the model's tensors, the pictures that are given, and what must be
  kept: of PatchCore all patches, of a step the inputs of what has a gradient for its weights, that
  gradient, and one running mean.

Left out are reading, layouts, activations, norms, pooling, resizing, smoothing, losses, optimisers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peer_work import Work, run
from processes import Cost, measured

if TYPE_CHECKING:
    from bare import Seconds
    from torch import Tensor, nn

    from ad.core import Trainer


START = (0.0, 0.0)
"""Where what is summed begins."""


def import_class(_: Work) -> None:
    """What no import of a model can be below."""
    import torch as torch


def _torch_alone(work: Work) -> Cost:
    """What a process with torch costs that does nothing: what its memory cannot be below.

    Before this process imports torch, since what it starts inherits its largest memory.
    """
    cost = measured([sys.executable, "-c", "import torch"])
    work.memory = cost.peak_memory_bytes
    return cost


def verdict(work: Work) -> None:
    """Torch, and a network on one picture."""
    torch_alone = _torch_alone(work)
    from bare import total

    work.row, work.counts["at_once"] = "padim", 1
    network, trainer = _seen(work)
    alone = torch_alone.cpu_seconds, torch_alone.wall_seconds
    work.note("process", START, total([(1, alone), (1, network)]))
    work.memory += _bytes(trainer.detector)


def _bytes(module: nn.Module) -> int:
    return sum(each.nbytes for each in module.state_dict().values())


def _seen(work: Work) -> tuple[Seconds, Trainer]:
    """What a frozen network's convolutions take for a batch of test pictures, and its model."""
    import torch
    from bare import Recorded, seconds
    from peer_ours import trainer_of

    trainer = trainer_of(work)
    images = _images(work, "test")
    with torch.no_grad(), Recorded() as seen:
        trainer.extract(images)  # type: ignore[attr-defined]  # it learns in one pass
    work.told["products of a batch"] = seen.products
    return seconds(seen.convolutions), trainer


def _images(work: Work, name: str) -> Tensor:
    """A batch as a detector takes it."""
    import torch

    from ad.core import to_device

    return to_device(torch.from_numpy(work.pictures(name, work.counts["at_once"])),
                     torch.device("cpu"))  # fmt: skip


def padim(work: Work) -> None:
    """Covariances and their factors, and the distance at each position."""
    _torch_alone(work)
    import torch
    from bare import least, total
    from peer_ours import SIZE

    network, trainer = _seen(work)
    count, features, batch = (work.counts[key] for key in ("train", "features", "at_once"))
    positions, some = (SIZE // 4) ** 2, 128
    samples = torch.randn(some, count, features)
    identity = torch.eye(features, dtype=torch.float64).expand(some, -1, -1)
    covariance = (2 * identity).contiguous()
    fit = [
        (count / batch, network),
        (positions / some, least(lambda: samples.mT @ samples)),
        (positions / some, least(lambda: torch.linalg.cholesky_ex(covariance))),
        (positions / some,
         least(lambda: torch.linalg.solve_triangular(covariance, identity, upper=False))),
    ]  # fmt: skip
    gap = torch.randn(positions, batch, features)
    factor = torch.randn(positions, features, features)
    test = [(1, network), (1, least(lambda: gap @ factor))]
    work.note("fit", START, total(fit))
    work.note("test", START, total(test), batch)
    learnt = factor.nbytes + positions * features * 4
    pictures = work.pictures("train", count).nbytes
    work.memory += _bytes(trainer.detector) + learnt + pictures


def patchcore(work: Work) -> None:
    """Products with the bank."""
    _torch_alone(work)
    import torch
    from bare import least, total

    from ad.memory.screening import Screen

    network, trainer = _seen(work)
    train, bank, batch = (work.counts[key] for key in ("train", "bank", "at_once"))
    with torch.inference_mode():
        given = torch.cat([trainer.extract(_images(work, name)) for name in ("train", "test")])
    patches = given.flatten(0, 2)
    each, features = given[0, ..., 0].numel(), patches.shape[1]
    rows = torch.randn(8192, features)
    matrix = torch.randn(features, 128)
    projection = (train * each / len(rows), least(lambda: rows @ matrix))
    work.note("fit", START, total([(train / batch, network), projection]))
    width = Screen(patches, patches.mean(0)).codes.shape[-1]
    work.told["coordinates"] = width
    products = (batch, _products(each, bank, width))
    work.note("test", START, total([(1, network), products]), batch)
    kept = 2 * features * (train * each + bank)  # in float16
    pictures = work.pictures("train", train).nbytes
    work.memory += _bytes(trainer.detector) + kept + pictures


def _products(queries: int, bank: int, width: int) -> Seconds:
    """Of queries with a bank, by the fastest way there is."""
    import torch
    from bare import least

    found: list[Callable[[], object]] = []
    for dtype in (torch.int8, torch.bfloat16):
        q = torch.ones(queries, width, dtype=dtype)
        for tile in (512, 4096):
            rows = torch.ones(min(tile, bank), width, dtype=dtype)
            sums = torch.int32 if dtype == torch.int8 else dtype
            out = torch.empty(queries, len(rows), dtype=sums)
            product = torch._int_mm if dtype == torch.int8 else torch.mm
            times = -(-bank // len(rows))

            def of_all(
                q: Tensor = q, rows: Tensor = rows, out: Tensor = out,
                product: Callable[..., Tensor] = product, times: int = times,
            ) -> None:  # fmt: skip
                for _ in range(times):
                    product(q, rows.T, out=out)

            found.append(of_all)
    return least(*found)


def dfkde(work: Work) -> None:
    """The network."""
    from bare import total

    network, _ = _seen(work)
    batch = work.counts["at_once"]
    work.note("fit", START, total([(work.counts["train"] / batch, network)]))
    work.note("test", START, network, batch)


def learnt_by_gradient(work: Work) -> None:
    """The convolutions of a step, and of a test."""
    _torch_alone(work)
    import torch
    from bare import Recorded, seconds
    from peer_ours import trainer_of

    from ad.core import Callback, LoopState, PictureSet, fit

    class Third(Callback):
        """Listens to the third step: the first two see pictures for the first time."""

        def __init__(self) -> None:
            self.seen = Recorded()
            self.steps = 0

        def on_batch_end(self, state: LoopState) -> None:
            self.steps += 1
            if self.steps == 2:
                self.seen.__enter__()
            elif self.steps == 3:
                self.seen.__exit__(None, None, None)

    work.counts["steps"] = 1
    train, test = ("small", "small") if work.row == "draem" else ("train", "test")
    pictures = work.pictures(train, 2 * work.counts["batch"])
    trainer = trainer_of(work, pictures.shape[1])
    third = Third()
    fit(trainer, PictureSet(list(pictures), pictures.shape[1], cache=True), callbacks=[third])
    images = _images(work, test)
    with torch.no_grad():
        trainer.detector(images)
        with Recorded() as tested:
            trainer.detector(images)
    work.told |= {"products of a step": third.seen.products,
                  "products of a batch": tested.products}  # fmt: skip
    work.note("step", START, seconds(third.seen.convolutions))
    work.note("test", START, seconds(tested.convolutions), len(images))
    learnt = [each for each in trainer.detector.parameters() if each.requires_grad]
    twice = 2 * sum(each.nbytes for each in learnt)
    work.memory += _bytes(trainer.detector) + twice + third.seen.kept_bytes + pictures.nbytes


def metrics(work: Work) -> None:
    """Sorts of normal pixels."""
    import numpy as np

    maps, masks = (np.load(f"{work.folder}/{name}.npy") for name in ("maps", "masks"))
    normal = maps[~masks]
    highest = normal[normal >= np.quantile(normal[::97], 0.7)]
    for phase, scores in (("auroc", normal), ("aupro", highest)):
        with work.phase(phase):
            scores.sort()


def reading(work: Work) -> None:
    """Pillow's decode."""
    from PIL import Image

    for side in (512, 1000):
        files = sorted(Path(work.folder, f"jpeg{side}").iterdir())[: work.counts["files"]]
        Image.open(files[0]).load()
        with work.phase(f"jpeg{side}", len(files)):
            for file in files:
                with Image.open(file) as picture:
                    picture.load()


ROWS = {
    "import_class": import_class,
    "verdict": verdict,
    "padim": padim,
    "patchcore": patchcore,
    "dfkde": dfkde,
    "stfpm": learnt_by_gradient,
    "reverse_distillation": learnt_by_gradient,
    "efficientad": learnt_by_gradient,
    "draem": learnt_by_gradient,
    "metrics": metrics,
    "reading": reading,
}

if __name__ == "__main__":
    run(ROWS)
