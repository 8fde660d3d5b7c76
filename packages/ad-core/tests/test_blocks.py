"""Any block of an EfficientNet or a MobileNet: against timm's own models, with hooks."""

import pytest
import torch
from safetensors.torch import save_file

timm = pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")

from ad.core.errors import SettingError  # noqa: E402
from ad.core.networks.backbones import FeatureExtractor  # noqa: E402
from ad.core.trainer import Setup  # noqa: E402

KINDS = ("test_efficientnet", "mobilenetv2_050", "mobilenetv3_small_050")


def extractor(backbone, layers, **changes):
    values = {"img_size": 64, "normalize": False, "weights": "random", **changes}
    return FeatureExtractor(backbone, layers, setup=Setup(**values))


@pytest.mark.parametrize("name", KINDS)
def test_every_block_is_what_timms_model_has_there(name, tmp_path):
    model = timm.create_model(name).eval()
    layers = [f"blocks.{number}" for number in range(len(model.blocks))]
    seen, images = [], torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        block.register_forward_hook(lambda _module, _given, result: seen.append(result))
    with torch.no_grad():
        model(images)
    file = tmp_path / f"{name}.safetensors"
    save_file(model.state_dict(), file)
    one = extractor(name, layers, weights=str(file))
    with torch.no_grad():
        torch.testing.assert_close(one(images), seen, rtol=1e-3, atol=1e-4)
    assert one.channels == tuple(map_.shape[1] for map_ in seen)
    assert one.strides == tuple(64 // map_.shape[2] for map_ in seen)


def test_what_timm_does_not_name_is_the_same_network_up_to_there():
    """Equal random weights, so that it does not matter to a seed which of the two is built."""
    named, other = (
        extractor("mobilenetv2_050", ("blocks.4",)),
        extractor("mobilenetv2_050", ("blocks.3", "blocks.4")),
    )
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(named(images)[0], other(images)[1])
    kept = {key for key in named.net.state_dict() if not key.startswith(("blocks.5", "blocks.6"))}
    assert {*other.net.state_dict()} == kept


def test_a_block_that_there_is_not_is_refused_with_those_that_there_are():
    words = "`layers` of backbone `mobilenetv2_050` must be some of `blocks.0` to `blocks.6`; got"
    with pytest.raises(SettingError, match=f"{words} `blocks.7`"):
        extractor("mobilenetv2_050", ("blocks.7",))
