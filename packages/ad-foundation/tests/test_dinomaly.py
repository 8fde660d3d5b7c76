"""Dinomaly beside what the golden numbers say of it."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from ad.core import LearningBatch, ModelRegistry, PictureSet, Setup, checked, fit
from ad.core.errors import NotFittedError, SettingError
from ad.core.testing import make_picture
from ad.foundation.dinomaly import (
    Decoder,
    DinomalyTrainer,
    Encoder,
    LinearAttention,
    hard_cosine_loss,
    smoothed_map,
)

SIZE = 64
CNN = {"encoder_name": "resnet18", "layers": ("layer1", "layer2")}
TINY = {
    "encoder_name": "test_vit",
    "layers": ("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
    "decoder_depth": 2,
}


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return DinomalyTrainer(Setup(**{**values, **changes}), **{**TINY, **(options or {})})


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def images(count=2, height=SIZE, width=SIZE):
    return noise(count, 3, height, width).sigmoid()


def batch_of(trainer, images, step=0):
    frozen = tuple(trainer.frozen(images))
    indices = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=frozen, indices=indices, epoch=0, seed=0, step=step)


def test_attention_weighs_values_by_the_product_of_queries_and_keys_without_a_softmax():
    attention = LinearAttention(6, 2).double()
    tokens = noise(1, 5, 6, dtype=torch.float64)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    joined = torch.empty(5, 6, dtype=torch.float64)
    for head in range(2):
        rows = slice(3 * head, 3 * head + 3)
        query, key, value = (
            tokens[0] @ weight[6 * part :][rows].T + bias[6 * part :][rows] for part in range(3)
        )
        for place in range(5):
            weights = []
            for other in range(5):
                a, b = F.elu(query[place]) + 1, F.elu(key[other]) + 1
                weights.append(sum(x * y for x, y in zip(a, b, strict=True)))
            read = sum(w * v for w, v in zip(weights, value, strict=True)) / sum(weights)
            joined[place, rows] = read
    expected = joined @ attention.projection.weight.T + attention.projection.bias
    torch.testing.assert_close(attention(tokens)[0], expected, rtol=1e-5, atol=1e-6)


def test_the_bottleneck_is_noisy_while_learning_in_three_places():
    decoder = Decoder(64, 1, depth=2, dropout=0.5)
    tokens = noise(1, 4, 64).abs() + 1
    seen = {}
    for number, layer in enumerate(decoder.bottleneck):
        layer.register_forward_hook(
            lambda _layer, given, result, number=number: seen.update({number: (given[0], result)})
        )
    for learning in (True, False):
        decoder.train(learning)
        torch.manual_seed(0)
        decoder(tokens)
        for number in (0, 3, 5):
            given, result = seen[number]
            lost = ((result == 0) & (given != 0)).float().mean()
            assert (0.3 < lost < 0.7) if learning else (lost == 0), number


def test_the_later_blocks_rebuild_the_shallow_layers():
    decoder = Decoder(64, 1, depth=4, dropout=0.2).eval()
    tokens = noise(2, 5, 64)
    said = []
    for block in decoder.blocks:
        block.register_forward_hook(lambda _block, _given, result: said.append(result))
    shallow, deep = decoder(tokens)
    torch.testing.assert_close(deep, (said[0] + said[1]) / 2)
    torch.testing.assert_close(shallow, (said[2] + said[3]) / 2)


def test_the_groups_are_means_of_halves_of_the_encoders_blocks():
    one = trainer()
    tokens = one.detector.encoder.tokens(images())
    shallow, deep = one.frozen(images())
    torch.testing.assert_close(shallow, (tokens[0] + tokens[1]) / 2)
    torch.testing.assert_close(deep, (tokens[2] + tokens[3]) / 2)
    assert shallow.shape == (2, 1 + 16, 64)  # the class token takes part


def test_what_is_kept_of_a_picture_is_in_the_precision_of_the_encoder():
    one = trainer(precision="bf16")
    batch = batch_of(one, images())
    assert {kept.dtype for kept in batch.frozen} == {torch.bfloat16}
    losses = one.losses(batch)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    plain = trainer()
    for name, loss in plain.losses(batch_of(plain, images())).items():
        assert losses[name].item() == pytest.approx(loss.item(), rel=0.03)


def gradient(taught, rebuilt, share):
    rebuilt = rebuilt.clone().requires_grad_()
    loss = hard_cosine_loss(taught, rebuilt, share)
    loss.backward()
    return loss.detach(), rebuilt.grad


def test_the_loss_is_of_whole_pictures_and_moves_little_what_is_rebuilt_well():
    taught, rebuilt = noise(3, 10, 4), noise(3, 10, 4, seed=1)
    rebuilt[0] = taught[0] + 0.1 * rebuilt[0]  # one picture is easy as a whole
    each = []
    for a, b in zip(taught.flatten(1), rebuilt.flatten(1), strict=True):
        each.append(1 - torch.dot(a, b) / (a.norm() * b.norm()))
    full = gradient(taught, rebuilt, 0.0)
    torch.testing.assert_close(full[0], torch.stack(each).mean())
    alike = [
        float(F.cosine_similarity(a, b, dim=0))
        for a, b in zip(taught.view(30, 4), rebuilt.view(30, 4), strict=True)
    ]
    order = sorted(range(30), key=lambda cell: -alike[cell])
    # The authors cut off what is left of a cell, and one is always hardest.
    for share, easy in ((0.5, 15), (0.75, 23), (0.9, 28), (1.0, 29)):
        loss, found = gradient(taught, rebuilt, share)
        torch.testing.assert_close(loss, full[0])
        expected = full[1].clone().view(30, 4)
        expected[order[:easy]] *= 0.1
        torch.testing.assert_close(found.view(30, 4), expected)


def test_the_share_of_little_gradients_rises_in_the_first_tenth(monkeypatch):
    shares = []
    monkeypatch.setattr(
        "ad.foundation.dinomaly.hard_cosine_loss",
        lambda theirs, ours, share: shares.append(share) or ours.sum(),
    )
    one = trainer()
    for total, ramp in ((10_000, 1000), (200, 20), (20_000, 1000)):
        one.optimizers(total)
        shares.clear()
        for step in (0, ramp // 2, ramp, 5 * ramp):
            one.losses(batch_of(one, images(1), step))
        assert shares[::2] == shares[1::2] == pytest.approx([0, 0.45, 0.9, 0.9])


def test_the_optimiser_is_the_authors():
    one = trainer()
    (optimization,) = one.optimizers(10_000)
    (group,) = optimization.optimizer.param_groups
    values = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
    assert values == {
        "lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-10, "weight_decay": 1e-4, "amsgrad": True,
    }  # fmt: skip
    assert optimization.clip_norm == 0.1
    learnt = {id(parameter) for parameter in group["params"]}
    assert learnt == {id(parameter) for parameter in one.detector.decoder.parameters()}
    factors = [optimization.schedule(step) for step in (0, 99, 100, 5050, 10_000)]
    assert factors == pytest.approx([0, 1, 1, 0.55, 0.1])
    (short,) = one.optimizers(20)
    assert [short.schedule(step) for step in (0, 1, 2, 11)] == pytest.approx([0, 1, 1, 0.55])
    (one_step,) = one.optimizers(1)
    assert one_step.schedule(0) == 1


def test_a_run_of_few_steps_says_so():
    small, large = trainer(img_size=224), trainer(img_size=(224, 448))
    for steps, least in ((2999, 3000), (3000, None)):
        for one in (small, large):
            one.optimizers(steps)
        told = f"Dinomaly took 2,999 steps and needs about 3,000 .*`--steps {least}` takes them"
        assert all(re.match(told, note) for note in small.notes)
        assert small.notes == large.notes
        assert bool(small.notes) == (least is not None)
    fine = trainer(img_size=240)
    fine.optimizers(4999)
    assert "needs about 5,000 (its authors took 10,000 of 16 pictures" in fine.notes[0]
    fine.optimizers(5000)
    assert fine.notes == ()


def test_a_border_is_no_better_than_what_is_beside_it():
    found = smoothed_map(torch.full((2, 4, 4), 0.3), (56, 56))
    torch.testing.assert_close(found.map, torch.full((2, 56, 56), 0.3))
    torch.testing.assert_close(found.score, torch.full((2,), 0.3))
    corner = torch.zeros(1, 16, 16)
    corner[0, 0, 0] = 1
    assert smoothed_map(corner, (224, 224)).map.flatten().argmax() == 0


@pytest.mark.parametrize(("size", "grid"), [((56, 112), (256, 512)), ((112, 56), (512, 256))])
def test_the_score_is_the_mean_of_the_largest_hundredth(size, grid):
    cells = noise(2, size[0] // 14, size[1] // 14).abs()
    fine = F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=True)
    fine = F.interpolate(fine, size=grid, mode="bilinear", align_corners=False)
    tap = [math.exp(-((x / 4) ** 2) / 2) for x in range(-2, 3)]
    kernel = torch.tensor([[a * b for a in tap] for b in tap])
    fine = F.conv2d(fine, (kernel / kernel.sum())[None, None], padding=2)
    found = smoothed_map(cells, size)
    for score, each in zip(found.score, fine, strict=True):
        largest = sorted(each.flatten().tolist())[-int(0.01 * each.numel()) :]
        assert score.item() == pytest.approx(sum(largest) / len(largest), rel=1e-4)
    assert found.map.shape == (2, *size)


def test_gaps_lie_where_their_patches_are_in_pictures_of_any_shape(monkeypatch):
    one = trainer(img_size=(48, 96))
    one.prepare(None)
    detector = one.detector
    taught = [each.clone() for each in detector.groups(images(1, 48, 96))]
    rebuilt = [each.float().clone() for each in taught]
    row, column = 2, 4  # of 3 x 6
    for each in rebuilt:
        each[0, 1 + row * 6 + column] *= -1  # after the class token
    monkeypatch.setattr(detector, "rebuild", lambda *_: tuple(rebuilt))
    (found,) = detector(images(1, 48, 96)).map
    assert found.shape == (48, 96)
    top, left = divmod(int(found.argmax()), 96)
    assert top > 36
    assert 64 <= left < 88
    assert found[:16, :48].abs().max() < 1e-4


def test_the_decoder_learns_and_the_encoder_stays():
    one = trainer(num_epochs=15)
    before = {key: tensor.clone() for key, tensor in one.detector.encoder.state_dict().items()}
    pictures = PictureSet([make_picture(number, size=SIZE)[0] for number in range(8)], SIZE)
    seen = torch.stack([torch.from_numpy(each).permute(2, 0, 1) / 255 for each in pictures.sources])
    start = sum(one.losses(batch_of(one, seen)).values()).item()
    fit(one, pictures)
    assert sum(one.losses(batch_of(one, seen)).values()).item() < 0.7 * start
    for key, tensor in one.detector.encoder.state_dict().items():
        assert torch.equal(tensor, before[key])


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("size", "width", "parameters", "blocks"),
    [
        ("small", 384, 15_377_280, range(2, 10)),
        ("base", 768, 61_425_408, range(2, 10)),
        ("large", 1024, 109_163_520, range(4, 20, 2)),
    ],
)
def test_the_papers_models(size, width, parameters, blocks):
    spec = ModelRegistry.get(f"dinomaly-{size}-392")
    with torch.device("meta"):
        setup = Setup(img_size=392, normalize=True, weights="random", device=torch.device("meta"))
        one = DinomalyTrainer(setup, **spec.model)
    assert count(one.detector.decoder) == parameters
    assert one.detector.encoder.name == f"vit_{size}_patch14_reg4_dinov2"
    assert one.detector.encoder.channels == (width,) * 8
    assert one.detector.encoder.net.indices == tuple(blocks)
    assert one.detector.decoder.blocks[0].attention.heads == width // 64
    assert len(one.detector.decoder.blocks) == 8
    assert one.detector.decoder.bottleneck[0].p == 0.2


@pytest.mark.slow
def test_the_small_encoder_scores_pictures():
    spec = ModelRegistry.get("dinomaly-small-224")
    setup = Setup(img_size=224, normalize=True, weights="random", batch_size=2, num_steps=2)
    one = DinomalyTrainer(setup, **spec.model)
    fit(one, PictureSet([make_picture(number, size=224)[0] for number in range(2)], 224))
    found = one.detector(images(1, 224, 224))
    assert found.map.shape == (1, 224, 224)
    assert found.score.isfinite().all()


def test_both_ways_to_name_an_encoder_mean_the_one_with_registers():
    for name in ("dinov2_vit_base_14", "dinov2reg_vit_base_14"):
        assert checked(Encoder, name, "it") == "vit_base_patch14_reg4_dinov2"
    assert checked(Encoder, "vit_base_patch14_dinov2", "it") == "vit_base_patch14_dinov2"


def test_weights_start_small_and_from_the_seed():
    one, same, other = (trainer(seed=seed).detector.decoder for seed in (0, 0, 1))
    first = one.bottleneck[1].weight
    assert first.abs().max() <= 0.03
    assert first.std().item() == pytest.approx(0.01, rel=0.05)
    assert all((layer.bias == 0).all() for layer in one.modules() if hasattr(layer, "weight"))
    assert torch.equal(first, same.bottleneck[1].weight)
    assert not torch.equal(first, other.bottleneck[1].weight)


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        (CNN, {}, "must be a vision transformer: `dinov2_vit_small_14`"),
        ({**CNN, "layers": ()}, {}, "must be a vision tr.*; got `resnet18`"),
        ({"layers": ("blocks.1",)}, {}, "an even number of blocks, .*; got 1: blocks.1"),
        ({"layers": ()}, {}, "must be named for encoder `test_vit`: .*--set layers=blocks.2,"),
        ({}, {"img_size": 100}, "multiple of 16 .*got 100. Near it: .*96` or `--img-size 112`"),
        ({"decoder_depth": 3}, {}, "`decoder_depth`.*multiple of 2"),
    ],
)
def test_what_cannot_work_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_an_untrained_decoder_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(images())
