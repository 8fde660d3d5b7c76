"""CPU seconds a picture of frozen networks and of detectors on them, at 256 x 256.

    python benchmarks/backbones.py [--networks A,B] [--models A,B] [--rounds N] [--output FILE]

Of a network up to layer3: layer by layer, with batch norm folded, in one pass as
`ad.core.networks` does it, as torch compiles and freezes it, and in OpenVINO; one picture and eight
at once. Beside them is what as many products cost in a bare product of matrices: about what the
machine allows. Of a whole detector: layer by layer and in one pass. Random weights and pictures do
not change the time. One thread; the forms take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from inference import BATCHES, SIZE, learnt
from record import record
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ad.core import Precision, Setup
from ad.core.networks import FeatureExtractor

NETWORKS = ("resnet18", "wide_resnet50_2")
MODELS = ("padim-resnet18", "stfpm-resnet18", "reverse-distillation-resnet18", "efficientad-small")
LAYERS = ("layer1", "layer2", "layer3")
CPU = torch.device("cpu")


def layer_by_layer(network: nn.Module) -> nn.Module:
    """A copy whose layers someone listens to, so that they are not done at once."""
    listened = copy.deepcopy(network)
    for module in listened.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: None)
    return listened


def folded(network: nn.Module) -> nn.Module:
    """A copy with batch norm in the convolutions, layer by layer."""
    folded = copy.deepcopy(network)
    for parent in list(folded.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, module in parent.named_children():
            if isinstance(module, nn.BatchNorm2d) and before is not None:
                conv = before[1]
                assert isinstance(conv, nn.Conv2d)
                setattr(parent, before[0], fuse_conv_bn_eval(conv, module))
                setattr(parent, name, nn.Identity())
            before = (name, module) if isinstance(module, nn.Conv2d) else None
    return folded.to(memory_format=torch.channels_last)


def in_openvino(
    network: nn.Module, images: Tensor, precision: Precision
) -> Callable[[Tensor], Any]:
    """As OpenVINO translates it for one thread."""
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(torch.export.export(network, (images,)))
    hints = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    hints["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    return lambda given: compiled(given.numpy())


def products(network: nn.Module, images: Tensor) -> int:
    """How many products of numbers its convolutions take."""
    counted: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            each = module.weight[0].numel()
            module.register_forward_hook(
                lambda _conv, _given, out, each=each: counted.append(out.numel() * each)
            )
    with torch.inference_mode():
        network(images)
    return sum(counted)


def matrices(precision: Precision) -> Callable[[Tensor], Any]:
    """A product of square matrices with 1024^3 products of numbers."""
    one = torch.rand(1024, 1024, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    return lambda _: one @ one


def in_turns(
    forms: Mapping[str, Callable[[Tensor], Any]], images: Tensor, rounds: int
) -> dict[str, float]:
    """CPU seconds of each form, the median of the rounds."""
    used: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for _ in range(2 + rounds):
            for name, form in forms.items():
                start = time.process_time()
                form(images)
                used[name].append(time.process_time() - start)
    return {name: statistics.median(each[2:]) for name, each in used.items()}  # two warm up


def main() -> None:
    """Measure all, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, names in (("--networks", NETWORKS), ("--models", MODELS)):
        parser.add_argument(option, type=lambda some: some.split(",") * bool(some), default=names)
    parser.add_argument("--precisions", type=lambda some: some.split(","), default=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []

    def show(name: str, batch: int, precision: Precision, used: Mapping[str, float]) -> None:
        for form, each in used.items():
            ratio = used["layers"] / each
            row = {"network": name, "batch_size": batch, "precision": precision, "form": form,
                   "cpu_seconds_per_image": each / batch, "cpu_ratio": ratio}  # fmt: skip
            rows.append(row)
            print(f"{name:30} batch {batch}  {precision}  {form:12} {each / batch * 1000:7.1f} ms"
                  f" of CPU a picture  {ratio:4.2f}x", flush=True)  # fmt: skip
        if options.output:  # at once: compiling takes long, and what is stopped keeps the rest
            record("backbones", rows, options.output)

    for precision in options.precisions:
        for name in options.networks:
            setup = Setup(img_size=SIZE, normalize=True, weights="random", precision=precision)
            network = FeatureExtractor(name, LAYERS, setup=setup)
            compiled = torch.compile(network, options={"freezing": True})
            for batch in BATCHES:
                images = torch.rand(batch, 3, SIZE, SIZE)
                used = in_turns(
                    {
                        "layers": layer_by_layer(network),
                        "folded": folded(network),
                        "one pass": network,
                        "compiled": compiled,
                        "OpenVINO": in_openvino(network, images, precision),
                        "matrices": matrices(precision),
                    },
                    images,
                    options.rounds,
                )
                used["matrices"] *= products(copy.deepcopy(network), images) / 1024**3
                show(name, batch, precision, used)
        for name in options.models:
            detector = learnt(name, precision, CPU)
            forms = {"layers": layer_by_layer(detector), "one pass": detector}
            for batch in BATCHES:
                images = torch.rand(batch, 3, SIZE, SIZE)
                show(name, batch, precision, in_turns(forms, images, options.rounds))


if __name__ == "__main__":
    main()
