"""Vision transformers as backbones: against timm's own models, with hooks on their blocks."""

import pytest
import torch
from safetensors.torch import save_file

timm = pytest.importorskip("timm", reason="pretrained backbones need timm, an extra of ad-core")

from timm.layers import resample_abs_pos_embed  # noqa: E402

from ad.core.errors import SettingError  # noqa: E402
from ad.core.networks.backbones import FeatureExtractor, fresh_network  # noqa: E402
from ad.core.trainer import Setup  # noqa: E402

# Name, prefix tokens in a block, side of the pictures it learnt from.
KINDS = {
    "test_vit": (1, 160),
    "deit_tiny_distilled_patch16_224": (2, 224),
    "cait_xxs24_224": (0, 224),
    "vit_small_patch14_reg4_dinov2": (5, 518),
}
DEPTH = 3
LAYERS = ("blocks.0", "blocks.2")


def extractor(backbone, layers=LAYERS, norm=False, **changes):
    values = {"img_size": 64, "normalize": False, "weights": "random", **changes}
    return FeatureExtractor(backbone, layers, setup=Setup(**values), norm=norm)


def images(height, width, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def timm_model(name, **changes):
    """Timm's own, with weights that make every part count, for pictures of the learnt size."""
    model = timm.create_model(name, depth=DEPTH, **changes).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.1)
        for key, parameter in model.named_parameters():
            if "gamma" in key:  # LayerScale: as timm starts it, a block does next to nothing
                parameter.add_(1)
    return model


def with_hooks(model, pictures, layers=LAYERS):
    """What timm's model has after each block while it looks at pictures."""
    seen = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda _module, _given, result, layer=layer: seen.update({layer: result})
        )
        for layer in layers
    ]
    with torch.no_grad():
        model(pictures)
    for handle in handles:
        handle.remove()
    return [seen[layer] for layer in layers]


def as_map(tokens, prefix, height, width):
    """Tokens one by one where their patches are."""
    laid = torch.empty(tokens.shape[0], tokens.shape[2], height, width)
    for row in range(height):
        for column in range(width):
            laid[:, :, row, column] = tokens[:, prefix + row * width + column]
    return laid


def saved(model, folder, name):
    file = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, file)
    return str(file)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", [name for name, (_, side) in KINDS.items() if side <= 224])
def test_maps_are_the_blocks_tokens_without_the_prefix(name, norm, tmp_path):
    prefix, side = KINDS[name]
    model = timm_model(name)
    patch = model.patch_embed.patch_size[0]
    pictures = images(side, side, count=1)
    one = extractor(name, norm=norm, img_size=side, weights=saved(model, tmp_path, name))
    expected = with_hooks(model, pictures)
    if norm:
        expected = [model.norm(tokens).detach() for tokens in expected]
    assert (one.has_tokens, one.prefix_tokens) == (True, prefix)
    assert one.strides == (patch, patch)
    assert one.channels == (model.embed_dim,) * 2
    for found, tokens, wanted in zip(one(pictures), one.tokens(pictures), expected, strict=True):
        laid = as_map(wanted, prefix, side // patch, side // patch)
        torch.testing.assert_close(found, laid, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(tokens, wanted, rtol=1e-4, atol=1e-4)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("expected_size", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_positions_are_resampled_for_other_sizes_and_shapes(name, expected_size, tmp_path):
    prefix, side = KINDS[name]
    model = timm_model(name)
    patch = model.patch_embed.patch_size[0]
    size = (3 * patch, 5 * patch)
    pictures = images(*size)
    other = timm_model(name, img_size=size)  # positions for the grid 3 x 5, put in by timm's hand
    state = model.state_dict()
    state["pos_embed"] = resample_abs_pos_embed(
        state["pos_embed"],
        new_size=(3, 5),
        old_size=(side // patch, side // patch),
        num_prefix_tokens=state["pos_embed"].shape[1] - (side // patch) ** 2,
    )
    other.load_state_dict(state)
    given = size if expected_size else 2 * patch
    one = extractor(name, img_size=given, weights=saved(model, tmp_path, name))
    for found, wanted in zip(one(pictures), with_hooks(other, pictures), strict=True):
        laid = as_map(wanted, prefix, 3, 5)
        torch.testing.assert_close(found, laid, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer", "side", "channels", "prefix"),
    [
        ("cait_m48_448", "blocks.40", 448, 768, 0),
        ("cait_s24_224", "blocks.20", 224, 384, 0),
        ("deit_base_distilled_patch16_384", "blocks.7", 384, 768, 2),
        ("vit_small_patch14_reg4_dinov2", "blocks.9", 518, 384, 5),
        ("vit_base_patch14_reg4_dinov2", "blocks.9", 518, 768, 5),
        ("vit_large_patch14_reg4_dinov2", "blocks.18", 518, 1024, 5),
    ],
)
def test_the_papers_transformers_have_the_papers_maps(name, layer, side, channels, prefix):
    with torch.device("meta"):
        one = extractor(name, (layer,), img_size=side, device=torch.device("meta"))
        (found,) = one.net(torch.empty(1, 3, side, side))  # of the size it learnt from
    (stride,) = one.strides
    assert found.shape == (1, channels, side // stride, side // stride)
    assert stride == (14 if "14" in name else 16)
    assert (one.channels, one.prefix_tokens) == ((channels,), prefix)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_after_the_last_block_used_is_kept(name):
    one = extractor(name, ("blocks.1",), img_size=KINDS[name][1])
    kept = {key.removeprefix("net.model.").split(".")[0] for key in one.state_dict()}
    blocks = {key.split(".")[3] for key in one.state_dict() if ".blocks." in key}
    assert blocks == {"0", "1"}
    assert kept.isdisjoint({"blocks_token_only", "norm", "head", "head_dist", "fc_norm"})
    assert ("cls_token" in kept) == (name != "cait_xxs24_224")
    assert not any(parameter.requires_grad for parameter in one.parameters())


@pytest.mark.parametrize("name", ["test_vit", "cait_xxs24_224"])
def test_random_weights_are_those_of_the_seed(name):
    pictures = images(64, 64)
    before = torch.get_rng_state()
    one, same, other = (extractor(name, ("blocks.1",), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one(pictures)[0], same(pictures)[0])
    assert not torch.equal(one(pictures)[0], other(pictures)[0])


@pytest.mark.parametrize("name", ["cait_xxs24_224", "vit_small_patch14_reg4_dinov2"])
def test_every_block_of_a_random_transformer_counts(name):
    side = 4 * (14 if "14" in name else 16)
    first, last = extractor(name, img_size=side)(images(side, side))
    assert (first - last).norm() > 0.1 * first.norm()


@pytest.mark.parametrize("name", ["test_vit", "vit_small_patch14_reg4_dinov2"])
def test_maps_and_tokens_come_in_the_precision_of_the_run(name):
    side = 6 * (14 if "14" in name else 16)
    pictures = images(side, side)
    exact = extractor(name, img_size=side)
    quick = extractor(name, img_size=side, precision="bf16")
    for look in (FeatureExtractor.forward, FeatureExtractor.tokens):
        for fine, coarse in zip(look(exact, pictures), look(quick, pictures), strict=True):
            assert (fine.dtype, coarse.dtype) == (torch.float32, torch.bfloat16)
            assert (fine - coarse.float()).norm() < 0.03 * fine.norm()


@pytest.mark.parametrize("name", KINDS)
def test_transformers_can_be_exported_and_take_no_pictures(name):
    patch = 14 if "14" in name else 16
    size = (2 * patch, 3 * patch)
    one = extractor(name, ("blocks.0",), img_size=size)
    exported = torch.export.export(one, (images(*size),), strict=False)
    (found,), (expected,) = exported.module()(images(*size)), one(images(*size))
    torch.testing.assert_close(found, expected)
    # Positions are resampled by what every format has, not by an operation that some lack.
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not any("bicubic" in target or "interpolate" in target for target in targets)
    assert one(torch.empty(0, 3, *size))[0].shape == (0, one.channels[0], 2, 3)


def test_a_student_of_a_transformer_sees_pictures_of_any_shape():
    teacher = extractor("test_vit", img_size=(32, 48))
    student = fresh_network("test_vit", LAYERS, seed=0)
    for size in ((32, 48), (64, 32)):
        shapes = [found.shape for found in teacher.show(images(*size), student)]
        assert shapes == [(2, 64, size[0] // 16, size[1] // 16)] * 2


def test_sizes_that_do_not_fit_are_refused_with_near_ones():
    words = (
        "`img_size` must be a multiple of 14 for backbone `vit_small_patch14_reg4_dinov2.lvd142m`, "
        "whose patches are 14 pixels wide; got 256. Near it: `--img-size 252` or `--img-size 266`."
    )
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    with pytest.raises(SettingError, match=words.replace(".", r"\.")):
        extractor(name, img_size=256)
    with pytest.raises(SettingError, match=r"a multiple of 16 .*got 64x100.* 64x96` or .* 64x112`"):
        extractor("cait_xxs24_224", img_size=(64, 100))
    with pytest.raises(SettingError, match="a multiple of 16 .*got 8. Near it: `--img-size 16`"):
        extractor("test_vit", img_size=32)(images(8, 8))
    words = "`img_size` must be 224 for backbone `beit_base_patch16_224..*`, .* no other; got 64."
    with pytest.raises(SettingError, match=words):
        extractor("beit_base_patch16_224.in22k_ft_in22k_in1k")


def test_blocks_that_do_not_exist_are_refused_with_those_that_do():
    words = "of backbone `test_vit.*` must be some of `blocks.0` to `blocks.5`; got `blocks.6`."
    with pytest.raises(SettingError, match=words):
        extractor("test_vit", ("blocks.6",))
    words = "of backbone `test_resnet.*` must be some of .*`layer1`, .*; got `blocks.7`."
    with pytest.raises(SettingError, match=words):
        extractor("test_resnet", ("blocks.7",))


def test_who_wants_tokens_of_a_network_without_is_told_what_has_them():
    one = extractor("test_resnet", ("layer1",))
    assert (one.has_tokens, one.prefix_tokens) == (False, 0)
    words = "must be a vision transformer, such as .*; `test_resnet.*` has no tokens."
    with pytest.raises(SettingError, match=words):
        one.tokens(images(64, 64))
