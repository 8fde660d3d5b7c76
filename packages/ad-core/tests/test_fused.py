"""Convolutions in one pass with what follows them, against the layers in float64."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

from ad.core.devices import in_precision
from ad.core.networks import fused
from ad.core.networks.backbones import FeatureExtractor
from ad.core.networks.fused import conv_norm, why_not
from ad.core.networks.resnets import ResNetPlan
from ad.core.trainer import Setup

needs_it = pytest.mark.skipif(bool(why_not("fp32")), reason=why_not("fp32"))
needs_bf16 = pytest.mark.skipif(bool(why_not("bf16")), reason=why_not("bf16"))
CPU = torch.device("cpu")


def layers(inputs=6, outputs=8, kernel=3, stride=1, bias=False):
    """A convolution and a batch norm that has seen something."""
    generator = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    norm = nn.BatchNorm2d(outputs)
    for tensor in (*conv.parameters(), norm.bias, norm.running_mean):
        tensor.data.normal_(generator=generator)
    for tensor in (norm.weight, norm.running_var):
        tensor.data.uniform_(0.2, 3, generator=generator)
    return conv.requires_grad_(False), norm.requires_grad_(False).eval()


def maps(channels=6, side=9, count=2, seed=1):
    return torch.randn(
        count, channels, side, side, generator=torch.Generator().manual_seed(seed)
    ).contiguous(memory_format=torch.channels_last)


def by_hand(x, conv, norm=None, act=False, plus=None):
    """The definition, in float64."""
    y = nn.functional.conv2d(x.double(), conv.weight.double(), None, conv.stride, conv.padding)
    if conv.bias is not None:
        y = y + conv.bias.double()[:, None, None]
    if norm is not None:
        mean, variance, weight, bias = (
            t.double()[:, None, None]
            for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        y = weight * (y - mean) / torch.sqrt(variance + norm.eps) + bias
    y = y if plus is None else y + plus.double()
    return y.clamp(min=0) if act else y


def off(found, due):
    return float((found.double() - due).norm() / due.norm())


def is_packed(conv):
    return conv in fused._PACKED


@needs_it
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"kernel": 1, "stride": 2},
        {"kernel": 7, "stride": 2, "inputs": 3, "bias": True},
        {"inputs": 1, "outputs": 1, "bias": True},
    ],
)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_it_is_what_the_layers_are_defined_to_be(kind, precision):
    """With and without each of the parts, and for other sizes and numbers than the first."""
    conv, norm = layers(**kind)
    for normed in (norm, None):
        for side, count in ((9, 2), (16, 1), (1, 3)):
            x = maps(conv.in_channels, side, count)
            due = by_hand(x, conv)
            plus = torch.randn(due.shape, generator=torch.Generator().manual_seed(2))
            for act in (nn.ReLU(inplace=True), None):
                for added in (plus, None):
                    given = [each.clone() for each in (x, plus)]
                    with in_precision(precision, CPU):
                        found = conv_norm(x, conv, normed, act, added)
                    assert is_packed(conv)
                    assert found.dtype == fused._DTYPES[precision]
                    assert found.is_contiguous(memory_format=torch.channels_last)
                    due = by_hand(x, conv, normed, act is not None, added)
                    # Against what is summed, which a sum or ReLU may leave little of.
                    summed = by_hand(x, conv, normed).norm() + plus.norm()
                    error = float((found.double() - due).norm() / summed)
                    assert error < (1e-6 if precision == "fp32" else 1e-2)
                    assert all(map(torch.equal, given, (x, plus)))  # nothing given is changed


def network(name="resnet18", seen=True):
    net = ResNetPlan(name, ("act1", "layer1", "layer2")).random(3).requires_grad_(False).eval()
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():  # at the start the last norm of a block lets nothing through
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 2, generator=generator)
    return net.to(memory_format=torch.channels_last)


@needs_it
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_are_as_exact_as_layer_by_layer_and_in_bf16_more_exact(name, monkeypatch):
    net, images = network(name), maps(3, 64)
    due = copy.deepcopy(net).double()(images.double())
    precisions = ["fp32"] + ["bf16"] * (not why_not("bf16"))
    ours, plain = {}, {}
    with torch.inference_mode():
        for precision in precisions:
            with in_precision(precision, CPU):
                ours[precision] = net(images)
        assert all(is_packed(m) for m in net.modules() if isinstance(m, nn.Conv2d))
        monkeypatch.setattr(fused, "_packed", lambda *_: None)
        for precision in precisions:
            with in_precision(precision, CPU):
                plain[precision] = net(images)
    for precision in precisions:
        for one, other, right in zip(ours[precision], plain[precision], due, strict=True):
            assert one.stride() == other.stride()
            if precision == "fp32":
                assert off(one, right) < max(1e-6, 1.2 * off(other, right))
            else:
                assert off(one, right) < off(other, right) < 0.02


def at_work():
    """What has been packed already, and a map to give it."""
    conv, norm = layers()
    net = nn.ModuleDict({"conv": conv, "norm": norm})
    x = maps()
    conv_norm(x, conv, norm)
    assert is_packed(conv)
    return net, x


def loaded(net):
    other = nn.ModuleDict(dict(zip(("conv", "norm"), layers(), strict=True)))
    other["norm"].bias += 1
    net.load_state_dict(other.state_dict())


def learnt(net):
    net["norm"].train()
    conv_norm(maps(seed=5), net["conv"], net["norm"])
    net["norm"].eval()


def stepped(net):
    net["conv"].weight.requires_grad_(True)
    conv_norm(maps(seed=5), net["conv"], net["norm"]).square().mean().backward()
    with torch.no_grad():  # as optimisers do
        net["conv"].weight -= 0.1 * net["conv"].weight.grad
    net["conv"].weight.requires_grad_(False)


def moved(net):
    net.double()
    net["norm"].running_var += 1
    net.float()


def replaced(net):
    net["conv"].weight = nn.Parameter(net["conv"].weight + 1, requires_grad=False)


def assigned(net):
    net.load_state_dict({key: t + 1 for key, t in net.state_dict().items()}, assign=True)


@needs_it
@pytest.mark.parametrize("change", [loaded, learnt, stepped, moved, replaced, assigned])
def test_what_has_changed_is_packed_anew(change):
    net, x = at_work()
    before = by_hand(x, net["conv"], net["norm"])
    change(net)
    found = conv_norm(x, net["conv"], net["norm"])
    assert is_packed(net["conv"])
    due = by_hand(x, net["conv"], net["norm"])
    assert off(found, due) < 1e-6
    assert off(before, due) > 1e-3


@needs_it
def test_other_weights_cannot_come_to_lie_where_packed_ones_were():
    net, x = at_work()
    for _ in range(64):  # without its being held, the place came back in one of 20
        place = net["conv"].weight.data_ptr()
        net.bfloat16().float()
        assert net["conv"].weight.data_ptr() != place
        conv_norm(x, net["conv"], net["norm"])


@needs_it
def test_copies_and_files_hold_the_layers_alone_and_packed_weights_die_with_them():
    net, x = at_work()
    keys = [*net.state_dict()]
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert [*other.state_dict()] == keys
        assert not is_packed(other["conv"])
        assert torch.equal(
            conv_norm(x, other["conv"], other["norm"]), conv_norm(x, net["conv"], net["norm"])
        )
    number = len(fused._PACKED)
    del net, other
    gc.collect()
    assert len(fused._PACKED) <= number - 2


@needs_it
def test_where_something_learns_it_goes_layer_by_layer_and_nothing_is_kept():
    conv, norm = layers()
    x = maps()
    for asks in (conv.weight, norm.bias, x):
        conv_norm(x.detach(), conv, norm)
        assert is_packed(conv) == (not conv.weight.requires_grad)
        asks.requires_grad_(True)
        found = conv_norm(x, conv, norm, nn.ReLU(), plus=torch.ones(2, 8, 9, 9))
        assert not is_packed(conv)
        found.sum().backward()
        assert asks.grad is not None
        asks.requires_grad_(False)
    conv.weight.requires_grad_(True)
    with torch.no_grad():  # as where a student in training is tried
        assert off(conv_norm(x, conv, norm), by_hand(x, conv, norm)) < 1e-6
    assert is_packed(conv)
    norm.train()
    with torch.no_grad():
        found = conv_norm(x, conv, norm).double()
    assert not is_packed(conv)
    assert found.mean((0, 2, 3)).allclose(norm.bias.double(), atol=1e-5)  # the batch's own mean


@needs_it
def test_hooks_and_other_kinds_of_layers_have_their_way():
    conv, norm = layers()
    seen = []
    for layer in (conv, norm):
        hook = layer.register_forward_hook(lambda *_: seen.append(True))
        conv_norm(maps(), conv, norm)
        hook.remove()
    assert len(seen) == 2

    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    double = Doubled(6, 8, 3, padding=1).requires_grad_(False)
    assert torch.equal(conv_norm(maps(), double), double(maps()))
    for kind in ({"padding": "same"}, {"padding_mode": "reflect"}, {"groups": 2}):
        other = nn.Conv2d(6, 8, 3, **kind).requires_grad_(False)
        assert torch.equal(conv_norm(maps(), other), other(maps()))
    with torch.inference_mode():  # where changes are not counted
        uncounted, _ = layers()
        uncounted = copy.deepcopy(uncounted)
        uncounted.weight = nn.Parameter(uncounted.weight + 1, requires_grad=False)
        assert torch.equal(conv_norm(maps(), uncounted), uncounted(maps()))
        assert not is_packed(uncounted)
    assert conv_norm(maps().double(), conv.double(), norm.double()).dtype == torch.float64


@needs_it
def test_what_is_exported_is_the_layers():
    block, x = network().layer2[0], maps(64, 4)
    with torch.no_grad():
        block(x)
        graph = str(torch.export.export(block, (x,)).graph)
    assert is_packed(block.conv1)
    assert "mkldnn" not in graph
    assert graph.count("conv2d.default") == 3


@needs_it
def test_the_first_to_ask_may_be_anywhere_and_its_generator_does_not_notice():
    why_not.cache_clear()
    before = torch.get_rng_state()
    with torch.inference_mode(), in_precision("bf16", CPU):
        assert why_not("fp32") == ""
    assert torch.equal(torch.get_rng_state(), before)


def told(monkeypatch, operation):
    """What a frozen network says of itself where the operation is another, and if it is packed."""
    lines = []

    class Log:
        tell = staticmethod(lines.append)

    monkeypatch.setattr(fused.torch.ops.mkldnn, "_convolution_pointwise", operation)
    why_not.cache_clear()
    setup = Setup(img_size=32, normalize=True, weights="random", progress=Log())
    try:
        one = FeatureExtractor("resnet18", ("layer1",), setup=setup)
        one(torch.rand(1, 3, 32, 32))
        return lines, is_packed(one.net.conv1)
    finally:
        monkeypatch.undo()
        why_not.cache_clear()


@needs_it
def test_where_the_operations_do_not_do_what_they_should_layers_are_taken_and_it_is_told(
    monkeypatch,
):
    start = "Backbone `resnet18.tv_in1k` is computed layer by layer: "
    right = torch.ops.mkldnn._convolution_pointwise

    class Wrong:
        binary = right.binary

        def __call__(self, *given):
            return right(*given[:-3], "none", [], "")

    class Refusing(Wrong):
        def __call__(self, *_):
            raise RuntimeError(" not on this processor\nand more".strip())

    wrong, refusing = "oneDNN's result of a trial is wrong here", "oneDNN refuses them here"
    assert told(monkeypatch, right) == ([], True)
    assert told(monkeypatch, Wrong()) == ([start + wrong], False)
    lines, packed = told(monkeypatch, Refusing())
    assert (lines, packed) == ([f"{start}{refusing} (not on this processor)"], False)
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
        why_not.cache_clear()
        assert why_not("fp32") == "this torch is built without oneDNN"
    why_not.cache_clear()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_made_one(value):
    images = maps(channels=3, side=32)
    images[1, 0, 5, 5] = value
    with torch.inference_mode():
        for found in network()(images):
            assert found[0].isfinite().all() or value == float("inf")
            assert not found[1].isfinite().all()
    conv, norm = layers()
    conv.weight[0, 0, 0, 0] = value
    assert not conv_norm(maps(), conv, norm, nn.ReLU()).isfinite().all()
