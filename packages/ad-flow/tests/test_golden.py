"""The flows against golden numbers of the authors' code; see `golden`."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from golden import Golden, check_close, needs_golden
from torch import nn

from ad.core import LearningBatch, Setup
from ad.core.detector import mark_trained
from ad.flow.cflow import CflowDetector, CflowTrainer, fibres_of, rate
from ad.flow.coupling import convolutional_flow, fibre_flow
from ad.flow.csflow import CrossScaleNet, CsflowDetector, CsflowTrainer
from ad.flow.fastflow import FastflowDetector, FastflowTrainer
from ad.flow.glow_pair import GlowPair
from ad.flow.positions import position_code
from ad.flow.uflow import UflowDetector, UflowTrainer, UShapedFlow

pytestmark = needs_golden


class Saying(nn.Module):
    """A network that says what it is given to say, whatever it sees."""

    precision = "fp32"

    def __init__(self, said, size):
        super().__init__()
        self.said = said
        self.strides = tuple(size // map_.shape[2] for map_ in said)

    def forward(self, _):
        return self.said


def fill_block(golden, block, prefix):
    """Give a coupling block the file's parameters."""
    which = "rotation" if block.soft else "permutation"
    state = {
        "global_scale": golden[f"{prefix}global_scale_gamma"].view_as(block.global_scale),
        "global_offset": golden[f"{prefix}global_offset"].view_as(block.global_offset),
        which: golden[f"{prefix}{which}"],
    }
    for number, name in ((0, "first"), (2, "second")):
        for kind in ("weight", "bias"):
            state[f"subnet.{number}.{kind}"] = golden[f"{prefix}subnet.{name}.{kind}"]
    block.load_state_dict(state)


def batch_of(maps, update=0):
    images = torch.zeros(len(maps[0]), 3, 4, 4)
    indices = tuple(range(len(images)))
    return LearningBatch(
        images=images, frozen=tuple(maps), indices=indices, epoch=0, seed=0, update=update
    )


def trained(kind, detector, **options):
    """A trainer of its kind, with that detector."""
    setup = Setup(img_size=32, normalize=True, weights="random", batch_size=2)
    trainer = kind(setup, backbone="resnet18", **options)
    trainer.detector = detector.eval()
    return trainer


def check_step(golden, trainer, loss, parameters, prefix):
    """One step of the trainer's optimiser, without clipping and schedule."""
    (optimization,) = trainer.optimizers(1)
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    loss.backward()
    for key, parameter in parameters.items():
        golden.check(parameter.grad.view(golden[f"{prefix}grad.{key}"].shape),
                     f"{prefix}grad.{key}", 1e-5)  # fmt: skip
    optimization.optimizer.step()
    for key, parameter in parameters.items():
        after = golden[f"{prefix}after.{key}"]
        start = before[key].view(after.shape)
        change = parameter.detach().view(after.shape) - start
        # Of a change by the learning rate, float32 keeps so many digits of a number near 1.
        check_close(change, after - start, 1e-5 + 2e-7 / change.abs().max().item(), key)


def fastflow_of(golden, prefix, size, *, kernels, ratio, norm):
    scales = [golden[key] for key in golden.keys_like(rf"{prefix}/scale\d/features")]
    flows, norms = [], []
    for number, maps in enumerate(scales):
        scale = f"{prefix}/scale{number}/"
        steps = len(golden.keys_like(rf"{scale}block\d/global_offset"))
        shape = tuple(maps.shape[1:])
        options = {"hidden_ratio": ratio, "affine_clamping": 2.0, "seed": 0, "precision": "fp32"}
        flow = convolutional_flow(shape, steps=steps, kernels=kernels, **options)
        for step, block in enumerate(flow):
            fill_block(golden, block, f"{scale}block{step}/")
        flows.append(flow)
        norms.append(nn.LayerNorm(shape) if norm else nn.Identity())
        if norm:
            norms[-1].load_state_dict(
                {kind: golden[f"{scale}layernorm.{kind}"] for kind in ("weight", "bias")}
            )
    detector = FastflowDetector(Saying(scales, size), norms, flows, size)
    mark_trained(detector)
    return scales, detector


@pytest.mark.parametrize(
    ("prefix", "size", "kernels", "ratio", "norm"),
    [
        ("cnn", 32, (3, 1), 1.0, True),
        ("cnn_k3only", 32, (3,), 1.0, True),
        ("vit", 48, (3, 1), 0.16, False),
    ],
)
def test_fastflow(prefix, size, kernels, ratio, norm):
    with Golden("flow_fastflow", only=f"{prefix}/") as golden:
        scales, detector = fastflow_of(
            golden, prefix, size, kernels=kernels, ratio=ratio, norm=norm
        )
        for number, (z, log_det) in enumerate(detector.latents(scales)):
            golden.check(z, f"{prefix}/scale{number}/z", 1e-5)
            golden.check(log_det, f"{prefix}/scale{number}/logdet", 1e-5)
        prediction = detector(torch.zeros(2, 3, size, size))
        golden.check(prediction.map[:, None], f"{prefix}/map", 1e-5)
        golden.check(prediction.score, f"{prefix}/score", 1e-5)
        trainer = trained(FastflowTrainer, detector)
        loss = sum(trainer.losses(batch_of(scales)).values())
        golden.check(loss, f"{prefix}/loss", 1e-5)
        if prefix == "cnn":
            parameters = {
                "scale0.block0.subnet.first.weight": detector.flows[0][0].subnet[0].weight,
                "scale0.layernorm.weight": detector.norms[0].weight,
            }
            check_step(golden, trainer, loss, parameters, "cnn/step/")


def cflow_of(golden):
    maps = [golden[f"layer{number}/features"] for number in range(3)]
    flows = []
    for number, layer in enumerate(maps):
        options = {"affine_clamping": 1.9, "permute_soft": True, "seed": 0, "precision": "fp32"}
        flow = fibre_flow(layer.shape[1], 16, blocks=2, **options)
        for step, block in enumerate(flow):
            fill_block(golden, block, f"layer{number}/block{step}/")
        flows.append(flow)
    return maps, CflowDetector(Saying(maps, 32), flows, 16, 32)


def test_cflow():
    """What the authors compare to their test pictures, `official`, is left out; see `cflow`."""
    beyond = ("map/official", "score/official")
    with Golden("flow_cflow", beyond=beyond) as golden:
        for key in golden.keys_like("position_code/"):
            channels, height, width = golden[key].shape
            golden.check(position_code(channels, height, width), key, 1e-5)
        lr = golden["schedule/lr"]
        ours = torch.tensor([2e-4 * rate(step, len(lr)) for step in range(len(lr))])
        golden.check(ours, "schedule/lr", 1e-5)

        maps, detector = cflow_of(golden)
        trainer = trained(CflowTrainer, detector, lr=2e-4)
        largest = []
        for number, layer in enumerate(maps):
            fibres, prefix = fibres_of(layer), f"layer{number}/"
            code = getattr(detector, f"code{number + 1}").repeat(2, 1)
            z, log_det = detector.flows[number](fibres, [code])
            golden.check(z, f"{prefix}z", 1e-5)
            golden.check(log_det, f"{prefix}logdet", 1e-5)
            likelihood = detector.likelihood(number, fibres)
            golden.check(likelihood, f"{prefix}logp_per_dim", 1e-5)
            golden.check(likelihood * layer.shape[1], f"{prefix}logp", 1e-5)
            largest.append(likelihood.detach().max())
            q = (likelihood - largest[-1]).exp().view_as(layer[:, 0])
            golden.check(q, f"{prefix}q", 1e-5)
            trainer.parts = [(number, 0, 1)]
            (loss,) = trainer.losses(batch_of(maps)).values()
            golden.check(loss, f"{prefix}loss_mean", 1e-5)

        class Data:
            """The two pictures, one after the other."""

            def batches(self, size):
                return [batch_of([layer[row : row + 1] for layer in maps]) for row in range(2)]

        trainer.conclude(Data(), None)
        for number in range(3):
            golden.check(detector.largest[number], f"layer{number}/max_logp_per_dim", 1e-5)
        prediction = detector(torch.zeros(2, 3, 32, 32))
        golden.check(prediction.map, "map/spec", 1e-6)
        golden.check(3 - prediction.map, "map/sum_of_q", 1e-6)
        golden.check(prediction.score, "score/spec", 1e-6)

        rows = golden["step/fiber_index"]
        likelihood = detector.likelihood(1, fibres_of(maps[1])[rows], rows % 16)
        loss = F.softplus(-likelihood).mean()
        golden.check(loss, "step/loss", 1e-5)
        block = detector.flows[1][0]
        parameters = {
            "layer1.block0.global_scale_gamma": block.global_scale,
            "layer1.block0.subnet.first.weight": block.subnet[0].weight,
        }
        check_step(golden, trainer, loss, parameters, "step/")


def csflow_of(golden):
    maps = [golden[f"features.scale{scale}"] for scale in range(3)]
    blocks = []
    for number, kernel in enumerate((3, 3, 5)):
        block = GlowPair(
            [tuple(map_.shape[1:]) for map_ in maps],
            subnet_constructor=partial(CrossScaleNet, hidden=10, kernel=kernel),
            clamp=3.0,
            seed=0,
            precision="fp32",
        )
        state = {}
        for scale in range(3):
            state[f"permutation{scale}"] = golden[f"block{number}/permutation.scale{scale}"]
        for own, their in (("of_first", "F2"), ("of_second", "F1")):
            prefix = f"block{number}/{their}/"
            names = {f"first.{scale}": f"in.scale{scale}" for scale in range(3)}
            names |= {f"same.{scale}": f"same.scale{scale}" for scale in range(3)}
            names |= {f"up.{scale}": f"up.scale{scale + 1}_to_{scale}" for scale in range(2)}
            names |= {f"down.{scale}": f"down.scale{scale}_to_{scale + 1}" for scale in range(2)}
            for ours, theirs in names.items():
                for kind in ("weight", "bias"):
                    state[f"{own}.{ours}.{kind}"] = golden[f"{prefix}{theirs}.{kind}"]
            gammas = [golden[f"{prefix}gamma.scale{scale}"] for scale in range(3)]
            state[f"{own}.gamma"] = torch.cat(gammas)
        block.load_state_dict(state)
        blocks.append(block)
    return maps, blocks


class Looking(nn.Module):
    """A network that keeps what it is shown, and says what it is given to say."""

    def __init__(self, said=()):
        super().__init__()
        self.said, self.seen = list(said), []
        self.strides, self.name = (8,), "looking"

    def forward(self, images):
        self.seen.append(images)
        return [self.said[len(self.seen) - 1]]


def csflow_detector(golden, map_mode):
    maps, blocks = csflow_of(golden)
    detector = CsflowDetector(Looking(maps), blocks, map_mode)
    mark_trained(detector)
    return maps, detector.eval()


def test_csflow():
    with Golden("flow_csflow") as golden:
        maps, detector = csflow_detector(golden, "product")
        latents, log_det = detector.latents(maps)
        for scale, z in enumerate(latents):
            golden.check(z, f"z.scale{scale}", 2e-5)
        golden.check(log_det, "logdet", 2e-5)
        own = sum(golden[f"logdet.scale{scale}"] for scale in range(3))
        check_close(log_det, own, 2e-5, "log-determinants of the scales")
        images = torch.zeros(2, 3, 64, 64)
        prediction = detector(images)
        golden.check(prediction.score, "score", 2e-5)
        golden.check(prediction.map[:, None], "map.product_64", 2e-5)
        golden.check(latents[0].square().mean(1), "map.finest", 2e-5)
        _, finest = csflow_detector(golden, "finest")
        golden.check(finest(images).map[:, None], "map.finest_64", 2e-5)
        _, finest = csflow_detector(golden, "finest")
        large = finest(torch.zeros(2, 3, 256, 256)).map
        golden.check(large[:, None, ::4, ::4], "map.finest_up256", 2e-5)

        trainer = CsflowTrainer(
            Setup(img_size=64, normalize=True, weights="random", batch_size=2),
            backbone="mobilenetv2_050",
            layer="blocks.1",
            hidden=1,
            n_coupling_blocks=1,
        )
        trainer.detector = detector
        loss = sum(trainer.losses(batch_of(maps)).values())
        golden.check(loss, "loss", 2e-5)
        (optimization,) = trainer.optimizers(1)
        before = {
            name: value.detach().clone() for name, value in detector.blocks.named_parameters()
        }
        loss.backward()
        norm = nn.utils.clip_grad_norm_(detector.blocks.parameters(), optimization.clip_norm)
        golden.check(norm, "step/grad_norm_before_clip", 2e-5)
        parameters = dict(detector.blocks.named_parameters())
        optimization.optimizer.step()
        for key in golden.keys_like("step/after"):
            _, block, which, kind, scale, *_ = key.removeprefix("step/").split(".")
            net = {"F2": "of_first", "F1": "of_second"}[which]
            at = int(scale.removeprefix("scale"))
            gamma = kind == "gamma"
            name = f"{block.removeprefix('block')}.{net}." + (
                "gamma" if gamma else f"first.{at}.weight"
            )
            rows = slice(at, at + 1) if gamma else slice(None)
            gradient = key.replace("after", "clipped_grad")
            golden.check(parameters[name].grad[rows], gradient, 2e-5)
            start = before[name][rows]
            change = parameters[name].detach()[rows] - start
            # Of a change by the learning rate, float32 keeps so many digits of a number near 1.
            tolerance = 2e-5 + 2e-7 / change.abs().max().item()
            check_close(change, golden[key] - start, tolerance, key)

        looking = CsflowDetector(Looking([torch.zeros(1)] * 3), [], "product")
        looking.pyramid(golden["pyramid/image_corner"])
        whole, half, quarter = looking.extractor.seen
        golden.check(half[..., :4, :4], "pyramid/half_corner", 2e-5)
        golden.check(quarter[..., :4, :4], "pyramid/quarter_corner", 2e-5)


@pytest.mark.parametrize(
    ("case", "sides", "flow_steps"), [("two_scale", (8, 4), 4), ("three_scale", (16, 8, 4), 2)]
)
def test_uflow(case, sides, flow_steps):
    """But for anomalib's loss, which sums the prior over the batch."""
    wrong = f"{case}/loss_anomalib_wrong"
    with Golden("flow_uflow", only=f"{case}/", beyond=[wrong]) as golden:
        maps, size = golden.layers(f"{case}/features."), 4 * sides[0]
        flow = UShapedFlow([tuple(each.shape[1:]) for each in maps], flow_steps, seed=0)
        for side, stage in zip(sides, flow.stages, strict=True):
            for number, block in enumerate(stage):
                fill_block(golden, block, f"{case}/stage_side{side}/block{number}/")
        norms = [nn.Identity() for _ in maps]
        detector = UflowDetector(Saying(maps, size), norms, flow, size, "tree")
        mark_trained(detector)
        latents, log_det = detector.latents(maps)
        for number, z in enumerate(latents):
            golden.check(z, f"{case}/z.{number}", 1e-5)
        golden.check(log_det, f"{case}/logdet", 1e-5)
        prediction = detector(torch.zeros(2, 3, size, size))
        golden.check(prediction.map[:, None], f"{case}/map", 1e-5)
        golden.check(prediction.score, f"{case}/score", 1e-5)
        loss = sum(trained(UflowTrainer, detector).losses(batch_of(maps)).values())
        golden.check(loss, f"{case}/loss", 1e-5)
