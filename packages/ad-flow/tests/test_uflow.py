"""U-Flow against golden numbers, autograd's Jacobian and closed forms."""

import math

import pytest
import torch
from golden import Golden, needs_golden
from torch import nn

from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.detector import mark_trained
from ad.core.errors import NotFittedError, SettingError
from ad.core.testing import make_picture
from ad.flow.a_contrario import minus_log10_nfa
from ad.flow.uflow import UflowTrainer, UShapedFlow

SIZE = 64


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return Setup(**{**values, **changes})


def trainer(*, options=None, **changes):
    return UflowTrainer(setup(**changes), **{"flow_steps": 2, **(options or {})})


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def lively(flow, scale=0.3):
    """With weights of a size at which every part is at work, in float64."""
    generator = torch.Generator().manual_seed(5)
    flow.double()
    with torch.no_grad():
        for parameter in flow.parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += scale * drawn
    return flow


def normal(shapes, batch=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, *shape, generator=generator).double() for shape in shapes]


def batch_of(frozen, images):
    return LearningBatch(
        images=images, frozen=tuple(frozen), indices=tuple(range(len(images))), epoch=0, seed=0
    )


class Saying(nn.Module):
    """A frozen network that says what it is given to say, whatever it sees."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, _):
        return self.said


SHAPES = [(3, 4, 8), (8, 2, 4), (9, 1, 2)]


def test_the_log_determinant_is_that_of_autograds_jacobian():
    flow = lively(UShapedFlow(SHAPES, 2, seed=0))
    features = normal(SHAPES)
    _, log_det = flow(features)
    sizes = [math.prod(shape) for shape in SHAPES]
    for row in range(2):

        def whole(flat):
            parts = flat.split(sizes)
            latents, _ = flow([p.view(1, *s) for p, s in zip(parts, SHAPES, strict=True)])
            return torch.cat([z.flatten() for z in latents])

        jacobian = torch.autograd.functional.jacobian(
            whole, torch.cat([f[row].flatten() for f in features])
        )
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[row])


def test_every_scale_can_be_undone_from_the_coarsest_latents_up():
    flow = lively(UShapedFlow(SHAPES, 3, seed=0))
    features = normal(SHAPES)
    latents, log_det = flow(features)
    assert [tuple(z.shape[1:]) for z in latents] == [(4, 4, 8), (5, 2, 4), (5, 1, 2)]
    assert sum(z[0].numel() for z in latents) == sum(math.prod(shape) for shape in SHAPES)
    below, total = None, 0
    for own, stage, z, onward in zip(features, flow.stages, latents, flow.onward, strict=True):
        spread = z.new_zeros(2, 0, *z.shape[2:]) if below is None else below
        before, back = stage(torch.cat([spread, z], 1), rev=True)
        total = total - back
        torch.testing.assert_close(before[:, : own.shape[1]], own)
        handed = before[:, own.shape[1] :]
        # Four cells of a channel were one cell of four channels.
        below = nn.functional.pixel_unshuffle(handed, 2) if handed.shape[1] else None
        assert onward == spread.shape[1]
    torch.testing.assert_close(total, log_det)


def test_what_goes_on_and_what_stays_is_as_in_the_paper():
    """Channels of ResNet-50 at 256 pixels: spec of the paper's table."""
    shapes = [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]
    flow = UShapedFlow(shapes, 1, seed=0)
    assert flow.onward == [0, 320, 512]
    assert [stage.shapes[0][0] for stage in flow.stages] == [336, 640, 1024]
    assert UShapedFlow([(768, 4, 4), (384, 2, 2)], 1, seed=0).stages[0].shapes[0][0] == 816


def test_kernels_go_by_turns_from_three():
    (stage,) = UShapedFlow([(8, 4, 4)], 4, seed=0).stages
    assert [block.subnet[0].kernel_size[0] for block in stage] == [3, 1, 3, 1]
    assert [block.clamp for block in stage] == [2.0] * 4


def test_weights_and_permutations_are_drawn_from_the_seed_alone():
    def parts(seed):
        flow = UShapedFlow(SHAPES, 2, seed)
        return [t.flatten().double() for t in flow.state_dict().values() if t.unique().numel() > 1]

    before = torch.random.get_rng_state()
    one, again, other = parts(1), parts(1), parts(2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(map(torch.equal, one, again))
    assert not any(map(torch.equal, one, other))


def test_the_loss_is_minus_the_log_density_and_of_a_batch_the_mean_of_its_pictures():
    one = trainer()
    lively(one.detector.flow, scale=0.01).float()
    images = noise(3, 3, SIZE, SIZE)
    features = one.frozen(images)
    with torch.no_grad():
        loss = one.losses(batch_of(features, images))["nll"]
        singles = [
            one.losses(batch_of([f[row : row + 1] for f in features], images[row : row + 1]))["nll"]
            for row in range(3)
        ]
        torch.testing.assert_close(loss, torch.stack(singles).mean())
        torch.testing.assert_close(one.monitor(images), torch.stack(singles))
        latents, log_det = one.detector.latents(features)
        standard = torch.distributions.Normal(0, 1)
        density = sum(standard.log_prob(z).flatten(1).sum(1) for z in latents) + log_det
        constant = sum(z[0].numel() for z in latents) * math.log(2 * math.pi) / 2
    torch.testing.assert_close(singles, list(-density - constant))


def test_likelihoods_are_float32_in_autocast_and_of_features_in_bf16():
    one = trainer()
    features = [f.bfloat16() for f in one.frozen(noise(2, 3, SIZE, SIZE))]
    expected, _ = one.detector.latents([f.float() for f in features])
    with torch.autocast("cpu", torch.bfloat16):
        latents, log_det = one.detector.latents(features)
    assert {z.dtype for z in [*latents, log_det]} == {torch.float32}
    for ours, theirs in zip(latents, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_flow_and_norms_learn_and_the_backbone_does_not():
    one = trainer(num_epochs=3)
    backbone = {k: v.clone() for k, v in one.detector.extractor.state_dict().items()}
    pictures = PictureSet([make_picture(n, size=SIZE)[0] for n in range(8)], SIZE)
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures.sources])
    before = one.monitor(images).mean()
    fit(one, pictures)
    assert one.monitor(images).mean() < before - 1000
    for name, tensor in one.detector.extractor.state_dict().items():
        assert torch.equal(tensor, backbone[name])
    assert (one.detector.norms[0].weight != 1).any()


def test_the_rate_falls_to_its_last_share_and_stays_if_told():
    (falling,) = trainer().optimizers(11)
    (group,) = falling.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-5)
    assert falling.schedule(0) == 1
    assert falling.schedule(5) == pytest.approx(0.7)
    assert falling.schedule(10) == pytest.approx(0.4)
    (constant,) = trainer(options={"lr_end_factor": 1.0}).optimizers(11)
    assert [constant.schedule(step) for step in range(11)] == [1] * 11
    (single,) = trainer().optimizers(1)
    assert single.schedule(0) == 1


def test_the_outline_is_the_test_of_the_latents_of_these_pictures():
    images = noise(2, 3, SIZE, SIZE)
    maps = {}
    for variant in ("tree", "block"):
        detector = trainer(options={"nfa": variant}).detector
        mark_trained(detector)
        with torch.inference_mode():
            maps[variant] = detector.outline(images)
            latents, _ = detector.latents(detector.extractor(images))
        expected = minus_log10_nfa(latents, (SIZE, SIZE), variant)
        torch.testing.assert_close(maps[variant], expected)
    assert not torch.equal(maps["tree"], maps["block"])


def test_an_untrained_flow_gives_no_scores_and_no_outline():
    detector = trainer().detector
    for asked in (detector, detector.outline):
        with pytest.raises(NotFittedError, match="`trained` is empty"):
            asked(noise(1, 3, SIZE, SIZE))


@pytest.mark.parametrize("size", [SIZE + 8, (SIZE, 72), 16])
def test_sizes_at_which_maps_do_not_fit_together_are_refused(size):
    words = r"`img_size` of U-Flow must be a multiple of 16, .* from 32; got .*`--img-size "
    with pytest.raises(SettingError, match=words):
        trainer(img_size=size)
    trainer(img_size=(32, 48))


@pytest.mark.parametrize("layers", [("layer1",), ("layer1", "layer3"), ("act1", "layer1")])
def test_layers_that_do_not_halve_are_refused(layers):
    cells = {"layer1": 4, "layer3": 16, "act1": 2}
    words = f"`layers` of U-Flow must be two or more, .*got {', '.join(layers)}, whose cells are "
    words += ", ".join(str(cells[layer]) for layer in layers)
    if layers == ("act1", "layer1"):
        trainer(options={"layers": layers})  # 2 and 4: these do
        return
    with pytest.raises(SettingError, match=words):
        trainer(options={"layers": layers})


class TestGolden:
    pytestmark = needs_golden

    @pytest.mark.parametrize(
        ("case", "sides", "flow_steps"), [("two_scale", (8, 4), 4), ("three_scale", (16, 8, 4), 2)]
    )
    def test_the_flow_the_loss_and_the_map(self, case, sides, flow_steps):
        """But for anomalib's loss, which sums the prior over the batch."""
        wrong = f"{case}/loss_anomalib_wrong"
        with Golden("flow_uflow", only=f"{case}/", beyond=[wrong]) as golden:
            features = golden.layers(f"{case}/features.")
            shapes = [tuple(f.shape[1:]) for f in features]
            flow = UShapedFlow(shapes, flow_steps, seed=0)
            for side, stage in zip(sides, flow.stages, strict=True):
                for number, block in enumerate(stage):
                    own = f"{case}/stage_side{side}/block{number}/"
                    state = {
                        "global_scale": golden[f"{own}global_scale_gamma"],
                        "global_offset": golden[f"{own}global_offset"],
                        "permutation": golden[f"{own}permutation"],
                    }
                    for place, name in ((0, "first"), (2, "second")):
                        for kind in ("weight", "bias"):
                            state[f"subnet.{place}.{kind}"] = golden[f"{own}subnet.{name}.{kind}"]
                    wanted = block.state_dict()
                    block.load_state_dict({k: v.view_as(wanted[k]) for k, v in state.items()})

            size = int(4 * sides[0])
            one = trainer()
            detector, images = one.detector, torch.zeros(2, 3, size, size)
            detector.extractor = Saying(features)
            detector.norms = nn.ModuleList(nn.Identity() for _ in features)
            detector.flow = flow
            mark_trained(detector)
            with torch.inference_mode():
                latents, log_det = detector.latents(features)
                score, anomaly_map = detector(images)
                loss = one.losses(batch_of(features, images))["nll"]
            for number, z in enumerate(latents):
                golden.check(z, f"{case}/z.{number}", 1e-5)
            golden.check(log_det, f"{case}/logdet", 1e-5)
            golden.check(loss, f"{case}/loss", 1e-5)
            golden.check(anomaly_map[:, None], f"{case}/map", 1e-5)
            golden.check(score, f"{case}/score", 1e-5)
