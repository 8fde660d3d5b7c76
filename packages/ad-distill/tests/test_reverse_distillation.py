import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import nn

from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.errors import NotFittedError, SettingError
from ad.core.networks import ResidualBlock, ResidualDecoder
from ad.core.testing import make_picture
from ad.distill.reverse_distillation import Bottleneck, ReverseDistillationTrainer

SIZE = 64


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return ReverseDistillationTrainer(
        Setup(**{**values, **changes}), **{"backbone": "resnet18", **(options or {})}
    )


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(trainer, images):
    frozen = tuple(trainer.frozen(images))
    return LearningBatch(images=images, frozen=frozen, indices=(0,), epoch=0, seed=0)


def maps(width, batch=1):
    e = 1 if width is None else 4
    return [noise(batch, c * e, s, s) for c, s in ((64, 16), (128, 8), (256, 4))]


@pytest.mark.parametrize(("width", "blocks"), [(None, (2, 2, 2)), (1, (3, 4, 6)), (2, (3, 4, 6))])
def test_the_decoder_gives_back_maps_of_the_teachers_shapes(width, blocks):
    given = maps(width)
    with torch.inference_mode():
        code = Bottleneck(width, blocks[0]).eval()(given)
        rebuilt = ResidualDecoder(width, blocks).eval()(code)
    assert code.shape == (1, 512 * (1 if width is None else 4), 2, 2)
    assert [m.shape for m in rebuilt] == [m.shape for m in given]


def with_statistics(module):
    """Batch norms that change what they see, in eval mode."""
    source = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=source)
    return module.eval()


def convolved(state, x, name, number, *, stride=1, doubles=False):
    """A convolution of a network, by its name, and the batch norm after it."""
    weight = state[f"{name}.{number}.weight"]
    if doubles:
        x = F.conv_transpose2d(x, weight, stride=2)
    else:
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[2] // 2)
    norm = f"{name}.{number + 1}"
    mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
    return F.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])


def block_of(state, x, name, **resizing):
    """A residual block of either kind; its first 3 x 3 convolution and its side resize."""
    if f"{name}.main.6.weight" in state:
        inner = convolved(state, x, f"{name}.main", 0).relu()
        inner = convolved(state, inner, f"{name}.main", 3, **resizing).relu()
        inner = convolved(state, inner, f"{name}.main", 6)
    else:
        inner = convolved(state, x, f"{name}.main", 0, **resizing).relu()
        inner = convolved(state, inner, f"{name}.main", 3)
    same = f"{name}.side.0.weight" not in state
    return (inner + (x if same else convolved(state, x, f"{name}.side", 0, **resizing))).relu()


@pytest.mark.parametrize(("width", "blocks"), [(None, (2, 2, 2)), (1, (3, 4, 6))])
def test_bottleneck_and_decoder_are_the_papers_layer_by_layer(width, blocks):
    bottleneck = with_statistics(Bottleneck(width, blocks[0]))
    decoder = with_statistics(ResidualDecoder(width, blocks))
    given = [m - 0.5 for m in maps(width)]
    state = bottleneck.state_dict()
    first = convolved(state, given[0], "from_first", 0, stride=2).relu()
    first = convolved(state, first, "from_first", 3, stride=2).relu()
    second = convolved(state, given[1], "from_second", 0, stride=2).relu()
    code = torch.cat([first, second, given[2]], dim=1)  # from shallow to deep
    for number in range(blocks[0]):
        code = block_of(state, code, f"stage.{number}", stride=1 if number else 2)
    state, x, expected = decoder.state_dict(), code, []
    for stage, count in enumerate(blocks):
        for number in range(count):
            x = block_of(state, x, f"stages.{stage}.{number}", doubles=number == 0)
        expected.insert(0, x)
    with torch.inference_mode():
        found = bottleneck(given)
        torch.testing.assert_close(found, code, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decoder(code), expected, rtol=1e-4, atol=1e-3)


def test_networks_start_from_the_authors_weights():
    one = trainer().detector
    networks = [*one.bottleneck.modules(), *one.decoder.modules()]
    for conv in (layer for layer in networks if isinstance(layer, nn.Conv2d)):
        fan_out = conv.weight.shape[0] * conv.weight[0, 0].numel()
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    norms = [layer for layer in networks if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 23
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_blocks_have_the_parameters_of_a_residual_network():
    conv = 64 * 64 * 9
    assert count(ResidualBlock(64, 64, None)) == 2 * (conv + 2 * 64)
    wide = ResidualBlock(256, 64, 2)  # 1 x 1, 3 x 3 of twice the width, 1 x 1
    assert count(wide) == 256 * 128 + 128 * 128 * 9 + 128 * 256 + 2 * (128 + 128 + 256)
    doubled = ResidualBlock(512, 256, None, resize="double")
    assert count(doubled) == 512 * 256 * 4 + 256 * 256 * 9 + 512 * 256 * 4 + 3 * 2 * 256


def test_the_loss_is_one_minus_the_cosine_of_whole_maps():
    one = trainer()
    one.detector.eval()
    images = noise(2, 3, SIZE, SIZE)
    losses = one.losses(batch_of(one, images))
    taught = one.detector.teacher(images)
    for (name, loss), theirs, ours in zip(
        losses.items(), taught, one.detector.rebuild(taught), strict=True
    ):
        each = [
            1 - torch.dot(a.reshape(-1), b.reshape(-1)) / (a.norm() * b.norm())
            for a, b in zip(theirs, ours, strict=True)
        ]
        torch.testing.assert_close(loss, torch.stack(each).mean(), msg=name)


def test_per_pixel_takes_the_cosine_at_each_position():
    one = trainer({"per_pixel": True})
    one.detector.eval()
    images = noise(2, 3, SIZE, SIZE)
    loss = one.losses(batch_of(one, images))["layer1"]
    taught = one.detector.teacher(images)
    expected = 1 - F.cosine_similarity(taught[0], one.detector.rebuild(taught)[0], dim=1)
    torch.testing.assert_close(loss, expected.mean())


def test_the_loss_does_not_change_when_the_batch_is_doubled():
    one = trainer()
    one.detector.eval()
    images = noise(2, 3, SIZE, SIZE)
    once = one.losses(batch_of(one, images))
    twice = one.losses(batch_of(one, torch.cat([images, images])))
    assert list(once) == ["layer1", "layer2", "layer3"]
    for name in once:
        torch.testing.assert_close(once[name], twice[name])


def test_the_map_is_the_smoothed_sum_of_the_layers_angles():
    one = trainer()
    one.prepare(None)
    detector = one.detector.eval()
    images = noise(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        taught = detector.teacher(images)
        total = 0
        for theirs, ours in zip(taught, detector.rebuild(taught), strict=True):
            angle = 1 - F.cosine_similarity(theirs, ours, dim=1)[:, None]
            total = total + F.interpolate(angle, SIZE, mode="bilinear", align_corners=True)
        found = detector(images)
    expected = gaussian_filter(total[0, 0].numpy(), 4)
    torch.testing.assert_close(found.map[0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.score, found.map.amax((1, 2)))


def test_a_perfect_reconstruction_leaves_no_anomaly(monkeypatch):
    one = trainer()
    one.prepare(None)
    monkeypatch.setattr(one.detector, "rebuild", lambda maps: [2 * m for m in maps])
    assert one.detector(noise(1, 3, SIZE, SIZE)).map.abs().max() < 1e-5


def test_the_teacher_never_changes_and_the_student_learns():
    one = trainer(num_epochs=6)
    teacher = {k: v.clone() for k, v in one.detector.teacher.state_dict().items()}
    pictures = PictureSet([make_picture(i, size=SIZE)[0] for i in range(8)], SIZE)
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures.sources])
    one.detector.train()
    before = sum(one.losses(batch_of(one, images)).values()).detach()
    fit(one, pictures)
    one.detector.train()
    assert sum(one.losses(batch_of(one, images)).values()) < 0.5 * before
    for name, tensor in one.detector.teacher.state_dict().items():
        assert torch.equal(tensor, teacher[name])
    assert not one.detector.teacher.training


def test_the_optimiser_is_that_of_the_authors():
    (optimization,) = trainer().optimizers(10)
    (group,) = optimization.optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.0025, (0.5, 0.999), 0)
    trained = {id(p) for p in group["params"]}
    assert not trained & {id(p) for p in one_teacher_parameters()}


def one_teacher_parameters():
    return trainer().detector.teacher.parameters()


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"backbone": "mobilenetv2_100"}, {}, "`backbone` of Reverse Distillation must be one of"),
        ({"layers": ("layer2", "layer3")}, {}, "`layers` of Reverse Distillation must be layer1"),
        ({}, {"img_size": 80}, "must be a multiple of 32, .*; got 80"),
        ({}, {"img_size": 32}, "from 64: at 32 the code is a single cell, .*; got 32"),
    ],
)
def test_what_the_decoder_cannot_mirror_is_refused(options, changes, words):
    with pytest.raises(SettingError, match=words):
        trainer(options, **changes)


def test_the_smallest_pictures_are_learnt_from_one_by_one():
    one = trainer(img_size=64, batch_size=1)
    fit(one, PictureSet([make_picture(0, size=64)[0]], 64))
    assert one.detector(noise(1, 3, 64, 64)).score.isfinite()


def test_sides_that_the_decoder_cannot_meet_are_refused():
    one = trainer()
    one.prepare(None)
    with pytest.raises(SettingError, match="multiples of 32 pixels; got 64 x 80. Resize them"):
        one.detector(noise(1, 3, 64, 80))
    assert one.detector(noise(1, 3, 64, 96)).map.shape == (1, 64, 96)


def test_an_untrained_student_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))
