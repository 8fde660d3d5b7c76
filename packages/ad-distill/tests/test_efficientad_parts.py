"""What EfficientAD is put together from: its auto-encoder, the hardest values, its jitter."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ad.distill.efficientad.network import AutoEncoder, cells
from ad.distill.efficientad.trainer import hardest, jitter
from ad.distill.pdn import CHANNELS, Pdn

SIZE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [64, 100, 127, 128, 256, 300, 512, 515])
def test_the_auto_encoder_meets_the_teachers_grid(size):
    with torch.device("meta"):
        x = torch.empty(1, 3, size, size)
        taught, rebuilt = Pdn("small")(x), AutoEncoder(size)(x)
    assert rebuilt.shape == taught.shape == (1, CHANNELS, cells(size), cells(size))


def test_the_auto_encoder_has_the_papers_grids_at_256():
    sides = []
    autoencoder = AutoEncoder(256)
    for layer in (autoencoder.encoder, *autoencoder.decoder, autoencoder.last):
        layer.register_forward_hook(lambda _, x, y: sides.append((x[0].shape[2], y.shape[2])))
    with torch.no_grad():
        autoencoder(torch.zeros(1, 3, 256, 256))
    resized = [before for before, _ in sides]
    assert resized == [256, 3, 8, 15, 32, 63, 127, 56]
    assert sides[0] == (256, 1)


def test_the_auto_encoder_is_the_papers_layer_by_layer():
    net, source = AutoEncoder(SIZE).eval(), generator(1)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):  # the default weights leave little but the biases
            nn.init.kaiming_normal_(layer.weight, generator=source)
    state = net.state_dict()

    def conv(x, name, **how):
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)

    x = given = torch.randn(2, 3, SIZE, SIZE, generator=generator())
    for number in (0, 2, 4, 6, 8):
        x = conv(x, f"encoder.{number}", stride=2, padding=1).relu()
    x = conv(x, "encoder.10")
    for number, side in enumerate((1, 2, 3, 8, 15, 31)):
        x = F.interpolate(x, (side, side), mode="bilinear")
        x = conv(x, f"decoder.{number}.0", padding=2).relu()
    x = F.interpolate(x, (8, 8), mode="bilinear")
    x = conv(conv(x, "last.0", padding=1).relu(), "last.2", padding=1)
    torch.testing.assert_close(net(given), x, rtol=1e-4, atol=1e-4)
    assert [layer.p for layer in net.modules() if isinstance(layer, nn.Dropout)] == 6 * [0.2]


@pytest.mark.parametrize("quantile", [0.999, 0.99, 0.5, 0.0])
def test_the_hardest_are_those_at_or_above_the_quantile_of_each_picture(quantile):
    gap = torch.rand(3, 10, 10, 10, generator=generator())  # of 1000 values each
    expected = [one[one >= torch.quantile(one, quantile)].mean() for one in gap]
    torch.testing.assert_close(hardest(gap, quantile), torch.stack(expected))


def test_jitter_changes_one_of_three_by_a_fifth_at_most():
    image = 0.3 + 0.4 * torch.rand(3, 8, 8, generator=generator())
    luminance = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0)
    seen = set()
    for seed in range(40):
        changed = jitter(image, generator(seed))
        assert torch.equal(changed, jitter(image, generator(seed)))
        for what, other in enumerate((torch.zeros(()), luminance.mean(), luminance)):
            factors = ((changed - other) / (image - other)).flatten()
            if factors.std() < 1e-2:
                assert 0.79 < factors.median() < 1.21
                seen.add(what)
    assert seen == {0, 1, 2}
