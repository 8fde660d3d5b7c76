"""FastFlow: what it builds, what it minimises, and what it refuses. Numbers are in test_golden."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ad.core import LearningBatch, Setup
from ad.core.detector import mark_trained
from ad.core.errors import SettingError
from ad.flow.fastflow import FastflowTrainer

SIZE = 32


def build(setup=None, **options):
    setup = setup or Setup(img_size=SIZE, normalize=True, weights="random", batch_size=2)
    return FastflowTrainer(setup, **{"backbone": "resnet18", "flow_steps": 2, **options})


@pytest.fixture(scope="module")
def trainer():
    made = build()
    mark_trained(made.detector)
    return made


def pictures(count=3, size=(SIZE, SIZE)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def batch_of(trainer, images):
    with torch.no_grad():
        frozen = tuple(trainer.frozen(images))
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=frozen, indices=indices, epoch=0, seed=0)


def subnets(trainer):
    return [[block.subnet for block in flow] for flow in trainer.detector.flows]


def test_kernels_and_widths_are_the_papers(trainer):
    """On ResNet-18, 3 x 3 only; on others in turn with 1 x 1; as wide inside as what comes in."""
    for of_map, channels in zip(subnets(trainer), (64, 128, 256), strict=True):
        for subnet in of_map:
            first, second = subnet[0].weight, subnet[2].weight
            assert first.shape == (channels // 2, channels // 2, 3, 3)
            assert second.shape == (channels, channels // 2, 3, 3)
    other = build(backbone="resnet34")
    assert [[s[0].kernel_size[0] for s in of_map] for of_map in subnets(other)] == [[3, 1]] * 3
    thin = build(hidden_ratio=0.25)
    assert [s[0].weight.shape[0] for s in subnets(thin)[1]] == [16, 16]


def test_it_has_as_many_parameters_as_in_the_paper():
    flows = build(backbone="resnet50", flow_steps=8).detector.flows
    assert sum(p.numel() for p in flows.parameters()) == pytest.approx(41.3e6, rel=0.005)


def test_what_learns_are_flows_and_norms(trainer):
    (optimization,) = trainer.optimizers(1)
    learnt = {id(p) for group in optimization.optimizer.param_groups for p in group["params"]}
    expected = {
        id(p)
        for name, p in trainer.detector.named_parameters()
        if name.startswith(("flows.", "norms."))
    }
    assert learnt == expected
    assert all(isinstance(norm, nn.LayerNorm) for norm in trainer.detector.norms)
    assert not any(p.requires_grad for p in trainer.detector.extractor.parameters())


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(trainer):
    images = pictures()
    together = trainer.losses(batch_of(trainer, images))
    alone = [trainer.losses(batch_of(trainer, image[None])) for image in images]
    assert together.keys() == {"map1", "map2", "map3"}
    for name, value in together.items():
        mean = torch.stack([each[name] for each in alone]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-3)


def test_the_likelihood_is_float32_where_networks_are_not(monkeypatch):
    plain = build()
    low = build(replace(plain.setup, precision="bf16"))
    batch = batch_of(plain, pictures())
    seen = []
    convolve = nn.Conv2d.forward
    monkeypatch.setattr(
        nn.Conv2d, "forward",
        lambda self, x: [out := convolve(self, x), seen.append(out.dtype)][0],
    )  # fmt: skip
    with torch.autocast("cpu", torch.bfloat16):
        losses = low.losses(batch)
        latents = low.detector.latents(batch.frozen)
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert {t.dtype for pair in latents for t in pair} == {torch.float32}
    for name, value in plain.losses(batch).items():
        torch.testing.assert_close(losses[name], value, rtol=1e-3, atol=0)


def test_the_seed_decides_what_it_starts_from(trainer):
    again, other = build(), build(replace(trainer.setup, seed=1))
    state, same, differs = (made.detector.flows.state_dict() for made in (trainer, again, other))
    assert all(torch.equal(state[key], same[key]) for key in state)
    changed = [key for key in state if not torch.equal(state[key], differs[key])]
    assert {key.rpartition(".")[2] for key in changed} == {"permutation", "weight", "bias"}
    assert not torch.equal(
        state["0.module_list.0.permutation"], state["0.module_list.1.permutation"]
    )


@pytest.mark.parametrize("size", [(48, 32), (32, 64)])
def test_rectangles_are_mapped_in_their_own_shape(size):
    made = build(Setup(img_size=size, normalize=True, weights="random"), flow_steps=1)
    mark_trained(made.detector)
    with torch.inference_mode():
        assert made.detector(pictures(2, size)).map.shape == (2, *size)


def test_it_can_be_exported(trainer):
    images = pictures(2)
    exported = torch.export.export(trainer.detector, (images,), strict=False).module()
    with torch.inference_mode():
        expected, got = trainer.detector(images), exported(images)
    torch.testing.assert_close(got[0], expected.score)
    torch.testing.assert_close(got[1], expected.map)


def test_a_size_whose_maps_do_not_fit_is_refused():
    words = (
        r"`img_size` of FastFlow must be a multiple of 16, .* deepest map of `resnet18`; got "
        r"40x72.*Near it are `--img-size 32x64` or `--img-size 48x80`\."
    )
    with pytest.raises(SettingError, match=words):
        build(Setup(img_size=(40, 72), normalize=True, weights="random"))


def test_pictures_of_another_size_are_refused(trainer):
    words = r"FastFlow was trained at 32 x 32 pixels .*; got 32 x 48 pixels\. Resize the pictures"
    with pytest.raises(SettingError, match=words):
        trainer.detector(pictures(1, (32, 48)))


def test_a_subnet_without_channels_is_refused():
    words = r"`hidden_ratio` must leave a channel .* see 32: give at least 0\.0312; got 0\.01\."
    with pytest.raises(SettingError, match=words):
        build(hidden_ratio=0.01)


def test_a_backbone_without_such_layers_is_refused():
    words = r"`layers` of backbone `mobilenetv2_100.* must be some of .*; got `layer1`"
    with pytest.raises(SettingError, match=words):
        build(backbone="mobilenetv2_100")
