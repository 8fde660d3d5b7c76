import numpy as np
import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW

from ad.core import Optimization, PictureSet, Setup, fit
from ad.core.learning.fused_adam import fuse
from ad.core.testing.linear_student import LinearStudentTrainer

SHAPE = (4, 3, 2, 2)
RATE = 0.01


def numbers(seed):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def adam_by_hand(steps, *, decay=0.0, apart=False, largest=False):
    """Kingma and Ba's algorithm 1 in float64; Loshchilov and Hutter's decay, if `apart`."""
    value, mean, square, top = numbers(0).double().numpy(), 0.0, 0.0, 0.0
    for step in range(1, steps + 1):
        gradient = numbers(step).double().numpy()
        if apart:
            value = value - RATE * decay * value
        else:
            gradient = gradient + decay * value
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        top = np.maximum(top, square)
        scale = np.sqrt((top if largest else square) / (1 - 0.999**step)) + 1e-8
        value = value - RATE * mean / (1 - 0.9**step) / scale
    return value


@pytest.mark.parametrize(
    ("optimizer", "options", "by_hand"),
    [
        (Adam, {"weight_decay": 0.1}, {"decay": 0.1}),
        (AdamW, {"weight_decay": 0.1, "amsgrad": True},
         {"decay": 0.1, "apart": True, "largest": True}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("laid", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("of_gradients", [torch.channels_last, torch.contiguous_format])
def test_it_is_adam_however_parameters_gradients_and_means_lie_in_memory(
    optimizer, options, by_hand, laid, of_gradients
):
    parameter = Parameter(numbers(0).to(memory_format=laid))
    one = optimizer([parameter], RATE, **options)
    fuse(one)
    assert one.param_groups[0]["fused"] is True
    for step in range(1, 6):
        parameter.grad = None
        parameter.grad = numbers(step).to(memory_format=of_gradients)
        one.step()
        state = one.state[parameter]
        for name in state.keys() - {"step"}:  # as a checkpoint gives them back
            state[name] = state[name].contiguous()
    expected = adam_by_hand(5, **by_hand)
    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=2e-6, atol=1e-7)


def test_what_gains_nothing_or_was_chosen_or_cannot_be_stays_as_it_is():
    class Own(Adam):
        pass

    plain = [Parameter(numbers(0))]
    for one in (
        SGD(plain, RATE),
        Own(plain, RATE),
        Adam(plain, RATE, foreach=True),
        Adam(plain, RATE, fused=False),
        Adam(plain, RATE, differentiable=True),
        Adam([*plain, Parameter(numbers(1).bfloat16())], RATE),
        Adam([*plain, Parameter(numbers(1)[:, ::2])], RATE),
    ):
        before = [dict(group) for group in one.param_groups]
        fuse(one)
        assert one.param_groups == before


def test_learning_takes_it():
    made = []

    class Watched(LinearStudentTrainer):
        def optimizers(self, total_steps):
            (optimization,) = super().optimizers(total_steps)
            made.append(optimization.optimizer)
            return [Optimization(optimizer=optimization.optimizer)]

    picture = np.zeros((32, 32, 3), np.uint8)
    fit(Watched(Setup(img_size=32, normalize=False, num_steps=1)), PictureSet([picture], 32))
    assert made[0].param_groups[0]["fused"] is True


@pytest.mark.parametrize("kind", [Adam, SGD], ids=["fused here", "fused by its maker"])
def test_changes_are_counted_for_those_who_keep_copies(kind):
    parameter = Parameter(numbers(0))
    one = kind([parameter], RATE, fused=None if kind is Adam else True)
    fuse(one)
    parameter.grad = numbers(1)
    before = parameter._version
    one.step()
    assert one.param_groups[0]["fused"] is True
    assert parameter._version > before
