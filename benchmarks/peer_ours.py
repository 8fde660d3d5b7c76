"""This project's side of `peer.py`: each row by the public interface, in a process of its own."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peer_work import UNTAUGHT, Mark, Work, now, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ad.core import Trainer

SIZE = 256


def prepare(work: Work) -> None:
    """Make what all rows work on: pictures, textures, JPEG files, maps, a trained run."""
    import numpy as np
    from metrics import pictures as maps_and_masks
    from PIL import Image

    from ad.core.testing import make_picture

    folder, counts = Path(work.folder), work.counts
    made = [make_picture(index, size=SIZE)[0] for index in range(counts["train"])]
    np.save(folder / "train.npy", np.stack(made))
    made = [make_picture(10**6 + i, size=SIZE, defect=i % 2 == 1)[0] for i in range(64)]
    np.save(folder / "test.npy", np.stack(made))
    np.save(folder / "small.npy", np.stack(made)[:, ::2, ::2])
    for name in ("good", "dent"):
        (folder / "parts" / name).mkdir(parents=True)
    for index in range(16):
        Image.fromarray(made[2 * index]).save(folder / f"parts/good/{index:03}.png")
        Image.fromarray(made[2 * index + 1]).save(folder / f"parts/dent/{index:03}.png")
    rng = np.random.default_rng(0)
    (folder / "textures/any").mkdir(parents=True)
    for index in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        coarse.resize((400, 400), Image.Resampling.BICUBIC).save(
            folder / f"textures/any/{index:02}.jpg"
        )
    for side in (512, 1000):
        (folder / f"jpeg{side}").mkdir()
        for index in range(counts["files"]):
            picture, _ = make_picture(index, size=side)
            Image.fromarray(picture).save(folder / f"jpeg{side}/{index:03}.jpg", quality=90)
    maps, masks = maps_and_masks(max(2, counts["pixels"] // SIZE**2))
    np.save(folder / "maps.npy", maps)
    np.save(folder / "masks.npy", masks)


def show_help(_: Work) -> None:
    """`ad --help`."""
    _command("--help")


def import_class(_: Work) -> None:
    """What a model's class brings with it."""
    from ad.memory.padim import PadimTrainer as PadimTrainer


def import_torch(_: Work) -> None:
    """What no import of a model can be below."""
    import torch as torch


def prepare_verdict(work: Work) -> None:
    """A run to predict by."""
    from ad.core import train

    train("folder", f"{work.folder}/parts", "padim-resnet18", batch_size=work.counts["batch"],
          weights=work.weights, output_dir=f"{work.folder}/run")  # fmt: skip


def verdict(work: Work) -> None:
    """`ad predict RUN PICTURE`."""
    folder = work.folder
    _command("predict", f"{folder}/run", f"{folder}/parts/dent/000.png",
             "--output", f"{folder}/verdict-{now()[1]}")  # fmt: skip


def _command(*words: str) -> None:
    """The `ad` command."""
    sys.argv = ["ad", *words]
    runpy.run_module("ad.core.cli", run_name="__main__")


def model_of(work: Work) -> tuple[str, dict[str, Any]]:
    """The catalogue's name of a row's model, and its options."""
    counts, textures = work.counts, f"{work.folder}/textures"
    if work.row == "patchcore":
        patches = counts["train"] * (SIZE // 8) ** 2
        return "patchcore-resnet18", {"coreset_ratio": counts["bank"] / patches}
    models: dict[str, tuple[str, dict[str, Any]]] = {
        "padim": ("padim-resnet18", {"n_features": counts.get("features", 100)}),
        "dfkde": ("dfkde", {"backbone": "resnet18", "layers": ("layer3",), "n_components": 16}),
        "stfpm": ("stfpm-resnet18", {}),
        "reverse_distillation": ("reverse-distillation-resnet18", {}),
        "efficientad": ("efficientad-small", {"penalty": textures}),
        "draem": ("draem", {"sspcab": False, "textures": textures}),
    }
    return models[work.row]


def trainer_of(work: Work, size: int = SIZE) -> Trainer:
    """A row's model, untrained."""
    import torch

    from ad.core import ModelRegistry, Setup, load_trainer, resolve_precision

    model, options = model_of(work)
    spec = ModelRegistry.get(model)
    precision = resolve_precision("fp32" if work.form == "fp32" else "auto", torch.device("cpu"))
    work.told |= {"precision": precision, "threads": torch.get_num_threads()}
    batch, steps = work.counts["batch"], work.counts.get("steps")
    setup = Setup(img_size=size, normalize=spec.train["normalize"], batch_size=batch,
                  num_steps=steps and steps + 2, precision=precision,
                  weights="random" if work.row in UNTAUGHT else work.weights)  # fmt: skip
    return load_trainer(spec)(setup, **{**spec.model, **options})


def _test(work: Work, trainer: Trainer, name: str = "test") -> None:
    """Batches in memory to scores and maps."""
    import torch

    from ad.core import to_device

    def score(pictures: NDArray[np.uint8]) -> Tensor:
        images = to_device(torch.from_numpy(pictures), torch.device("cpu"))
        return trainer.detector(images).score

    with torch.inference_mode():
        work.test(name, score)


def _memory(work: Work) -> Trainer:
    """A model that learns in one pass."""
    from ad.core import PictureSet, fit

    trainer = trainer_of(work)
    pictures = PictureSet(list(work.pictures("train", work.counts["train"])), SIZE)
    with work.phase("fit"):
        fit(trainer, pictures)
    _test(work, trainer)
    return trainer


def padim(work: Work) -> None:
    """PaDiM with 100 channels."""
    trainer = _memory(work)
    work.facts["positions, features"] = list(trainer.detector.get_buffer("gaussians.mean").shape)


def patchcore(work: Work) -> None:
    """PatchCore with as many patches as are asked for."""
    trainer = _memory(work)
    banks = [b for name, b in trainer.detector.named_buffers() if name.split(".")[-1] == "bank"]
    work.facts["bank"] = list(banks[0].shape)


def dfkde(work: Work) -> None:
    """DFKDE on the third block."""
    trainer = _memory(work)
    points = [b for name, b in trainer.detector.named_buffers() if name.endswith(".points")]
    work.facts["points, components"] = list(points[0].shape)


def _descent(work: Work, name: str = "train") -> None:
    """A model that learns by gradient; what frozen networks say is kept, as by default."""
    from ad.core import Callback, GradientTrainer, LoopState, PictureSet, fit

    class Clock(Callback):
        def __init__(self) -> None:
            self.marks: list[Mark] = []

        def on_batch_end(self, state: LoopState) -> None:
            self.marks.append(now())

    number = 2 * work.counts["batch"]  # pictures are seen first in the steps that warm up
    pictures = work.pictures(name, number)
    trainer = trainer_of(work, pictures.shape[1])
    assert isinstance(trainer, GradientTrainer)
    groups = [o.optimizer.param_groups for o in trainer.optimizers(1)]
    work.facts["learnt parameters"] = sum(
        each.numel() for group in groups for one in group for each in one["params"]
    )
    clock = Clock()
    fit(trainer, PictureSet(list(pictures), pictures.shape[1], cache=True), callbacks=[clock])
    work.steps(clock.marks)
    _test(work, trainer, "small" if name == "small" else "test")


def stfpm(work: Work) -> None:
    """STFPM."""
    _descent(work)


def reverse_distillation(work: Work) -> None:
    """Reverse Distillation."""
    _descent(work)


def efficientad(work: Work) -> None:
    """EfficientAD-S with an untaught teacher and penalty pictures."""
    _descent(work)


def draem(work: Work) -> None:
    """DRAEM without SSPCAB."""
    _descent(work, "small")


def metrics(work: Work) -> None:
    """Exact pixel AUROC and AUPRO."""
    import numpy as np

    from ad.core import metrics as ours

    maps, masks = (np.load(f"{work.folder}/{name}.npy") for name in ("maps", "masks"))
    work.facts["pixels"] = maps.size
    with work.phase("auroc"):
        work.facts["auroc"] = round(ours.auroc(maps, masks), 5)
    with work.phase("aupro"):
        work.facts["aupro"] = round(ours.aupro(maps, masks, 0.3), 5)


def reading(work: Work) -> None:
    """JPEG files to batches as a detector takes them."""
    import torch

    from ad.core import PictureSet, to_device

    for side in (512, 1000):
        files = sorted(Path(work.folder, f"jpeg{side}").iterdir())[: work.counts["files"]]
        seen = 0
        with work.phase(f"jpeg{side}", len(files)):
            for batch in PictureSet(files, SIZE).batches(work.counts["batch"]):
                seen += len(to_device(batch.pictures, torch.device("cpu")))
        work.facts[f"pictures of {side}"] = seen


ROWS: Mapping[str, Any] = {
    one.__name__: one
    for one in (prepare, show_help, import_class, import_torch, prepare_verdict, verdict, padim,
                patchcore, dfkde, stfpm, reverse_distillation, efficientad, draem, metrics,
                reading)
}  # fmt: skip

if __name__ == "__main__":
    run(dict(ROWS))
