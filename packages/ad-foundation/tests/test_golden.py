"""Foundation models against golden numbers of the authors' code; see `golden`."""

import pytest
import torch
from golden import Golden, check_close, needs_golden
from torch import nn

from ad.core import LearningBatch
from ad.core.detector import mark_trained
from ad.core.networks import upsample
from ad.foundation.dinomaly import (
    Decoder,
    DinomalyDetector,
    DinomalyTrainer,
    hard_cosine_loss,
    smoothed,
)
from ad.foundation.stable_adamw import StableAdamW, warm_cosine

pytestmark = needs_golden


class Saying(nn.Module):
    """An encoder that says what it is given to say, whatever it sees."""

    precision, prefix_tokens, strides = "fp32", 5, (14,)

    def __init__(self, said):
        super().__init__()
        self.said = said

    def tokens(self, _):
        return self.said


def dinomaly(golden):
    """The detector of the file: width 24, 3 heads, pictures of 4 x 4 patches."""
    decoder = Decoder(24, 3, depth=8, dropout=0.2)
    with torch.no_grad():
        for name, layer in (("first", 1), ("second", 4)):
            for part in ("weight", "bias"):
                given = golden[f"bottleneck/{name}.{part}"]
                getattr(decoder.bottleneck[layer], part).copy_(given)
        for number, block in enumerate(decoder.blocks):
            for ours, theirs in (
                ("norm_before_attention", "norm_before_attention"),
                ("attention.qkv", "attention.qkv"),
                ("attention.projection", "attention.projection"),
                ("norm_before_mlp", "norm_before_mlp"),
                ("mlp.0", "mlp.first"),
                ("mlp.2", "mlp.second"),
            ):
                for part in ("weight", "bias"):
                    given = golden[f"decoder/block{number}/{theirs}.{part}"]
                    getattr(block.get_submodule(ours), part).copy_(given)
    said = [golden[f"encoder_tokens/target{number}"] for number in range(8)]
    return DinomalyDetector(Saying(said), decoder).eval()  # and dropout is off


def as_map(tokens):
    return tokens.mT.reshape(2, 24, 4, 4)


def test_dinomalys_networks():
    with Golden("foundation_dinomaly", only=("bottleneck", "decoder", "encoder")) as golden:
        detector = dinomaly(golden)
        taught = detector.groups(None)
        with torch.inference_mode():
            tokens = detector.decoder.bottleneck((taught[0] + taught[1]) / 2)
            golden.check(tokens, "bottleneck/output_tokens", 1e-4)
            for number, block in enumerate(detector.decoder.blocks):
                tokens = block(tokens)
                if number in (0, 7):
                    golden.check(tokens, f"decoder/output_tokens.block{number}", 1e-4)
            rebuilt = detector.rebuild(*taught)
        for number, (theirs, ours) in enumerate(zip(taught, rebuilt, strict=True)):
            golden.check(as_map(detector.patches(theirs)), f"encoder_group{number}", 1e-4)
            golden.check(as_map(detector.patches(ours)), f"decoder_group{number}", 1e-4)


def test_dinomalys_map_and_score():
    """Of the maps of each group ours has the mean only, and that without a name."""
    with Golden("foundation_dinomaly", only=("map", "score", "blur")) as golden:
        detector = dinomaly(golden)
        mark_trained(detector)
        golden.check(detector(torch.zeros(2, 3, 56, 56)).score, "score", 1e-4)
        mean = (golden["map/group0_input_size56"] + golden["map/group1_input_size56"]) / 2
        golden.check(mean, "map/input_size56", 1e-6)
        blurred = smoothed(upsample(mean[:, 0], (256, 256)))[:, None]
        golden.check(blurred[:, :, ::4, ::4], "map/blurred256_every4", 1e-4)
        golden.check(blurred[:, :, :3], "map/blurred256_top_rows", 1e-4)
        point = torch.zeros(1, 9, 9)
        point[0, 4, 4] = 1
        golden.check(smoothed(point)[0, 2:7, 2:7], "blur_kernel5", 1e-6)


@pytest.mark.parametrize("step", [0, 500, 1000, 2000])
def test_dinomalys_loss(step):
    with Golden("foundation_dinomaly", only=f"loss/step{step}/") as golden:
        share = golden[f"loss/step{step}/p"].item()
        assert share == pytest.approx(min(0.9 * step / 1000, 0.9))
        detector = dinomaly(golden)
        taught = detector.groups(None)
        rebuilt = [each.detach().requires_grad_() for each in detector.rebuild(*taught)]
        total = sum(
            hard_cosine_loss(detector.patches(theirs), detector.patches(ours), share)
            for theirs, ours in zip(taught, rebuilt, strict=True)
        )
        (total / 2).backward()
        for number, ours in enumerate(rebuilt):
            gradient = as_map(detector.patches(ours.grad))
            golden.check(gradient, f"loss/step{step}/grad.decoder_group{number}", 1e-3)
        loss = losses_of(detector, step)
        loss.backward()
        golden.check(loss.detach(), f"loss/step{step}/value", 1e-4)
        first = detector.decoder.bottleneck[1].weight.grad
        golden.check(first, f"loss/step{step}/grad.bottleneck.first.weight", 1e-3)
        norm = torch.cat([p.grad.flatten() for p in detector.decoder.parameters()]).norm()
        golden.check(norm, f"loss/step{step}/grad_norm", 1e-3)


def losses_of(detector, step):
    """What the trainer's losses add up to at a step of the authors' schedule."""
    one = DinomalyTrainer.__new__(DinomalyTrainer)  # whose encoder would be another
    one.detector, one.ramp = detector, 1000
    batch = LearningBatch(
        images=torch.zeros(2, 3, 56, 56),
        frozen=detector.groups(None),
        indices=(0, 1),
        epoch=0,
        seed=0,
        step=step,
    )
    return sum(one.losses(batch).values())


def test_dinomalys_steps():
    with Golden("foundation_dinomaly", only="train") as golden:
        detector = dinomaly(golden)
        decoder = detector.decoder
        adam = StableAdamW(decoder.parameters(), 2e-3, weight_decay=1e-4)
        kept = {
            "bottleneck.first.weight": decoder.bottleneck[1].weight,
            "decoder.block0.attention.qkv.bias": decoder.blocks[0].attention.qkv.bias,
            "decoder.block7.norm_before_mlp.weight": decoder.blocks[7].norm_before_mlp.weight,
        }
        before = {name: parameter.detach().clone() for name, parameter in kept.items()}
        for step in range(2):
            adam.zero_grad()
            loss = losses_of(detector, 1000)
            loss.backward()
            golden.check(loss.detach(), f"train/step{step}/loss", 1e-4)
            norm = nn.utils.clip_grad_norm_(decoder.parameters(), 0.1)
            golden.check(norm, f"train/step{step}/grad_norm_before_clip", 1e-3)
            adam.step()
            for name, parameter in kept.items():
                theirs = golden[f"train/after_step{step}.{name}"] - before[name]
                check_close(parameter.detach() - before[name], theirs, 1e-3, name)


@pytest.mark.parametrize(("name", "eps"), [("amsgrad_eps1e-10", 1e-10), ("plain_eps1e-8", 1e-8)])
def test_stable_adamw(name, eps):
    with Golden("foundation_stable_adamw", only=name) as golden:
        given = [nn.Parameter(golden[f"{name}/{tensor}0"].clone()) for tensor in "wv"]
        amsgrad = name.startswith("amsgrad")
        adam = StableAdamW(given, 2e-3, eps=eps, weight_decay=1e-4, amsgrad=amsgrad)
        for step in range(1, 7):
            for tensor, parameter in zip("wv", given, strict=True):
                parameter.grad = golden[f"{name}/grad_{tensor}.step{step}"].clone()
            adam.step()
            for tensor, parameter in zip("wv", given, strict=True):
                golden.check(parameter.detach(), f"{name}/{tensor}.after{step}", 1e-6)


def test_the_learning_rate():
    with Golden("foundation_stable_adamw", only="warm_cosine") as golden:
        for total, steps in ((300, range(303)), (5000, [*range(0, 5003, 50), *range(4997, 5003)])):
            rates = [2e-3 * warm_cosine(step, total, warm_up=100, last=0.1) for step in steps]
            golden.check(torch.tensor(rates), f"warm_cosine/total{total}", 1e-6)
