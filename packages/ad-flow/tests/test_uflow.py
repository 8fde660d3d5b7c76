"""U-Flow against autograd's Jacobian, densities of torch and its own test of significance."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.detector import mark_trained
from ad.core.errors import NotFittedError, SettingError
from ad.core.networks import FeatureExtractor
from ad.core.testing import make_picture
from ad.flow.a_contrario import minus_log10_nfa
from ad.flow.uflow import _PAIRS, UflowTrainer, UShapedFlow, _check_layers

SIZE = 64


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return Setup(**{**values, **changes})


def trainer(*, options=None, **changes):
    given = {"backbone": "resnet18", "flow_steps": 2, **(options or {})}
    return UflowTrainer(setup(**changes), **given)


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
        flow = UShapedFlow(SHAPES, 2, seed=seed)
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
    images = noise(2, 3, SIZE, SIZE)
    features = [f.bfloat16() for f in one.frozen(images)]
    expected = one.losses(batch_of([f.float() for f in features], images))["nll"]
    with torch.autocast("cpu", torch.bfloat16):
        loss = one.losses(batch_of(features, images))["nll"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected)


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


def test_pictures_of_another_size_than_was_learnt_from_are_refused():
    detector = trainer().detector
    mark_trained(detector)
    for asked in (detector, detector.outline):
        with pytest.raises(SettingError, match="U-Flow was trained at 64 x 64 pixels"):
            asked(noise(1, 3, SIZE, SIZE + 32))


@pytest.mark.parametrize(("layers", "cells"), [(("layer1",), "4"), (("layer1", "layer3"), "4, 16")])
def test_layers_that_do_not_halve_are_refused(layers, cells):
    words = f"`layers` of U-Flow must be two or more, .*`resnet18.* have cells of {cells} pixels"
    with pytest.raises(SettingError, match=words):
        trainer(options={"layers": layers})


def test_layers_with_nothing_to_hand_on_are_refused():
    mobile = {"backbone": "mobilenetv3_small_050", "layers": ("blocks.0", "blocks.1")}
    assert trainer(options=mobile)
    channels = FeatureExtractor("mobilenetv3_small_050", mobile["layers"], setup=setup()).channels
    extractor = SimpleNamespace(strides=(4, 8), channels=(channels[0], 7), name="narrow")
    words = f"must have 8 channels or more, .* `narrow` have {channels[0]}, 7"
    with pytest.raises(SettingError, match=words):
        _check_layers(extractor)


def test_a_backbone_without_such_layers_is_told_what_it_has():
    with pytest.raises(SettingError, match="`layers` of backbone .* must be some of .*`blocks.0`"):
        trainer(options={"backbone": "mobilenetv3_small_050"})


# --- two transformers --------------------------------------------------------------------------


def pair(**changes):
    return trainer(options={"backbone": "mcait-xxs", "flow_steps": 1}, **changes)


def test_the_second_transformer_sees_pictures_at_half_the_size():
    extractor = pair(img_size=(64, 96)).detector.extractor
    assert (extractor.channels, extractor.strides) == ((192, 192), (16, 32))
    images = noise(2, 3, 64, 96)
    with torch.inference_mode():
        fine, coarse = extractor(images)
        assert (fine.shape, coarse.shape) == ((2, 192, 4, 6), (2, 192, 2, 3))
        torch.testing.assert_close(fine, extractor.large(images)[0])
        # Corners of both sizes are at the same place: the second picture of a line stays it.
        line = torch.linspace(0, 1, 96).expand(2, 3, 64, 96)
        half = torch.linspace(0, 1, 48).expand(2, 3, 32, 48)
        seen = []
        hook = extractor.small.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        extractor(line)
        hook.remove()
        torch.testing.assert_close(seen[0], half, atol=2e-3, rtol=0)


def test_the_papers_pair_is_two_caits_after_41_and_21_blocks_and_their_norms():
    assert _PAIRS["mcait"] == ("cait_m48_448", "blocks.40", "cait_s24_224", "blocks.20")
    extractor = pair().detector.extractor
    for one in (extractor.large, extractor.small):
        assert one.net.norm
        assert one.net.indices == (20,)
    assert all(isinstance(norm, nn.Identity) for norm in pair().detector.norms)


@pytest.mark.parametrize("size", [48, (64, 80), 32])
def test_sizes_that_do_not_suit_both_are_refused(size):
    words = "`img_size` of U-Flow must be a multiple of 32, .* of `mcait-xxs`, from 64; got "
    with pytest.raises(SettingError, match=words):
        pair(img_size=size)


def test_one_file_cannot_be_the_weights_of_two_networks(tmp_path):
    words = (
        "`weights` must be `auto` or `random` with the backbone `mcait-xxs`.*got `one.safetensors`"
        ".* Put `cait_xxs24_224.safetensors` and"
    )
    with pytest.raises(SettingError, match=words):
        pair(weights="one.safetensors")


def test_the_pairs_blocks_are_not_a_matter_of_choice():
    with pytest.raises(SettingError, match=r"`layers` is for other .*`mcait-xxs`.*Leave it out"):
        trainer(options={"backbone": "mcait-xxs", "layers": ("blocks.3",)})
