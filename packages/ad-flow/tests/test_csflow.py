"""CS-Flow: what it builds, what it minimises, and what it refuses. Numbers are in test_golden."""

from dataclasses import replace

import pytest
import torch
from tiny_flows import (
    check_exported,
    check_float32,
    check_loss_is_a_mean,
    pictures,
)
from torch import nn

from ad.core import Setup
from ad.core.detector import mark_trained
from ad.core.errors import SettingError
from ad.flow.csflow import CrossScaleNet, CsflowTrainer

SIZE = 64


def build(setup=None, **options):
    setup = setup or Setup(img_size=SIZE, normalize=True, weights="random", batch_size=2)
    small = {"backbone": "mobilenetv2_050", "layer": "blocks.2", "hidden": 8}
    return CsflowTrainer(setup, **{**small, "n_coupling_blocks": 2, **options})


@pytest.fixture(scope="module")
def trainer():
    """As if it had learnt: gammas are not 0."""
    made = build()
    mark_trained(made.detector)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(made.detector.blocks.named_parameters()):
            if name.endswith("gamma"):
                parameter.copy_(torch.tensor([1.0, -0.7, 0.4]) * (1 + number % 3))
    return made


IMAGES = pictures(size=(SIZE, SIZE))


def test_it_starts_as_a_permutation():
    made = build()
    maps = made.frozen(IMAGES)
    latents, log_det = made.detector.latents(maps)
    assert not log_det.any()
    for scale, (z, map_) in enumerate(zip(latents, maps, strict=True)):
        for block in made.detector.blocks:
            map_ = map_[:, getattr(block, f"permutation{scale}")]
        assert torch.equal(z, map_)


def test_the_network_sees_every_pixel_every_second_and_every_fourth(trainer):
    expected = [trainer.detector.extractor(IMAGES[..., ::step, ::step])[0] for step in (1, 2, 4)]
    maps = trainer.frozen(IMAGES)
    assert [map_.shape[2:] for map_ in maps] == [(8, 8), (4, 4), (2, 2)]
    torch.testing.assert_close(maps, expected)


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(trainer):
    check_loss_is_a_mean(trainer, IMAGES)


def test_score_and_map_are_of_all_latents(trainer):
    with torch.inference_mode():
        latents, _ = trainer.detector.latents(trainer.frozen(IMAGES))
        found = trainer.detector(IMAGES)
    for row in range(3):
        own = torch.cat([z[row].flatten() for z in latents]).double()
        assert found.score[row].item() == pytest.approx(own.square().mean().item() / 2, rel=1e-4)
    up = [
        nn.functional.interpolate(
            z.square().mean(1, keepdim=True), size=(SIZE, SIZE), mode="bilinear"
        )[:, 0]
        for z in latents
    ]
    torch.testing.assert_close(found.map, up[0] * up[1] * up[2])
    trainer.detector.map_mode = "finest"
    with torch.inference_mode():
        finest = trainer.detector(IMAGES)
    trainer.detector.map_mode = "product"
    torch.testing.assert_close(finest.map, up[0])
    assert torch.equal(finest.score, found.score)


def test_kernels_are_wider_in_the_last_coupling():
    blocks = build(n_coupling_blocks=4).detector.blocks
    nets = [[block.of_first, block.of_second] for block in blocks]
    kernels = [
        {conv.kernel_size for net in pair for conv in net.modules() if isinstance(conv, nn.Conv2d)}
        for pair in nets
    ]
    assert kernels == [{(3, 3)}] * 3 + [{(5, 5)}]


def test_it_has_as_many_parameters_as_in_the_paper():
    with torch.device("meta"):
        nets = [
            CrossScaleNet([152] * 3, [304] * 3, hidden=1024, kernel=kernel)
            for kernel in (3, 3, 3, 5)
            for _ in range(2)
        ]
    count = sum(p.numel() for net in nets for p in net.parameters())
    assert count == pytest.approx(275e6, rel=0.005)


def test_the_optimiser_is_that_of_the_authors(trainer):
    (optimization,) = trainer.optimizers(1)
    (group,) = optimization.optimizer.param_groups
    facts = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay")}
    assert facts == {"lr": 2e-4, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 1e-5}
    assert optimization.clip_norm == 1.0
    learnt = {id(p) for p in group["params"]}
    assert learnt == {id(p) for p in trainer.detector.blocks.parameters()}
    assert not any(p.requires_grad for p in trainer.detector.extractor.parameters())


def test_the_likelihood_is_float32_where_networks_are_not(trainer):
    low = build(replace(trainer.setup, precision="bf16"))
    low.detector.blocks.load_state_dict(trainer.detector.blocks.state_dict())
    check_float32(trainer, low, IMAGES)


def test_the_seed_decides_what_it_starts_from():
    first, again, other = (
        build(Setup(img_size=SIZE, normalize=True, weights="random", seed=seed))
        for seed in (0, 0, 1)
    )
    states = [made.detector.blocks.state_dict() for made in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    changed = {key for key in states[0] if not torch.equal(states[0][key], states[2][key])}
    assert changed == {key for key in states[0] if not key.endswith("gamma")}


@pytest.mark.parametrize("size", [(32, 96), (64, 32)])
def test_rectangles_are_mapped_in_their_own_shape(trainer, size):
    """It is fully convolutional: sizes may differ from those that it learnt from."""
    made = build(Setup(img_size=size, normalize=True, weights="random"))
    mark_trained(made.detector)
    with torch.inference_mode():
        assert made.detector(pictures(2, size)).map.shape == (2, *size)
        assert trainer.detector(pictures(2, size)).map.shape == (2, *size)


def test_it_can_be_exported(trainer):
    check_exported(trainer.detector, IMAGES[:2])


@pytest.mark.parametrize(
    ("backbone", "layer", "step"),
    [
        ("mobilenetv2_050", "blocks.5", 128),
        ("mobilenetv3_small_050", "blocks.4", 128),
        ("test_efficientnet", "blocks.3", 64),
        ("resnet18", "layer2", 32),
    ],
)
def test_any_network_with_such_blocks_and_others_layers_serve(backbone, layer, step):
    setup = Setup(img_size=(step, 2 * step), normalize=True, weights="random")
    made = build(setup, backbone=backbone, layer=layer, n_coupling_blocks=1)
    with torch.inference_mode():
        maps = made.frozen(pictures(1, setup.img_size))
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(4, 8), (2, 4), (1, 2)]


def test_a_backbone_without_such_a_layer_is_refused_with_those_that_have_one():
    words = (
        r"`layers` of backbone `resnet18.tv_in1k` must be some of `act1`, `layer1`.*; got "
        r"`blocks.5`\.\nhint: CS-Flow sees one layer, its option `layer`\. Networks that have "
        r"`blocks.5`.*`--set backbone=mobilenetv2_100`"
    )
    with pytest.raises(SettingError, match=words):
        build(backbone="resnet18", layer="blocks.5")


def test_a_transformer_is_refused():
    words = r"must be a convolutional network, .*; got `deit_tiny_patch16_224`, a vision trans"
    with pytest.raises(SettingError, match=words):
        build(backbone="deit_tiny_patch16_224", layer="blocks.5")


def test_a_size_whose_scales_do_not_fit_is_refused_with_near_ones():
    words = (
        r"`img_size` of CS-Flow must be a multiple of 128: .* a cell of `blocks.5` of "
        r"`mobilenetv2_050` is 32 pixels wide; got 200x300\. Near it are `--img-size 128x256` or "
        r"`--img-size 256x384`\."
    )
    with pytest.raises(SettingError, match=words):
        build(Setup(img_size=(200, 300), normalize=True, weights="random"), layer="blocks.5")


def test_pictures_whose_scales_do_not_fit_are_refused(trainer):
    words = r"on `mobilenetv2_050` takes .* multiples of 32 pixels; got 64 x 80. Resize them"
    with pytest.raises(SettingError, match=words):
        trainer.detector(pictures(1, (64, 80)))
