"""The coupling of several scales: against autograd's Jacobian and closed forms."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from ad.core.errors import ModelFileError
from ad.core.saved.loading import load_tensors
from ad.flow.csflow import CrossScaleNet
from ad.flow.glow_pair import GlowPair
from ad.flow.msflow import FusionNet

SHAPES = [(5, 4, 8), (4, 2, 4), (3, 1, 2)]
SUBNETS = {
    "across neighbours": partial(CrossScaleNet, hidden=3, kernel=3),
    "across neighbours, wide": partial(CrossScaleNet, hidden=2, kernel=5),
    "all together": FusionNet,
}


def pair(subnet, shapes=SHAPES, clamp=1.9, precision="fp32"):
    block = GlowPair(shapes, subnet_constructor=subnet, clamp=clamp, seed=2, precision=precision)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in block.parameters():  # of a size at which clamp and scales are at work
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return block


def maps(batch=2, shapes=SHAPES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, *shape, generator=generator, dtype=dtype) for shape in shapes]


class Saying(nn.Module):
    """Says the same of whatever it sees, and keeps that."""

    def __init__(self, channels, out, value):
        super().__init__()
        self.out, self.value = out, value

    def forward(self, halves):
        self.seen = halves
        return [
            torch.full((len(half), count, *half.shape[2:]), self.value, dtype=half.dtype)
            for half, count in zip(halves, self.out, strict=True)
        ]


@pytest.mark.parametrize("subnet", SUBNETS.values(), ids=SUBNETS)
@pytest.mark.parametrize("rev", [False, True])
def test_the_log_determinant_is_that_of_the_jacobian_of_each_picture(subnet, rev):
    block, given = pair(subnet).double(), maps()
    sizes = [math.prod(shape) for shape in SHAPES]

    def flat(x):
        parts = [part.view(1, *s) for part, s in zip(x.split(sizes), SHAPES, strict=True)]
        return torch.cat([z.flatten() for z in block(parts, rev=rev)[0]])

    _, log_dets = block(given, rev=rev)
    for row, log_det in enumerate(log_dets):
        x = torch.cat([map_[row].flatten() for map_ in given])
        jacobian = torch.autograd.functional.jacobian(flat, x)
        torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


@pytest.mark.parametrize("subnet", SUBNETS.values(), ids=SUBNETS)
def test_there_and_back_is_where_it_began(subnet):
    block, given = pair(subnet).double(), maps()
    z, there = block(given)
    again, back = block(z, rev=True)
    torch.testing.assert_close(list(again), given)
    torch.testing.assert_close(back, -there)
    assert all((a - b).abs().max() > 0.1 for a, b in zip(z, given, strict=True))
    same, nothing = block(given, jac=False)
    assert all(torch.equal(a, b) for a, b in zip(same, z, strict=True))
    assert not nothing.any()


def test_first_halves_move_first_and_are_what_the_second_ones_hear():
    """With what the two networks say given: the formulas by hand."""
    block = GlowPair(
        [(5, 2, 2)],
        subnet_constructor=partial(Saying, value=0),
        clamp=3.0,
        seed=0,
        precision="fp32",
    )
    block.of_first.value, block.of_second.value = 6.0, -1.5
    (x,) = maps(1, [(5, 2, 2)])
    (y,), log_det = block([x])
    permuted = x[:, block.permutation0]

    def log_scale(s):
        return 3 * 0.636 * math.atan(s / 3)

    first = permuted[:, :2] * math.exp(log_scale(6.0)) + 6.0
    second = permuted[:, 2:] * math.exp(log_scale(-1.5)) - 1.5
    torch.testing.assert_close(y, torch.cat([first, second], 1))
    assert torch.equal(block.of_first.seen[0], permuted[:, 2:])
    torch.testing.assert_close(block.of_second.seen[0], first)
    expected = 2 * 4 * log_scale(6.0) + 3 * 4 * log_scale(-1.5)
    assert log_det.item() == pytest.approx(expected)


def test_scales_have_a_limit_and_so_has_what_comes_out():
    block = GlowPair(
        [(4, 1, 1)],
        subnet_constructor=partial(Saying, value=0),
        clamp=2.0,
        seed=0,
        precision="fp32",
    )
    block.of_first.value = block.of_second.value = 1e9
    (y,), log_det = block([torch.ones(1, 4, 1, 1)])
    assert log_det.item() == pytest.approx(4 * 2.0, rel=2e-3)
    assert torch.equal(y, torch.full_like(y, 1e6))
    (y,), _ = block([torch.full((1, 4, 1, 1), torch.nan)])
    assert y.isnan().all()


def test_permutations_come_from_the_seed_and_differ_between_scales():
    def made(seed):
        block = GlowPair(
            [(9, 2, 2)] * 2, subnet_constructor=FusionNet, clamp=1.0, seed=seed, precision="fp32"
        )
        return block.permutation0, block.permutation1

    first, again, other = made(1), made(1), made(2)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(*first)
    assert not torch.equal(first[0], other[0])


def test_all_but_the_networks_is_float32():
    plain, low = pair(FusionNet), pair(FusionNet, precision="bf16")
    given = maps(dtype=torch.float32)
    seen = []
    for net in (low.of_first, low.of_second):
        net.mix[0].register_forward_hook(lambda _net, _given, out: seen.append(out.dtype))
    z, log_det = low(given)
    assert seen == [torch.bfloat16] * 2
    assert {each.dtype for each in (*z, log_det)} == {torch.float32}
    torch.testing.assert_close(log_det, plain(given)[1], rtol=0.02, atol=0.1)


def test_no_pictures_are_no_error():
    for subnet in SUBNETS.values():
        z, log_det = pair(subnet)(maps(0, dtype=torch.float32))
        assert [tuple(each.shape) for each in z] == [(0, *shape) for shape in SHAPES]
        assert log_det.shape == (0,)


def test_a_saved_permutation_that_points_elsewhere_is_refused():
    block = pair(FusionNet)
    state = block.state_dict() | {"permutation1": torch.tensor([0, 1, 2, 4])}
    with pytest.raises(ModelFileError, match="has values from 0 to 4; they must be from 0 to 3"):
        load_tensors(block, state, "m")
