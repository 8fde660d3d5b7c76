"""MSFlow against closed forms, autograd's Jacobian and its own inverse."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_flows import (
    batch_of,
    check_exported,
    check_float32,
    check_loss_is_a_mean,
    pictures,
)
from torch import nn

from ad.core import PictureSet, Setup, fit
from ad.core.errors import NotFittedError, SettingError
from ad.core.testing import make_picture
from ad.flow.msflow import ChannelNorm, FusionNet, MsflowTrainer, grids, parallel_flow, rate
from ad.flow.positions import position_code

SIZE = 32
LAYERS = ("layer1", "layer2")


def build(setup=None, **options):
    setup = setup or Setup(img_size=SIZE, normalize=True, weights="random", batch_size=2)
    small = {"backbone": "resnet18", "layers": LAYERS, "parallel_blocks": (1, 2)}
    return MsflowTrainer(setup, **{**small, **options})


@pytest.fixture(scope="module")
def trainer():
    made = build()
    made.detector.largest = torch.tensor([-0.3, -0.4])
    return made


def lively(module):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return module


def test_the_log_determinant_of_a_flow_is_that_of_the_jacobian_and_it_can_be_turned_back():
    flow = lively(parallel_flow((5, 3, 2), 2, 7, "fp32")).double()
    code = position_code(64, 3, 2)[None].double()
    x = torch.randn(2, 5, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, log_dets = flow(x, [code.expand(2, -1, -1, -1)])
    for row in range(2):

        def one(flat):
            return flow(flat.view(1, 5, 3, 2), [code])[0].flatten()

        jacobian = torch.autograd.functional.jacobian(one, x[row].flatten())
        torch.testing.assert_close(log_dets[row], torch.linalg.slogdet(jacobian).logabsdet)
    again, back = flow(z, [code.expand(2, -1, -1, -1)], rev=True)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -log_dets)


def test_latents_are_those_of_the_flows_and_then_of_the_fusion(trainer):
    detector = trainer.detector
    maps = trainer.frozen(pictures())
    assert [tuple(map_.shape[1:]) for map_ in maps] == [(64, 4, 4), (128, 2, 2)]
    parallel, log_det = [], 0
    for map_, flow in zip(maps, detector.flows, strict=True):
        code = position_code(64, *map_.shape[2:]).expand(3, -1, -1, -1)
        z, stretched = flow(map_, [code])
        parallel.append(z)
        log_det = log_det + stretched
    expected, stretched = detector.fusion(parallel)
    latents, found = detector.latents(maps)
    torch.testing.assert_close(latents, list(expected))
    torch.testing.assert_close(found, log_det + stretched)


def test_flows_are_longer_for_deeper_layers_and_their_subnets_the_papers():
    made = build(layers=("layer1", "layer2", "layer3"), parallel_blocks=(2, 5, 8))
    assert [len(flow.module_list) for flow in made.detector.flows] == [2, 5, 8]
    for flow, channels in zip(made.detector.flows, (64, 128, 256), strict=True):
        for block in flow:
            (conv, norm), relu, last = block.subnet
            seen = channels // 2 + 64
            assert conv.weight.shape == (seen, seen, 3, 3)
            assert norm.normalized_shape == (seen,)
            assert isinstance(relu, nn.ReLU)
            assert last.weight.shape == (channels, seen, 3, 3)
            assert block.clamp == 1.9
    assert made.detector.fusion.clamp == 1.9
    defaults = MsflowTrainer.__init__.__kwdefaults__
    assert defaults["parallel_blocks"] == (2, 5, 8)


def test_maps_are_pooled_by_threes_with_a_stride_of_two(trainer):
    images = pictures(1)
    for map_, pooled in zip(
        trainer.detector.extractor(images), trainer.frozen(images), strict=True
    ):
        padded = F.pad(map_, (1, 1, 1, 1))
        for row in range(pooled.shape[2]):
            for column in range(pooled.shape[3]):
                cells = padded[0, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                expected = cells.sum(dim=(1, 2)) / 9
                torch.testing.assert_close(pooled[0, :, row, column], expected)


def test_a_channel_norm_is_of_each_position():
    norm = lively(ChannelNorm(6)).double()
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, variance = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
    scaled = (x - mean) / (variance + 1e-5).sqrt()
    expected = scaled * norm.weight[:, None, None] + norm.bias[:, None, None]
    torch.testing.assert_close(norm(x), expected)


def test_what_the_fusion_hears():
    """The paper's steps, one after the other; corners are aligned."""
    net = lively(FusionNet([4, 2], [6, 8]))
    fine, coarse = torch.rand(2, 4, 4, 6), torch.rand(2, 2, 2, 3)
    state = net.state_dict()

    def conv(x, name):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    halved = fine.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    mixed = conv(torch.cat([halved, coarse], 1), "mix.0")
    assert mixed.shape[1] == 1  # a quarter of six
    mixed = F.layer_norm(
        mixed.movedim(1, 3), (1,), state["mix.1.weight"], state["mix.1.bias"]
    ).movedim(3, 1)
    mixed = conv(mixed.relu(), "mix.3").relu()
    spread = F.interpolate(mixed[:, :4], size=(4, 6), mode="bilinear", align_corners=True)
    expected = [conv(fine + spread, "say.0"), conv(coarse + mixed[:, 4:], "say.1")]
    torch.testing.assert_close(net([fine, coarse]), expected)


def test_the_loss_of_a_batch_is_the_mean_of_its_pictures(trainer):
    check_loss_is_a_mean(trainer, pictures())
    batch = batch_of(trainer, pictures())
    (together,) = trainer.losses(batch).values()
    latents, log_det = trainer.detector.latents(batch.frozen)
    expected = sum(z.double().square().sum() for z in latents) / 2 - log_det.double().sum()
    assert together.item() == pytest.approx(expected.item() / 3, rel=1e-5)


def saying(trainer, monkeypatch, likelihoods, **changes):
    """What the detector makes of given logarithms of likelihoods."""
    detector = trainer.detector
    monkeypatch.setattr(detector, "likelihoods", lambda maps: likelihoods)
    for name, value in changes.items():
        monkeypatch.setattr(detector, name, value)
    with torch.inference_mode():
        return detector(pictures(len(likelihoods[0])))


def resized(map_, size=SIZE):
    """Bilinear with corners aligned, by numpy."""
    rows, columns = (np.linspace(0, side - 1, size) for side in map_.shape)
    by_row = np.stack([np.interp(columns, np.arange(map_.shape[1]), row) for row in map_])
    return np.stack(
        [np.interp(rows, np.arange(map_.shape[0]), column) for column in by_row.T], axis=1
    )


@pytest.mark.parametrize("maxima", ["training", "image"])
def test_map_and_score_are_the_papers(trainer, monkeypatch, maxima):
    given = [-3 * torch.rand(2, 4, 4), -2 * torch.rand(2, 2, 2)]
    found = saying(trainer, monkeypatch, given, maxima=maxima)
    for row in range(2):
        scales = [own[row].double().numpy() for own in given]
        tops = trainer.detector.largest.double().numpy()
        if maxima == "image":
            tops = [scale.max() for scale in scales]
        likely = sum(resized(np.exp(s - top)) for s, top in zip(scales, tops, strict=True))
        highest = likely.max() if maxima == "image" else 2
        np.testing.assert_allclose(found.map[row], highest - likely, atol=1e-5)
        log_product = sum(map(resized, scales))
        log_product -= log_product.max() if maxima == "image" else sum(tops)
        product = np.sort((1 - np.exp(log_product)).ravel())[::-1]
        expected = product[: int(0.03 * SIZE**2)].mean()
        assert found.score[row].item() == pytest.approx(-math.log(1 - expected), rel=1e-4)


def test_the_score_is_not_bounded(trainer, monkeypatch):
    """As A is, which float32 rounds to 1 for both of these."""
    given = [torch.tensor([-40.0, -60.0])[:, None, None].expand(2, 4, 4)] * 2
    score = saying(trainer, monkeypatch, given).score
    assert score[1] - score[0] == pytest.approx(40, rel=1e-4)


def test_a_picture_that_is_bad_all_over_is_seen_to_be(trainer, monkeypatch):
    good, bad = torch.full((4, 4), -0.5), torch.full((4, 4), -9.0)
    given = [torch.stack([good, bad])] * 2
    score, map_ = saying(trainer, monkeypatch, given)
    assert score[1] > score[0] + 10
    assert (map_[1] > map_[0] + 0.5).all()
    score, map_ = saying(trainer, monkeypatch, given, maxima="image")
    torch.testing.assert_close(score[1], score[0])
    torch.testing.assert_close(map_[1], map_[0])


def test_maxima_are_those_of_the_training_pictures():
    made = build(Setup(img_size=SIZE, normalize=True, weights="random", batch_size=4, num_steps=2))
    shown = [make_picture(index, size=SIZE)[0] for index in range(6)]
    with pytest.raises(NotFittedError, match="`largest` is empty"):
        made.detector(pictures())
    fit(made, PictureSet(shown, SIZE))
    images = torch.stack([torch.from_numpy(one).permute(2, 0, 1) / 255 for one in shown])
    with torch.inference_mode():
        found = made.detector.likelihoods(made.frozen(images))
    expected = torch.tensor([own.max() for own in found])
    torch.testing.assert_close(made.detector.largest, expected, rtol=1e-4, atol=1e-5)


def test_the_rate_climbs_and_falls_twice():
    rates = [rate(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[60] == pytest.approx(0.55)
    assert set(rates[120:700]) == {1.0}
    assert set(rates[700:900]) == {0.33}
    assert rates[900] == rates[999] == pytest.approx(0.33**2)


def test_the_optimiser_is_that_of_the_authors(trainer):
    (optimization,) = trainer.optimizers(100)
    (group,) = optimization.optimizer.param_groups
    assert (group["lr"], group["weight_decay"], optimization.clip_norm) == (1e-4, 0, 2.0)
    assert optimization.schedule(95) == pytest.approx(0.33**2)
    learnt = {id(p) for p in group["params"]}
    frozen = {id(p) for p in trainer.detector.extractor.parameters()}
    assert learnt | frozen == {id(p) for p in trainer.detector.parameters()}
    assert not learnt & frozen


def test_the_likelihood_is_float32_where_networks_are_not(trainer):
    low = build(replace(trainer.setup, precision="bf16"))
    check_float32(trainer, low, pictures())


def test_the_seed_decides_what_it_starts_from(trainer):
    again, other = build(), build(replace(trainer.setup, seed=1))
    same = {
        key: (torch.equal(value, again.detector.state_dict()[key]),
              torch.equal(value, other.detector.state_dict()[key]))
        for key, value in trainer.detector.state_dict().items()
        if key.startswith(("flows.", "fusion."))
    }  # fmt: skip
    assert all(first for first, _ in same.values())
    kinds = {key.rpartition(".")[2] for key, (_, second) in same.items() if not second}
    assert kinds == {"permutation", "permutation0", "permutation1", "weight", "bias"}


@pytest.mark.parametrize("size", [(32, 64), (44, 72)])
def test_rectangles_of_any_sides_are_mapped_in_their_own_shape(size):
    made = build(Setup(img_size=size, normalize=True, weights="random"))
    made.detector.largest = torch.zeros(2)
    maps = made.frozen(pictures(2, size))
    assert [tuple(map_.shape[2:]) for map_ in maps] == grids((4, 8), size)
    with torch.inference_mode():
        assert made.detector(pictures(2, size)).map.shape == (2, *size)


def test_it_can_be_exported(trainer):
    check_exported(trainer.detector, pictures(2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"parallel_blocks": (2, 5, 8)},
            r"a number for each of `layers`, layer1, layer2; got 3 of them\. Give 2, such as "
            r"`--set parallel_blocks=2,5`",
        ),
        ({"layers": ()}, "a number for each of `layers`, of which there are none; got 2"),
    ],
)
def test_numbers_of_blocks_that_do_not_fit_the_layers_are_refused(options, words):
    with pytest.raises(SettingError, match=words):
        build(**options)


def test_pictures_of_another_size_are_refused(trainer):
    words = r"MSFlow was trained at 32 x 32 pixels .*; got 48 x 32 pixels"
    with pytest.raises(SettingError, match=words):
        trainer.detector(pictures(1, (48, 32)))
