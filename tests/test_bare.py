"""Whether `benchmarks/bare.py` does just the convolutions that a network is seen to make."""

import bare
import pytest
import torch
from torch import nn

from ad.core.networks import FusedSequential


def listened(net, x, *, learns):
    with bare.Recorded() as seen:
        y = net(x)
        if learns:
            y.sum().backward()
    return seen


def test_a_step_has_the_products_it_asks_for_and_no_others():
    torch.manual_seed(0)
    frozen = nn.Conv2d(3, 4, 3).requires_grad_(False)
    layers = nn.Sequential(frozen, nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(),
                           nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 5, 1))  # fmt: skip
    seen = listened(layers, torch.randn(2, 3, 12, 15), learns=True)
    found = {(one.weights, one.gives): count for one, count in seen.convolutions.items()}
    second, last = (6, 4, 3, 3), (5, 6, 1, 1)
    assert found == {
        ((4, 3, 3, 3), "outputs"): 1,
        (second, "outputs"): 1,
        (second, "gradient of weights"): 1,  # of images none: nothing before it learns
        (last, "outputs"): 1,
        (last, "gradient of weights"): 1,
        (last, "gradient of images"): 1,
    }
    # What comes into the second, the one of single channels, which is no work of a network but
    # keeps as much as others, and the last.
    assert seen.kept_bytes == 4 * 2 * (4 * 10 * 13 + 6 * 5 * 7 + 6 * 3 * 5)


def test_products_are_those_of_the_sums_that_a_convolution_is():
    seen = listened(nn.Conv2d(3, 4, (3, 2), bias=False), torch.ones(2, 3, 5, 5), learns=False)
    by_hand = 2 * 4 * (3 * 4) * 3 * (3 * 2)
    assert seen.products == by_hand


def test_what_is_done_in_one_pass_is_seen_as_well():
    torch.manual_seed(0)
    net = FusedSequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    net.eval().requires_grad_(False)
    x = torch.randn(1, 3, 8, 8)
    net(x)  # packs its weights, and tries first if that is right
    with torch.autocast("cpu", torch.bfloat16):
        net(x)
        low = listened(net, x, learns=False)
    for seen, dtype in ((listened(net, x, learns=False), torch.float32), (low, torch.bfloat16)):
        found = {(one.weights, one.gives, one.dtype): n for one, n in seen.convolutions.items()}
        assert found == {
            ((4, 3, 3, 3), "outputs", dtype): 1,
            ((4, 4, 1, 1), "outputs", dtype): 1,
        }


@pytest.mark.parametrize("layer", [
    nn.Conv2d(3, 4, 3, padding=1),
    nn.Conv2d(3, 4, 4, stride=2, padding=1),
    nn.Conv2d(3, 4, (3, 2), stride=(2, 1), dilation=(1, 2)),
    nn.Conv2d(3, 4, 1, padding=2),
    nn.ConvTranspose2d(3, 4, 2, stride=2),
    nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
], ids=str)  # fmt: skip
def test_every_way_computes_what_autograd_says(layer):
    torch.manual_seed(0)
    seen = listened(layer, torch.randn(2, 3, 9, 11, requires_grad=True), learns=True)
    assert len(seen.convolutions) == 3
    for one in seen.convolutions:
        x = torch.randn(one.images, dtype=torch.float64, requires_grad=True)
        w = torch.randn(one.weights, dtype=torch.float64, requires_grad=True)
        y = nn.functional.conv2d(x, w, None, one.stride, one.padding, one.dilation)
        slope = torch.randn(one.outputs, dtype=torch.float64)
        grad_x, grad_w = torch.autograd.grad(y, (x, w), slope)
        due = {"outputs": y, "gradient of images": grad_x, "gradient of weights": grad_w}
        with torch.no_grad():
            for way in bare.ways(one, x.float(), w.float(), slope.float()):
                torch.testing.assert_close(way().double(), due[one.gives], rtol=1e-4, atol=1e-4)


def test_a_convolution_of_a_kind_unknown_is_not_passed_over():
    conv = nn.Conv2d(3, 4, 3).requires_grad_(False)
    x = torch.ones(1, 3, 8, 8)
    with bare.Recorded(), pytest.raises(NotImplementedError, match=r"mkldnn_convolution"):
        torch.ops.aten.mkldnn_convolution(x, conv.weight, None, (0, 0), (1, 1), (1, 1), 1)


def test_the_least_of_all_ways_counts_and_sums_are_of_all_times():
    done = []
    cpu, wall = bare.least(lambda: done.append("a"), lambda: done.append("b"))
    assert 0 <= cpu < 1
    assert 0 <= wall < 1
    assert {"a", "b"} == set(done)
    assert bare.total([(2, (1.0, 3.0)), (0.5, (4.0, 2.0))]) == (4.0, 7.0)
