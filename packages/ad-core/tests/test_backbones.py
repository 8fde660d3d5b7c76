"""How a frozen network sees pictures, and how it lets another see them."""

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")

from ad.core.devices import in_precision  # noqa: E402
from ad.core.networks.backbones import FeatureExtractor, fresh_network, licences  # noqa: E402
from ad.core.networks.filter_bank import FILTER_BANK  # noqa: E402
from ad.core.networks.filter_bank import LAYERS as LAYERS_OF_THE_BANK  # noqa: E402
from ad.core.networks.normalize import ImagenetNorm  # noqa: E402
from ad.core.trainer import Setup  # noqa: E402

BACKBONE, LAYERS = "test_resnet", ("layer1", "layer2")


def extractor(**changes):
    values = {"img_size": 32, "normalize": True, "weights": "random", **changes}
    return FeatureExtractor(BACKBONE, LAYERS, setup=Setup(**values))


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def by_hand(pictures):
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((pictures.movedim(1, 3) - mean) / std).movedim(3, 1)


def test_pictures_are_scaled_by_imagenets_mean_and_deviation_or_not():
    torch.testing.assert_close(ImagenetNorm()(images()), by_hand(images()))
    assert torch.equal(ImagenetNorm(scale=False)(images()), images())
    assert ImagenetNorm()(images()).is_contiguous(memory_format=torch.channels_last)
    assert ImagenetNorm().state_dict() == {}


@pytest.mark.parametrize("normalize", [True, False])
def test_a_network_and_another_that_it_shows_pictures_see_the_same(normalize):
    one = extractor(normalize=normalize)
    student = fresh_network(BACKBONE, LAYERS, seed=0).eval()
    seen = by_hand(images()) if normalize else images()
    for found, expected in (
        (one(images()), one.net(seen)),
        (one.show(images(), student), student(seen)),
    ):
        torch.testing.assert_close(found, expected)
    assert not torch.equal(one(images())[0], one.show(images(), student)[0])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_both_compute_in_the_precision_of_the_run(precision, dtype):
    one = extractor(precision=precision)
    student = fresh_network(BACKBONE, LAYERS, seed=0)
    assert {m.dtype for m in (*one(images()), *one.show(images(), student))} == {dtype}
    with in_precision(precision, torch.device("cpu")):
        assert (images() @ images()).dtype == dtype
    assert (images() @ images()).dtype == torch.float32


def test_the_licence_of_a_backbones_own_weights_is_told():
    setup = Setup(img_size=32, normalize=True, weights="random")
    both = nn.ModuleList(
        FeatureExtractor(name, layers, setup=setup)
        for name, layers in (("resnet18", ["layer1"]), (FILTER_BANK, LAYERS_OF_THE_BANK))
    )
    assert licences(both) == {"resnet18.tv_in1k": "bsd-3-clause"}
    assert licences(nn.Identity()) == {}
