"""Distilling models against golden numbers of the authors' code; see `golden`."""

from types import SimpleNamespace

import pytest
import torch
from golden import Golden, needs_golden
from torch import nn

from ad.core import LearningBatch, Setup
from ad.core.detector import mark_trained
from ad.core.networks import ResidualDecoder
from ad.distill.efficientad import network, trainer
from ad.distill.efficientad.network import AutoEncoder
from ad.distill.efficientad.trainer import EfficientadTrainer
from ad.distill.fre import FreDetector, FreTrainer
from ad.distill.pdn import CHANNELS, Pdn
from ad.distill.reverse_distillation import Bottleneck, ReverseDistillationTrainer
from ad.distill.stfpm import StfpmTrainer

pytestmark = needs_golden

SIZE = 64


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return Setup(**{**values, **changes})


class Saying(nn.Module):
    """A network that says what it is given to say, whatever it sees."""

    precision, kernel = "fp32", (1, 1)

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, _):
        return self.said


def batch_of(frozen, images):
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=frozen, indices=indices, epoch=0, seed=0)


def check_outputs(golden, outputs, prefix):
    spread = torch.stack([outputs.mean(), outputs.std()])
    golden.check(spread, f"{prefix}output.mean_std", 1e-3)
    golden.check(outputs[:, ::16, ::2, ::2], f"{prefix}output.every16th_channel", 1e-3)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_patch_description_networks(size):
    prefixes = tuple(f"pdn_{size}_{name}/" for name in ("teacher", "student"))
    with Golden("landed_efficientad", only=prefixes) as golden:
        image = golden.input("image")
        for prefix, net in zip(prefixes, (Pdn(size), Pdn(size, 2 * CHANNELS)), strict=True):
            with torch.inference_mode():
                outputs = golden.fill(net, prefix)(image)
            check_outputs(golden, outputs, prefix)


def test_a_padded_network_and_the_auto_encoder():
    only = ("autoencoder/", "pdn_small_teacher_padded/")
    with Golden("landed_efficientad", only=only) as golden:
        image = golden.input("image")
        padded = golden.fill(Pdn("small", padding=True), "pdn_small_teacher/")
        autoencoder = golden.fill(AutoEncoder(256), "autoencoder/")
        with torch.inference_mode():
            described, rebuilt = padded(image), autoencoder(image)
        check_outputs(golden, rebuilt, "autoencoder/")
        key = "pdn_small_teacher_padded/output.every16th_channel"
        golden.check(described[:, ::16, ::2, ::2], key, 1e-3)


@pytest.fixture
def four_channels(monkeypatch):
    """EfficientAD with the 4 channels of the small maps."""
    for module in (network, trainer):
        monkeypatch.setattr(module, "CHANNELS", 4)


def efficientad(golden, teacher, student, autoencoder):
    one = EfficientadTrainer(setup(normalize=False), model_size="small")
    one.detector = network.EfficientadDetector(
        Saying(teacher), Saying(student), Saying(autoencoder)
    )
    scale = one.detector.scale
    scale.mean = golden["maps/teacher_mean"][:, None, None]
    scale.std = golden["maps/teacher_std"][:, None, None]
    return one


def test_the_maps_of_efficientad(four_channels):
    """All but the score: the authors' maximum is over the border too, which says nothing."""
    with Golden("landed_efficientad", only="maps/", beyond=["maps/score"]) as golden:
        teacher = golden["maps/teacher"]
        one = efficientad(golden, teacher, golden["maps/student"], golden["maps/autoencoder"])
        detector, images = one.detector, torch.zeros(3, 3, SIZE, SIZE)
        student, autoencoder = detector.maps(images, teacher)
        golden.check(student[:, None], "maps/raw_st", 1e-5)
        golden.check(autoencoder[:, None], "maps/raw_ae", 1e-5)

        batch = batch_of((teacher,), images)
        one.conclude(SimpleNamespace(batches=lambda _: [batch]), None)
        golden.check(detector.quantiles.flatten(), "maps/quantiles_st_a_b_ae_a_b", 1e-5)
        golden.check(detector(images).map[:, None], "maps/padded_up64", 1e-5)
        # Three pixels a cell: the middle one is the cell's own value. 4 cells of padding around.
        cells = detector(torch.zeros(3, 3, 66, 66)).map[:, None, 1::3, 1::3]
        golden.check(cells[..., 4:-4, 4:-4], "maps/combined", 1e-5)


class SayingHalves(Saying):
    """A student that says one thing of pictures as they are and another of penalty pictures."""

    def __init__(self, said, of_penalties):
        super().__init__(said)
        self.of_penalties = of_penalties

    def trunk(self, x):
        return x

    def head(self, features, first=0, last=None):
        said = torch.cat([self.said, self.of_penalties])[: len(features)]
        return said[:, first:last]


def test_the_losses_of_efficientad(four_channels):
    """The quantile of the hard loss is the batch's there, so its pictures are one tall picture.

    What the penalty is for are the student's outputs of the first picture.
    """
    with Golden("landed_efficientad", only="loss/") as golden:
        tall = {
            name: torch.cat(list(golden[f"maps/{name}"]), dim=1)[None]
            for name in ("teacher", "student", "autoencoder")
        }
        one = efficientad(golden, *tall.values())
        first = golden["maps/student"][:1]
        one.detector.student = SayingHalves(tall["student"], torch.cat(3 * [first], dim=2))
        photo = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8)
        one.penalty = SimpleNamespace(draw=lambda _: photo)
        losses = one.losses(batch_of((tall["teacher"],), torch.zeros(1, 3, SIZE, SIZE)))
        losses["student_autoencoder"] = losses.pop("global")
        assert len(losses) == 4
        for name, loss in losses.items():
            golden.check(loss, f"loss/{name}", 1e-5)


def test_the_networks_of_reverse_distillation():
    with Golden("landed_reverse_distillation", only=("bottleneck", "decoder", "level")) as golden:
        bottleneck, decoder = Bottleneck(2, 3), ResidualDecoder(2, (3, 4, 6))
        golden.fill(bottleneck.from_first, "bottleneck/level1.")
        golden.fill(bottleneck.from_second, "bottleneck/level2.")
        for number, block in enumerate(bottleneck.stage):
            golden.fill(block, f"bottleneck/block{number}.")
        for depth, stage in enumerate(decoder.stages, start=1):
            for number, block in enumerate(stage):
                golden.fill(block, f"decoder/stage{depth}.block{number}.")
        maps = [golden.input(f"level{level}") for level in (1, 2, 3)]
        with torch.inference_mode():
            code = bottleneck(maps)
            rebuilt = decoder(code)
        golden.check(code, "bottleneck_output", 1e-3)
        for number, outputs in enumerate(rebuilt):
            golden.check(outputs[:, ::8], f"decoder_output.{number}.every8th_channel", 1e-3)


def test_the_loss_and_the_map_of_reverse_distillation():
    with Golden("landed_reverse_distillation", only="small/") as golden:
        teacher, student = golden.layers("small/teacher."), golden.layers("small/student.")
        one = ReverseDistillationTrainer(setup(), backbone="resnet18")
        detector, images = one.detector, torch.zeros(2, 3, SIZE, SIZE)
        detector.teacher = Saying(teacher)
        detector.bottleneck, detector.decoder = Saying(None), Saying(student)
        mark_trained(detector)
        losses = one.losses(batch_of(tuple(teacher), images))
        golden.check(sum(losses.values()), "small/loss", 1e-5)
        score, smooth = detector(images)
        golden.check(smooth, "small/map64_blurred", 1e-5)
        golden.check(score, "small/score", 1e-5)
        detector.blur = nn.Identity()
        golden.check(detector(images).map[:, None], "small/map64_sum", 1e-5)


def test_stfpm():
    """The authors multiply on a grid of 64 x 64, the first layer's of their pictures.

    Ours is the first layer's of any, so one more, with a gap of 1 everywhere, makes it theirs.
    """
    with Golden("landed_stfpm") as golden:
        teacher, student = golden.layers("teacher.layer"), golden.layers("student.layer")
        one = StfpmTrainer(setup(), backbone="resnet18")
        detector, images = one.detector, torch.zeros(2, 3, SIZE, SIZE)
        detector.student = Saying([maps.requires_grad_() for maps in student])
        loss = sum(one.losses(batch_of(tuple(teacher), images)).values())
        golden.check(loss.detach(), "loss", 1e-5)
        loss.backward()
        for number, maps in enumerate(student, start=1):
            golden.check(maps.grad, f"grad.student.layer{number}", 1e-5)
        east = torch.tensor([1.0, 0.0])[:, None, None].expand(2, 2, SIZE, SIZE)
        north_east = torch.tensor([0.5, 0.75**0.5])[:, None, None].expand(2, 2, SIZE, SIZE)
        detector.teacher.forward = lambda _: [east, *teacher]
        detector.student.said.insert(0, north_east)
        mark_trained(detector)
        with torch.inference_mode():
            golden.check(detector(images).map, "map_64x64", 1e-5)


def test_fre():
    with Golden("landed_fre") as golden:
        features = golden["features"]
        one = FreTrainer(setup(num_steps=1), backbone="resnet18", solver="sgd", pool=1)
        detector = FreDetector(Saying((features,)), pool=1, img_size=3)
        one.detector = detector
        detector.weight = golden["weight"].clone()
        detector.code_bias, detector.bias = golden["encoder_bias"], golden["decoder_bias"]
        images = torch.zeros(3, 3, 3, 3)
        with torch.inference_mode():
            score, cells = detector(images)
        golden.check(score, "score", 1e-5)
        golden.check(cells, "map_3x3", 1e-5)
        rows = features.flatten(1)
        golden.check(rows - detector.error(rows), "reconstruction", 1e-5)

        (optimization,) = one.optimizers(1)
        loss = sum(one.losses(batch_of((rows,), images)).values())
        loss.backward()
        golden.check(loss.detach(), "loss", 1e-5)
        golden.check(detector.weight.grad, "grad.weight", 1e-5)
        optimization.optimizer.step()
        golden.check_change(
            golden["weight"], detector.weight.detach(), "after_adam_1e-3.weight", "weight", 1e-5
        )
