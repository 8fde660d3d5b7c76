"""Attention and linear layers in bf16: against float64, with logits as large as real ones."""

import pytest
import torch
import torch.nn.functional as F

from ad.core.networks import products
from ad.core.networks.products import attention, fast_products, why_not

TOKENS = 201  # no multiple of what is looked at for the largest logits


def parts(sharpness, dtype=torch.bfloat16, tokens=TOKENS):
    """Queries, keys, values as one projection lays them out; keys have much in common."""
    draw = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(2, tokens, 3, 2, 16, generator=draw).permute(2, 0, 3, 1, 4)
    return [each.to(dtype) for each in (query * sharpness, key + 2, value)]


def exact(query, key, value, scale):
    logits = scale * query.double() @ key.double().mT
    weight = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weight / weight.sum(-1, keepdim=True)) @ value.double()


@pytest.mark.parametrize("sharpness", [1, 5, 10])
def test_is_exact_up_to_what_bf16_holds(sharpness):
    given = parts(sharpness)
    wanted = exact(*given, 0.25)
    found = attention(*given, 0.25)
    assert found.dtype == torch.bfloat16
    assert found.shape == wanted.shape
    assert (found - wanted).norm() / wanted.norm() < 5e-3
    if sharpness == 10:  # what the same products give without the shift
        plain = (0.25 * given[0] @ given[1].mT).softmax(-1) @ given[2]
        assert (plain - wanted).norm() / wanted.norm() > 1e-2


def calls(monkeypatch, *given, **options):
    """How often `attention` was asked while torch's own was called in its place."""
    asked = []

    def counted(*args):
        asked.append(args[3])
        return attention(*args)

    monkeypatch.setattr("ad.core.networks.products.attention", counted)
    with fast_products(given[0]):
        F.scaled_dot_product_attention(*given, **options)
    return asked


@torch.no_grad()
def test_takes_the_place_of_torchs_own_with_its_scale(monkeypatch):
    assert calls(monkeypatch, *parts(1)) == [0.25]
    assert calls(monkeypatch, *parts(1), scale=0.5) == [0.5]


@torch.no_grad()
@pytest.mark.parametrize(
    ("given", "options"),
    [
        (parts(1, torch.float32), {}),
        (parts(1, tokens=20), {}),
        (parts(1), {"is_causal": True}),
        (parts(1), {"dropout_p": 0.5}),
        (parts(1), {"attn_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool)}),
    ],
    ids=["fp32", "few tokens", "causal", "dropout", "mask"],
)
def test_leaves_all_else_to_torch(monkeypatch, given, options):
    assert calls(monkeypatch, *given, **options) == []


def test_leaves_gradients_to_torch(monkeypatch):
    assert calls(monkeypatch, *parts(1)) == []


def layer():
    """A linear layer with weights that bf16 cannot hold, and what it is given."""
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(48, 40, generator=draw), torch.randn(48, generator=draw)
    return torch.randn(3, 7, 40, generator=draw), weight, bias


def looked_through(*given):
    """What `F.linear` gives in bf16 in place of torch's own."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), fast_products(given[0]):
        return F.linear(*given)


@pytest.mark.skipif(why_not() != "", reason=f"linear layers are not packed: {why_not()}")
def test_packed_layers_round_as_torchs_own(monkeypatch):
    x, weight, bias = layer()
    exact = [each.bfloat16().double() for each in (x, weight, bias)]
    for last in (bias, None):
        wanted = exact[0] @ exact[1].mT + (0 if last is None else exact[2])
        found = looked_through(x, weight, last)
        assert found.dtype == torch.bfloat16
        assert ((found - wanted).abs() <= wanted.abs() / 256 + 1e-5).all()
    monkeypatch.setattr("ad.core.networks.products.linear", lambda *_: "packed")
    assert looked_through(x, weight, bias) == "packed"


def test_packed_layers_see_that_their_weights_have_changed():
    x, weight, bias = layer()
    before = looked_through(x, weight, bias)
    bias.add_(1)
    assert not torch.equal(looked_through(x, weight, bias), before)
    bias.sub_(1)
    weight.mul_(2)
    assert torch.allclose(looked_through(x, weight, bias * 2).float(), 2 * before.float(), atol=0.1)


@pytest.mark.skipif(why_not() != "", reason=f"linear layers are not packed: {why_not()}")
def test_other_weights_cannot_come_to_lie_where_packed_ones_were():
    x, weight, bias = layer()
    for _ in range(64):
        looked_through(x, weight, bias)
        place = weight.data_ptr()
        weight.data = weight.data.bfloat16()
        weight.data = weight.data.float()
        assert weight.data_ptr() != place


def test_layers_that_learn_are_not_packed(monkeypatch):
    x, weight, bias = layer()
    monkeypatch.setattr("ad.core.networks.products.linear", lambda *_: "packed")
    assert looked_through(x, weight.requires_grad_(), bias) != "packed"


@pytest.mark.skipif(why_not() != "", reason=f"linear layers are not packed: {why_not()}")
def test_copies_go_with_their_weights():
    x, weight, bias = layer()
    looked_through(x, weight, bias)
    assert weight in products._PACKED
    count = len(products._PACKED)
    del weight
    assert len(products._PACKED) == count - 1


@pytest.mark.parametrize(("precision", "lines"), [("bf16", 1), ("fp32", 0)])
def test_a_transformer_whose_layers_cannot_be_packed_says_so(monkeypatch, precision, lines):
    pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")
    from ad.core import Setup
    from ad.core.networks import FeatureExtractor

    told = []

    class Log:
        tell = staticmethod(told.append)

    def wrong(x, *_):
        return x.new_zeros(2, 3)

    # Processors that pack nothing refuse at the first step.
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, _: weight)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", wrong)
    why_not.cache_clear()
    setup = Setup(
        img_size=32, normalize=True, weights="random", precision=precision, progress=Log()
    )
    FeatureExtractor("test_vit", ("blocks.0",), setup=setup)
    monkeypatch.undo()
    why_not.cache_clear()
    why_not()  # others replace what it tries
    begin = "Weights of `test_vit` are laid out in each call: oneDNN's result of a trial"
    assert len(told) == lines
    assert [line[: len(begin)] for line in told] == [begin] * lines
