"""Anomalib's side of `peer.py`: each row by its public interface, in a process of its own.

It runs in the environment that `peer.py` makes, where this project is not installed. Nothing of
anomalib is changed but where timm takes weights from, which would be a download.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from peer_work import Mark, Work, now, run

if TYPE_CHECKING:
    import numpy as np
    from anomalib.models.components import AnomalibModule
    from numpy.typing import NDArray
    from torch import Tensor, nn

SIZE = 256


def local_weights(work: Work) -> None:
    """Let timm load pretrained weights from a file, or leave them at random."""
    import timm
    from safetensors.torch import load_file

    create = timm.create_model

    def created(name: str, pretrained: bool = False, **options: Any) -> nn.Module:  # noqa: ANN401
        network: nn.Module = create(name, pretrained=False, **options)
        if pretrained and work.weights != "random":
            missing, _ = network.load_state_dict(load_file(work.weights), strict=False)
            if missing:
                msg = f"{work.weights} lacks {', '.join(missing)}."
                raise SystemExit(msg)
        return network

    timm.create_model = functools.wraps(create)(created)


def show_help(_: Work) -> None:
    """`anomalib --help`."""
    from anomalib.cli.cli import main

    sys.argv = ["anomalib", "--help"]
    main()


def import_class(_: Work) -> None:
    """What a model's class brings with it."""
    from anomalib.models import Padim as Padim


def import_torch(_: Work) -> None:
    """What no import of a model can be below."""
    import torch as torch


def prepare_verdict(work: Work) -> None:
    """A checkpoint to predict by."""
    from anomalib.data import Folder
    from anomalib.models import Padim

    folder = Path(work.folder)
    parts = Folder("parts", root=folder / "parts", normal_dir="good", abnormal_dir="dent",
                   train_batch_size=work.counts["batch"], num_workers=0)  # fmt: skip
    local_weights(work)
    engine = _engine(work, max_epochs=1)
    engine.fit(Padim(n_features=100), datamodule=parts)
    engine.trainer.save_checkpoint(folder / "padim.ckpt")


def verdict(work: Work) -> None:
    """`anomalib predict` of one picture."""
    local_weights(work)
    from anomalib.cli.cli import main

    sys.argv = ["anomalib", "predict", "--model", "Padim", "--model.n_features", "100",
                "--data", f"{work.folder}/parts/dent/000.png", "--trainer.accelerator", "cpu",
                "--ckpt_path", f"{work.folder}/padim.ckpt"]  # fmt: skip
    main()


def _engine(work: Work, **options: Any) -> Any:  # noqa: ANN401
    from anomalib.engine import Engine

    precision = "bf16-mixed" if work.form == "bf16" else "32-true"
    return Engine(accelerator="cpu", default_root_dir=f"{work.folder}/results", precision=precision,
                  enable_progress_bar=False, limit_val_batches=0, **options)  # fmt: skip


def _data(pictures: NDArray[np.uint8], batch: int) -> Any:  # noqa: ANN401
    """Pictures in memory as its own data sets hand them out."""
    import torch
    from anomalib.data import ImageBatch, ImageItem
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms.v2.functional import to_dtype, to_image

    class Pictures(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> ImageItem:
            image = to_dtype(to_image(pictures[index]), torch.float32, scale=True)
            return ImageItem(image=image, gt_label=torch.tensor(0))

    class Module(LightningDataModule):
        name, category, train_batch_size = "pictures", "", batch

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(Pictures(), batch, shuffle=True, collate_fn=ImageBatch.collate)

    return Module()


def _test(work: Work, module: AnomalibModule, name: str = "test") -> None:
    """Batches in memory to scores and maps, in the precision that its trainer would take."""
    import torch

    module.eval()

    def score(pictures: NDArray[np.uint8]) -> Tensor:
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255)
        return module(images).pred_score

    low = torch.autocast("cpu", torch.bfloat16, enabled=work.form == "bf16")
    with torch.inference_mode(), low:
        work.test(name, score)
    import anomalib

    work.told |= {"anomalib": anomalib.__version__, "torch": torch.__version__,
                  "threads": torch.get_num_threads()}  # fmt: skip


PLAIN = {"post_processor": False, "evaluator": False, "visualizer": False}
"""No thresholds, figures and pictures of maps: scores and maps alone, as the other side."""


def _memory(work: Work, module: AnomalibModule) -> None:
    """A model that learns in one pass; measured from the first batch to the end of its `fit`."""
    from lightning.pytorch import Callback

    marks: list[Mark] = []
    conclude = module.fit

    class Clock(Callback):
        def on_train_start(self, *_: object) -> None:
            marks.append(now())

    def fit(_: AnomalibModule) -> None:
        marks.append(now())
        conclude()
        marks.append(now())

    module.fit = MethodType(fit, module)
    pictures = work.pictures("train", work.counts["train"])
    engine = _engine(work, callbacks=[Clock()], enable_checkpointing=True)
    engine.fit(module, datamodule=_data(pictures, work.counts["batch"]))
    work.note("fit", marks[0], marks[2])
    work.note("features", marks[0], marks[1])


def padim(work: Work) -> None:
    """PaDiM with 100 channels."""
    local_weights(work)
    from anomalib.models import Padim

    module = Padim("resnet18", n_features=work.counts["features"], **PLAIN)
    _memory(work, module)
    positions = module.model.gaussian.mean.shape[::-1]
    work.facts["positions, features"] = list(positions)
    _test(work, module)


def patchcore(work: Work) -> None:
    """PatchCore with as many patches as are asked for, or an extrapolation from fewer.

    With `picks`, two coresets are chosen, of a fifth of them and of all, and what the fit of
    the whole bank takes is told from their difference; the bank is then filled with random rows.
    """
    local_weights(work)
    import torch
    from anomalib.models import Patchcore

    patches, bank = work.counts["train"] * (SIZE // 8) ** 2, work.counts["bank"]
    picks = work.counts.get("picks", 0)
    ratio = ((picks // 5 or bank) + 0.5) / patches
    module = Patchcore("resnet18", coreset_sampling_ratio=ratio, num_neighbors=1, **PLAIN)
    if picks:
        _extrapolate(work, module, picks)
    else:
        _memory(work, module)
    if picks:
        features = module.model.memory_bank.shape[1]
        module.model.memory_bank = torch.randn(bank, features)
    work.facts["bank"] = list(module.model.memory_bank.shape)
    _test(work, module)


def _extrapolate(work: Work, module: AnomalibModule, picks: int) -> None:
    """Fit by fewer picks, then tell the cost of all."""
    model, choose = module.model, module.model.subsample_embedding
    times: list[tuple[int, Mark, Mark]] = []

    def twice(_: nn.Module, ratio: float) -> None:
        store = list(model.embedding_store)
        for times_more in (1, 5):
            model.embedding_store[:] = store
            start = now()
            choose(ratio * times_more)
            times.append((len(model.memory_bank), start, now()))

    model.subsample_embedding = MethodType(twice, model)
    _memory(work, module)
    (few, *first), (many, *second) = times
    fit = {}
    for number, kind in enumerate(("cpu", "wall")):
        some, more = (end[number] - start[number] for start, end in (first, second))
        pick = (more - some) / (many - few)
        fit[kind] = work.seconds["features"][kind] + some + pick * (work.counts["bank"] - few)
        work.told[f"{kind} seconds a pick"] = pick
    work.seconds["fit"] = fit
    work.told |= {"picks measured": [few, many], "extrapolated": ["fit"]}


def dfkde(work: Work) -> None:
    """DFKDE on the third block."""
    local_weights(work)
    from anomalib.models import Dfkde

    module = Dfkde("resnet18", layers=("layer3",), n_pca_components=16, **PLAIN)
    _memory(work, module)
    points = module.model.classifier.kde_model.dataset.shape
    work.facts["points, components"] = list(points)
    _test(work, module)


def _descent(work: Work, module: AnomalibModule, name: str = "train") -> None:
    """A model that learns by gradient."""
    from lightning.pytorch import Callback

    marks: list[Mark] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: object) -> None:
            marks.append(now())

    pictures = work.pictures(name, 2 * work.counts["batch"])
    engine = _engine(work, callbacks=[Clock()], max_steps=work.counts["steps"] + 2,
                     log_every_n_steps=10**6)  # fmt: skip
    engine.fit(module, datamodule=_data(pictures, work.counts["batch"]))
    # Only what was stepped: some of its parameters are never used.
    stepped = [one for each in engine.trainer.optimizers for one in each.state]
    work.facts["learnt parameters"] = sum(each.numel() for each in stepped)
    work.steps(marks)
    _test(work, module, "small" if name == "small" else "test")


def stfpm(work: Work) -> None:
    """STFPM."""
    local_weights(work)
    from anomalib.models import Stfpm

    _descent(work, Stfpm("resnet18", **PLAIN))


def reverse_distillation(work: Work) -> None:
    """Reverse Distillation."""
    local_weights(work)
    from anomalib.models import ReverseDistillation

    _descent(work, ReverseDistillation("resnet18", **PLAIN))


def efficientad(work: Work) -> None:
    """EfficientAD-S; where it looks for the teacher that it would download lies an untaught one."""
    import torch
    from anomalib.models import EfficientAd
    from anomalib.utils.path import get_pretrained_weights_dir

    module = EfficientAd(f"{work.folder}/textures", model_size="small", **PLAIN)
    teachers = get_pretrained_weights_dir() / "efficientad_pretrained_weights"
    teachers.mkdir(exist_ok=True)
    torch.save(module.model.teacher.state_dict(), teachers / "pretrained_teacher_small.pth")
    _descent(work, module)


def draem(work: Work) -> None:
    """DRAEM without SSPCAB, which is its default."""
    from anomalib.models import Draem

    side = SIZE // 2
    module = Draem(f"{work.folder}/textures", **PLAIN,
                   pre_processor=Draem.configure_pre_processor((side, side)))  # fmt: skip
    _descent(work, module, "small")


def metrics(work: Work) -> None:
    """Pixel AUROC and AUPRO, exact as by default."""
    import numpy as np
    import torch
    from anomalib.data import ImageBatch
    from anomalib.metrics import AUPRO, AUROC

    maps, masks = (np.load(f"{work.folder}/{name}.npy") for name in ("maps", "masks"))
    work.facts["pixels"] = maps.size
    fields = ["anomaly_map", "gt_mask"]
    batches = [
        ImageBatch(image=torch.zeros(len(part), 3, 1, 1), anomaly_map=torch.from_numpy(part),
                   gt_mask=torch.from_numpy(masks[first : first + 32]))
        for first, part in ((i, maps[i : i + 32]) for i in range(0, len(maps), 32))
    ]  # fmt: skip
    for name, metric in (("auroc", AUROC(fields=fields)), ("aupro", AUPRO(fields=fields))):
        with work.phase(name):
            for batch in batches:
                metric.update(batch)
            work.facts[name] = round(float(metric.compute()), 5)


def reading(work: Work) -> None:
    """JPEG files to batches as a model takes them, by as many workers as there are cores."""
    from anomalib.data import Folder
    from anomalib.models import Padim

    local_weights(work)
    resize = Padim.configure_pre_processor((SIZE, SIZE))
    for side in (512, 1000):
        files = Folder("files", root=work.folder, normal_dir=f"jpeg{side}",
                       train_batch_size=work.counts["batch"], num_workers=os.cpu_count() or 1,
                       test_split_mode="none", val_split_mode="none")  # fmt: skip
        files.setup()
        seen = 0
        with work.phase(f"jpeg{side}", work.counts["files"]):
            for batch in files.train_dataloader():
                seen += len(resize(batch.image))
        work.facts[f"pictures of {side}"] = seen


ROWS = {
    one.__name__: one
    for one in (show_help, import_class, import_torch, prepare_verdict, verdict, padim, patchcore,
                dfkde, stfpm, reverse_distillation, efficientad, draem, metrics, reading)
}  # fmt: skip

if __name__ == "__main__":
    run(ROWS)
