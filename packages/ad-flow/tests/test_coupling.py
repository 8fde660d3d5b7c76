"""The coupling block against FrEIA's own, autograd's Jacobian and golden numbers."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from golden import Golden, check_close, needs_golden
from torch import nn

from ad.core.errors import ModelFileError
from ad.core.saved.loading import load_tensors
from ad.flow import fused_coupling
from ad.flow.coupling import CouplingBlock, from_freia, random_rotation
from ad.flow.freia import framework, modules


def convolutions(kernel, hidden=None):
    def subnet(channels, out):
        width = hidden or channels
        return nn.Sequential(
            nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU(),
            nn.Conv2d(width, out, kernel, padding=kernel // 2),
        )  # fmt: skip

    return subnet


def linear(channels, out):
    return nn.Sequential(nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, out))


CASES = {
    "vector": ([(7,)], [], linear, False),
    "vector, rotated, conditioned": ([(7,)], [(4,)], linear, True),
    "vector, conditioned twice": ([(6,)], [(3,), (2,)], linear, False),
    "map": ([(6, 5, 4)], [], convolutions(3), False),
    "map, odd, 1 x 1": ([(5, 3, 4)], [], convolutions(1), False),
    "map, rotated, conditioned": ([(5, 2, 3)], [(3, 2, 3)], convolutions(3), True),
}


def lively(block, seed=5):
    """With parameters of a size at which clamp and scales are at work."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if parameter.requires_grad:
                if "subnet" in name:
                    parameter.zero_()  # torch's own generator drew it
                parameter += 0.7 * torch.randn(parameter.shape, generator=generator)
    return block


def in_float64(block):
    """A rotation is kept in float32, and is one to as many digits; here, to all."""
    block.double()
    if block.soft:
        q, r = torch.linalg.qr(block.rotation)
        block.rotation = q * r.diagonal().sign()
    return block


def inputs(dims, dims_c, batch=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x, *conditions = (
        torch.randn(batch, *shape, generator=generator, dtype=dtype) for shape in (*dims, *dims_c)
    )
    return x, conditions


@pytest.fixture
def numpy_generator():
    """FrEIA draws from numpy's global one; other tests shall not notice."""
    state = np.random.get_state()
    np.random.seed(3)
    yield
    np.random.set_state(state)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("rev", [False, True])
def test_a_block_with_weights_of_freia_does_the_same(case, rev, numpy_generator):
    dims, dims_c, subnet, soft = case
    options = {"subnet_constructor": subnet, "affine_clamping": 1.9, "permute_soft": soft}
    theirs = lively(modules.AllInOneBlock(dims, dims_c, **options))
    ours = CouplingBlock(dims, dims_c, **options, seed=0)
    ours.load_state_dict(from_freia(theirs.state_dict()))
    x, conditions = inputs(dims, dims_c)
    (expected,), expected_log_det = theirs([x], conditions, rev=rev)
    (y,), log_det = ours([x], conditions, rev=rev)
    check_close(y, expected, 1e-5, "y")
    check_close(log_det, expected_log_det, 1e-5, "log-determinant")


def test_a_sequence_of_freia_takes_the_blocks_and_a_state_of_theirs(numpy_generator):
    ours, theirs = framework.SequenceINN(6, 4, 4), framework.SequenceINN(6, 4, 4)
    for seed in range(3):
        theirs.append(modules.AllInOneBlock, subnet_constructor=convolutions(3))
        ours.append(CouplingBlock, subnet_constructor=convolutions(3), seed=seed)
    lively(theirs)
    ours.load_state_dict(from_freia(theirs.state_dict()))
    x, _ = inputs([(6, 4, 4)], [])
    for rev in (False, True):
        for own, their in zip(ours(x, rev=rev), theirs(x, rev=rev), strict=True):
            check_close(own, their, 1e-5, "sequence")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_log_determinant_is_that_of_the_jacobian(case):
    dims, dims_c, subnet, soft = case
    options = {"subnet_constructor": subnet, "permute_soft": soft}
    block = in_float64(lively(CouplingBlock(dims, dims_c, **options, seed=2)))
    x, conditions = inputs(dims, dims_c, batch=2, dtype=torch.float64)
    for rev in (False, True):
        _, log_dets = block([x], conditions, rev=rev)
        for row in range(2):
            single = [condition[row : row + 1] for condition in conditions]

            def one(flat, single=single, rev=rev):
                (y,), _ = block([flat.view(1, *x.shape[1:])], single, rev=rev)
                return y.flatten()

            jacobian = torch.autograd.functional.jacobian(one, x[row].flatten())
            expected = torch.linalg.slogdet(jacobian).logabsdet
            torch.testing.assert_close(log_dets[row], expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_there_and_back_is_where_it_began(case):
    dims, dims_c, subnet, soft = case
    options = {"subnet_constructor": subnet, "permute_soft": soft}
    block = in_float64(lively(CouplingBlock(dims, dims_c, **options, seed=2)))
    x, conditions = inputs(dims, dims_c, dtype=torch.float64)
    (y,), there = block([x], conditions)
    (again,), back = block([y], conditions, rev=True)
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(back, -there)
    (same,), nothing = block([x], conditions, jac=False)
    assert torch.equal(same, y)
    assert not nothing.any()


@pytest.mark.parametrize("cached", [1, 2 * 6 * 5 * 4, 2**18])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_its_gradient_is_the_one_that_autograd_finds_where_it_is_exported(
    case, cached, monkeypatch
):
    """Whether pictures are worked on one at a time, in twos of three, or all at once."""
    dims, dims_c, subnet, soft = case
    options = {"subnet_constructor": subnet, "permute_soft": soft}
    block = in_float64(lively(CouplingBlock(dims, dims_c, **options, seed=2)))
    x, conditions = inputs(dims, dims_c, dtype=torch.float64)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=x.dtype)
    learnt = [parameter for parameter in block.parameters() if parameter.requires_grad]

    def result():
        leaves = [one.clone().requires_grad_() for one in (x, *conditions)]
        (y,), log_det = block([leaves[0]], leaves[1:])
        loss = (y * weight).sum() + (log_det * torch.tensor([1.0, 2.0, -3.0])).sum()
        return [y, log_det, *torch.autograd.grad(loss, [*leaves, *learnt])]

    monkeypatch.setattr(fused_coupling, "_CACHED", cached)
    ours = result()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for own, expected in zip(ours, result(), strict=True):
        torch.testing.assert_close(own, expected)


def test_a_block_begins_near_the_identity():
    block = CouplingBlock([(6, 4, 4)], subnet_constructor=convolutions(3), seed=0)
    with torch.no_grad():
        block.subnet[2].weight.zero_()
        block.subnet[2].bias.zero_()
    x, _ = inputs([(6, 4, 4)], [])
    (y,), log_det = block([x])
    torch.testing.assert_close(y, x[:, block.permutation])
    torch.testing.assert_close(log_det, torch.zeros(3), atol=1e-4, rtol=0)


def test_no_pictures_are_no_error():
    block = CouplingBlock([(6, 4, 4)], subnet_constructor=convolutions(3), seed=0)
    (y,), log_det = block([torch.empty(0, 6, 4, 4)])
    assert (y.shape, log_det.shape) == ((0, 6, 4, 4), (0,))


@pytest.mark.parametrize("soft", [False, True])
def test_the_permutation_comes_from_the_seed_alone(soft):
    def made(seed):
        block = CouplingBlock([(9,)], subnet_constructor=linear, permute_soft=soft, seed=seed)
        return block.state_dict()["rotation" if soft else "permutation"]

    states = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = made(1)
    torch.manual_seed(77)
    assert torch.equal(made(1), first)
    assert not torch.equal(made(2), first)
    assert np.array_equal(np.random.get_state()[1], states[0])
    torch.set_rng_state(states[1])


@pytest.mark.parametrize("channels", [1, 2, 7, 40])
def test_a_rotation_is_one(channels):
    for seed in range(4):
        rotation = random_rotation(channels, seed).double()
        torch.testing.assert_close(
            rotation @ rotation.T, torch.eye(channels).double(), atol=1e-6, rtol=0
        )
        assert torch.linalg.det(rotation) > 0.99


def test_rotations_are_drawn_uniformly():
    """Each entry has mean 0 and variance 1 / n: not so without mending the signs of QR."""
    drawn = torch.stack([random_rotation(3, seed) for seed in range(600)])
    assert drawn.mean(0).abs().max() < 4 * (1 / 3 / 600) ** 0.5
    torch.testing.assert_close(drawn.square().mean(0), torch.full((3, 3), 1 / 3), atol=0.06, rtol=0)


def test_a_saved_permutation_that_points_elsewhere_is_refused():
    block = CouplingBlock([(4,)], subnet_constructor=linear, seed=0)
    state = block.state_dict() | {"permutation": torch.tensor([0, 1, 2, 4])}
    with pytest.raises(ModelFileError, match="has values from 0 to 4; they must be from 0 to 3"):
        load_tensors(block, state, "m")


def test_the_warning_of_freia_is_silenced_where_it_is_compiled(tmp_path):
    code = f"""
import sys, warnings
import torch, scipy.stats  # compiled before
sys.pycache_prefix = {str(tmp_path)!r}
warnings.simplefilter("error")
before = [*warnings.filters]
from ad.flow.freia import modules
afresh = modules.all_in_one_block.__spec__.cached.startswith(sys.pycache_prefix)
print(afresh, warnings.filters == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.parametrize(
    ("file", "line"),
    [("all_in_one_block", r"'\d'"), ("base", r"'\m'")],
)
def test_other_warnings_are_heard(tmp_path, file, line):
    package = tmp_path / "FrEIA" / "modules"
    package.mkdir(parents=True)
    (tmp_path / "FrEIA" / "framework.py").write_text("")
    (tmp_path / "FrEIA" / "__init__.py").write_text("")
    (package / "__init__.py").write_text(f"from . import {file}\n")
    (package / f"{file}.py").write_text(f"X = {line}\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import ad.flow.freia"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "invalid escape sequence" in done.stderr, done.stderr
    assert done.returncode == 1


def test_neither_torch_nor_freia_is_loaded_with_the_package():
    code = "import sys, ad.flow, ad.flow.models; print({'torch', 'FrEIA', 'timm'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_statistics_come_with_what_needs_them():
    """FrEIA's own block permutes by them, and whoever imports them then has them whole."""
    code = """
import sys
from torch import nn
from ad.flow.freia import modules
print("scipy.stats" in sys.modules)
modules.AllInOneBlock([(4,)], permute_soft=True, subnet_constructor=nn.Linear)
import scipy.stats
print(scipy.stats.norm.cdf(0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n0.5\n"


class TestGolden:
    pytestmark = needs_golden

    @pytest.mark.parametrize(
        ("case", "subnet", "clamp"),
        [
            ("vector_soft", linear, 1.9),
            ("map_hard_k3", convolutions(3), 2.0),
            ("map_hard_k1", convolutions(1), 2.0),
        ],
    )
    def test_the_block_of_the_papers(self, case, subnet, clamp):
        """What later versions of FrEIA say, `.new`, is left out: it is another clamp."""
        beyond = (f"{case}/y.new", f"{case}/logdet.new")
        with Golden("flow_aio_block", only=f"{case}/", beyond=beyond) as golden:
            x = golden[f"{case}/x"]
            soft = case == "vector_soft"
            conditions = [golden[f"{case}/condition"]] if soft else []
            block = CouplingBlock(
                [tuple(x.shape[1:])],
                [tuple(c.shape[1:]) for c in conditions],
                subnet_constructor=subnet,
                affine_clamping=clamp,
                permute_soft=soft,
                seed=0,
            )
            which = "rotation" if soft else "permutation"
            state = {
                "global_scale": golden[f"{case}/global_scale_gamma"].view_as(block.global_scale),
                "global_offset": golden[f"{case}/global_offset"].view_as(block.global_offset),
                which: golden[f"{case}/{which}"],
            }
            for number, name in ((0, "first"), (2, "second")):
                for kind in ("weight", "bias"):
                    state[f"subnet.{number}.{kind}"] = golden[f"{case}/subnet.{name}.{kind}"]
            block.load_state_dict(state)
            (y,), log_det = block([x], conditions)
            golden.check(y, f"{case}/y.paper", 1e-5)
            golden.check(log_det, f"{case}/logdet.paper", 1e-5)
            (again,), _ = block([golden[f"{case}/y.paper"]], conditions, rev=True)
            check_close(again, x, 1e-5, "inverse")
