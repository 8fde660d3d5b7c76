"""Patch description networks: their shapes, their weights and the scale of their outputs."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from ad.core import FROM_MODEL_FILE, Setup
from ad.core.errors import DataError, ModelFileError, WeightsError
from ad.core.saved.loading import load_tensors
from ad.distill.pdn import CHANNELS, ChannelScale, Pdn, load_teacher, teacher_file

# By hand from the layers: inputs x outputs x kernel + outputs of each convolution.
TEACHERS = {
    "small": [6_272, 524_544, 590_080, 1_573_248],
    "medium": [12_544, 2_097_664, 262_656, 2_359_808, 3_146_112, 147_840],
}
STUDENTS = {
    "small": [6_272, 524_544, 590_080, 3_146_496],
    "medium": [12_544, 2_097_664, 262_656, 2_359_808, 6_292_224, 590_592],
}


def setup(**changes):
    return Setup(**{"img_size": 64, "normalize": False, "weights": "random", **changes})


def parameters(net):
    convs = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
    return [sum(p.numel() for p in conv.parameters()) for conv in convs]


@pytest.fixture
def no_weights(monkeypatch):
    monkeypatch.delenv("AD_WEIGHTS", raising=False)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_layers_are_the_papers(size):
    assert parameters(Pdn(size)) == TEACHERS[size]
    assert parameters(Pdn(size, 2 * CHANNELS)) == STUDENTS[size]


@pytest.mark.parametrize("size", ["small", "medium"])
@pytest.mark.parametrize(
    ("padding", "pixels", "cells"),
    [(False, 256, 56), (False, 64, 8), (False, 65, 9), (False, 67, 9), (True, 256, 64)],
)
def test_maps_have_8_cells_less_than_a_quarter_or_a_quarter_with_padding(
    size, padding, pixels, cells
):
    with torch.device("meta"):  # shapes only
        net = Pdn(size, padding=padding)
        assert net(torch.empty(1, 3, pixels, 64)).shape == (
            1,
            CHANNELS,
            cells,
            16 if padding else 8,
        )


@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_patch_is_33_pixels_wide_and_4_apart(size):
    net = Pdn(size)
    images = torch.rand(1, 3, 37, 37, requires_grad=True)
    features = net(images)
    assert features.shape[2:] == (2, 2)
    for cell in (0, 1):
        (gradient,) = torch.autograd.grad(
            features[0, :, cell, cell].sum(), images, retain_graph=True
        )
        (rows,) = gradient.abs().sum((0, 1, 3)).nonzero(as_tuple=True)
        assert (rows.min(), rows.max()) == (4 * cell, 4 * cell + 32)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("size", ["small", "medium"])
def test_the_network_is_the_papers_layer_by_layer(size, padding):
    net = Pdn(size, 8, padding=padding)
    first, second, *rest = [(c.weight, c.bias) for c in net.layers if isinstance(c, nn.Conv2d)]
    x = images = torch.randn(2, 3, 44, 40, generator=torch.Generator().manual_seed(0))
    for conv in (first, second):  # kernel 4; each followed by a mean over 2 x 2
        x = F.conv2d(x, *conv, padding=3 if padding else 0).relu()
        x = F.avg_pool2d(x, 2, padding=1 if padding else 0)
    if size == "small":
        (third, last), after = rest, ()
    else:
        x = F.conv2d(x, *rest[0]).relu()
        third, last, *after = rest[1:]
    x = F.conv2d(x, *third, padding=1 if padding else 0).relu()
    x = F.conv2d(x, *last)
    for conv in after:
        x = F.conv2d(x.relu(), *conv)
    torch.testing.assert_close(net(images), x)


def test_a_part_of_the_outputs_is_that_part():
    net = Pdn("small", 2 * CHANNELS)
    x = torch.rand(2, 3, 33, 33)
    whole, features = net(x), net.trunk(x)
    torch.testing.assert_close(net.head(features), whole)
    torch.testing.assert_close(net.head(features, 0, CHANNELS), whole[:, :CHANNELS])
    torch.testing.assert_close(net.head(features, CHANNELS), whole[:, CHANNELS:])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("named", ["file", "folder", "weights", "environment"])
def test_weights_are_found(tmp_path, monkeypatch, no_weights, named, half):
    net = Pdn("small")
    state = {k: t.half() if half else t for k, t in net.layers.state_dict().items()}
    path = tmp_path / teacher_file("small")
    save_file(state, path)
    file, weights = "", "auto"
    if named == "environment":
        monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    elif named == "weights":
        weights = str(path)
    else:
        file = str(path if named == "file" else tmp_path)
    teacher = load_teacher("small", setup=setup(weights=weights), file=file)
    for name, tensor in teacher.net.layers.state_dict().items():
        assert torch.equal(tensor, state[name].float())


def test_weights_that_number_the_convolutions_alone_are_taken(tmp_path):
    net = Pdn("medium")
    state = net.layers.state_dict()
    numbers = dict(zip(("0", "3", "6", "8", "10", "12"), range(1, 7), strict=True))
    others = {f"conv{numbers[k.split('.')[0]]}.{k.split('.')[1]}": t for k, t in state.items()}
    save_file(others, tmp_path / "other.safetensors")
    teacher = load_teacher("medium", setup=setup(), file=str(tmp_path / "other.safetensors"))
    assert torch.equal(teacher.net.layers[12].bias, net.layers[12].bias)


def test_random_weights_come_from_the_seed_and_leave_the_generator_alone():
    before = torch.random.get_rng_state()
    first, again = (load_teacher("small", setup=setup(seed=1)) for _ in range(2))
    other = load_teacher("small", setup=setup(seed=2))
    weights = [teacher.net.layers[0].weight for teacher in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_model_file_brings_its_own_weights(no_weights):
    load_teacher("small", setup=setup(weights=FROM_MODEL_FILE), file="gone.safetensors")


def test_a_teacher_stays_as_it_is():
    teacher = load_teacher("small", setup=setup())
    assert not teacher.train().training
    assert not teacher.net.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_without_weights_the_error_says_what_to_do(tmp_path, monkeypatch, no_weights):
    with pytest.raises(WeightsError) as caught:
        load_teacher("medium", setup=setup(weights="auto"))
    for words in (
        "medium teacher has no weights",
        "AD_WEIGHTS is not set",
        "efficientad_pdn_medium.safetensors",
        "--set teacher=FILE",
        "ad distill-teacher --images DIR",
        "--weights random",
    ):
        assert words in str(caught.value)
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="has no `efficientad_pdn_small.safetensors`"):
        load_teacher("small", setup=setup(weights="auto"))
    monkeypatch.setenv("AD_WEIGHTS", str(tmp_path / "missing"))
    with pytest.raises(WeightsError, match="AD_WEIGHTS names .* not a folder"):
        load_teacher("small", setup=setup(weights="auto"))


def test_a_file_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "some.safetensors"
    with pytest.raises(
        WeightsError, match="`teacher` must be a safetensors file that holds a small"
    ):
        load_teacher("small", setup=setup(), file=str(path))
    with pytest.raises(WeightsError, match="`weights` must be a safetensors file"):
        load_teacher("small", setup=setup(weights=str(path)))
    path.write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="no readable safetensors file"):
        load_teacher("small", setup=setup(), file=str(path))
    save_file({"0.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"`0.weight` in .* has shape \(1,\)"):
        load_teacher("small", setup=setup(), file=str(path))
    save_file({"0.weight": torch.zeros(128, 3, 4, 4)}, path)
    with pytest.raises(WeightsError, match="lacks the tensor `0.bias`"):
        load_teacher("small", setup=setup(), file=str(path))


def test_the_scale_in_one_pass_is_that_of_two():
    maps = 100 + torch.randn(7, 5, 3, 4) * torch.arange(1, 6)[:, None, None]
    scale = ChannelScale(5)
    scale.measure(maps.split(2))
    torch.testing.assert_close(scale.mean[:, 0, 0], maps.mean((0, 2, 3)))
    torch.testing.assert_close(scale.std[:, 0, 0], maps.std((0, 2, 3), correction=0))
    scaled = scale(maps)
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.square().mean((0, 2, 3)), torch.ones(5), atol=1e-4, rtol=0)


def test_a_channel_that_never_varies_keeps_its_own_scale():
    maps = torch.rand(3, 2, 4, 4)
    maps[:, 1] = 5
    scale = ChannelScale(2)
    scale.measure([maps])
    assert scale.std[1] == 1
    assert scale(maps + 2)[:, 1].unique() == 2
    with pytest.raises(DataError, match="one and the same flat colour"):
        scale.measure([torch.ones(3, 2, 4, 4)])


def test_a_saved_scale_that_would_broadcast_is_refused():
    one = torch.ones(1, 1, 1)
    with pytest.raises(
        ModelFileError, match=r"Tensor `mean` .* is \(1, 1, 1\); \(5, 1, 1\) is need"
    ):
        load_tensors(ChannelScale(5), {"mean": one, "std": one}, "elsewhere")
