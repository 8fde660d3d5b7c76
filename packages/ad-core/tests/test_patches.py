import pytest
import torch
import torch.nn.functional as F

from ad.core.networks.patches import ConcatenatedPatches, PooledPatches


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def unfolded_and_pooled(maps, in_all=1024, per_layer=1024):
    """The authors' construction, step by step, for any number of layers."""
    size = maps[0].shape[2:]
    layers = []
    for features in maps:
        batch, channels, height, width = features.shape
        unfolded = F.unfold(features, 3, padding=1).view(batch, channels * 9, height, width)
        on_grid = F.interpolate(unfolded, size=size, mode="bilinear", align_corners=False)
        layers.append(F.adaptive_avg_pool1d(on_grid.permute(0, 2, 3, 1).flatten(0, 2), per_layer))
    pooled = F.adaptive_avg_pool1d(torch.stack(layers, 1).flatten(1), in_all)
    return pooled.view(batch, *size, in_all)


@pytest.mark.parametrize(
    "channels", [(512, 1024), (128, 256), (64, 128, 256), (24, 96), (1024, 2048), (7,), (40, 176)]
)
def test_official_embedding_equals_unfolding_and_pooling(channels):
    maps = [
        noise(2, count, 8 // 2**layer, 12 // 2**layer, seed=layer)
        for layer, count in enumerate(channels)
    ]

    patches = PooledPatches(channels)(maps)

    torch.testing.assert_close(patches, unfolded_and_pooled(maps), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups"), [((512, 1024), [512, 512]), ((128, 256), [128, 256])]
)
def test_official_embedding_of_resnets_is_a_depthwise_convolution(channels, groups):
    assert PooledPatches(channels).groups == groups


def test_concatenated_embedding_is_the_average_over_zero_padded_neighbourhoods():
    shallow, deep = noise(1, 2, 4, 4), noise(1, 3, 2, 2, seed=1)

    patches = ConcatenatedPatches((2, 3))([shallow, deep])

    assert patches.shape == (1, 4, 4, 5)
    torch.testing.assert_close(patches[0, 1, 2, :2], shallow[0, :, 0:3, 1:4].mean((1, 2)))
    torch.testing.assert_close(patches[0, 0, 0, :2], shallow[0, :, :2, :2].sum((1, 2)) / 9)
    # A corner of the grid lies outside the centres of the deep cells, so it is the corner's.
    torch.testing.assert_close(patches[0, 0, 0, 2:], deep[0].sum((1, 2)) / 9)


@pytest.mark.parametrize(("width", "per_layer"), [(384, 1024), (1536, 1536), (7, 5), (3000, 100)])
def test_a_patch_has_as_many_features_as_are_asked_for(width, per_layer):
    maps = [noise(2, 40, 6, 4), noise(2, 96, 3, 2, seed=1)]
    patches = PooledPatches((40, 96), width, per_layer=per_layer)(maps)
    expected = unfolded_and_pooled(maps, width, per_layer)
    torch.testing.assert_close(patches, expected, rtol=0, atol=1e-5)


def test_in_bf16_layers_are_still_resized_and_added_up_in_fp32():
    maps = [noise(1, 8, 6, 4), noise(1, 8, 3, 2, seed=1)]
    embedding = PooledPatches((8, 8), 16, per_layer=24)
    with torch.autocast("cpu", torch.bfloat16):
        patches = embedding([m.bfloat16() for m in maps])
    assert patches.dtype == torch.float32
    assert (patches != patches.bfloat16()).any()
    torch.testing.assert_close(patches, embedding(maps), rtol=0.02, atol=0.02)
