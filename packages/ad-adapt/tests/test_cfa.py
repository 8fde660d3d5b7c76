import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ad.adapt import cfa
from ad.adapt.cfa import CfaTrainer, Descriptor
from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.errors import ModelFileError, NotFittedError, SettingError
from ad.core.networks import ConcatenatedPatches
from ad.core.saved.loading import load_tensors
from ad.core.testing import make_picture

SIZE = 32  # pixels; 8 x 8 patches


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return CfaTrainer(Setup(**{**values, **changes}), **{"backbone": "resnet18", **(options or {})})


def pictures(count=6, size=SIZE):
    return PictureSet([make_picture(i, size=size)[0] for i in range(count)], size)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(one, images):
    with torch.no_grad():
        frozen = tuple(one.frozen(images))
    return LearningBatch(
        images=images, frozen=frozen, indices=tuple(range(len(images))), epoch=0, seed=0
    )


def data_of(one, count=6):
    from ad.core import LearningData

    return LearningData(pictures(count), torch.device("cpu"), one.frozen)


def prepared(options=None, **changes):
    one = trainer(options, **changes)
    one.prepare(data_of(one))
    return one


def plain_description(descriptor, maps):
    """All layers on the first one's grid, row and column behind them, one convolution over all."""
    patches = ConcatenatedPatches(descriptor.channels)(maps)
    batch, height, width, _ = patches.shape
    rows = torch.linspace(-1, 1, height)[:, None].expand(height, width)
    columns = torch.linspace(-1, 1, width)[None].expand(height, width)
    place = torch.stack([rows, columns], -1).expand(batch, height, width, 2)
    weight = descriptor.mix.weight[:, :, 0, 0]
    return (torch.cat([patches, place], -1) @ weight.T + descriptor.mix.bias).flatten(1, 2)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
@pytest.mark.parametrize("shrink", [1, 3])
def test_mixing_before_resizing_gives_the_same_descriptions_and_gradients(size, shrink):
    height, width = size
    maps = [
        noise(2, 4, height, width),
        noise(2, 6, height // 2, width // 2, seed=1),
        noise(2, 8, height // 4 + 1, width // 4, seed=2),
    ]
    descriptor = Descriptor((4, 6, 8), shrink)
    ours, plain = descriptor(maps), plain_description(descriptor, maps)
    assert ours.shape == (2, height * width, 18 // shrink)
    torch.testing.assert_close(ours, plain)
    weights = noise(*ours.shape, seed=3)
    gradients = [
        torch.autograd.grad((some * weights).sum(), descriptor.mix.parameters())
        for some in (ours, plain)
    ]
    torch.testing.assert_close(*gradients)


def test_centroids_are_the_mean_description_of_each_position():
    one = prepared()
    batches = list(data_of(one).batches(2))
    with torch.no_grad():
        all_of_them = torch.cat([one.detector.descriptor(batch.frozen) for batch in batches])
    torch.testing.assert_close(one.detector.centroids, all_of_them.mean(0))
    assert one.detector.centroids.shape == (64, 448)


def plain_losses(one, batch):
    """From all distances of the batch at once."""
    described = plain_description(one.detector.descriptor, batch.frozen)
    square = torch.cdist(described.double(), one.detector.centroids.double()).square()
    square = square.sort(2).values
    within = one.detector.radius.double().square()
    near, far = square[..., :3], square[..., 3:6]
    return {
        "attraction": F.relu(near - within).mean() / 1e-3,
        "repulsion": F.relu(within - far - 0.1).mean() / 1e-3,
    }


@pytest.mark.parametrize("radius", [1e-5, 1.0])
def test_losses_and_gradients_are_those_of_all_distances(radius):
    """Of the second radius, both terms act."""
    one = prepared({"radius": radius})
    batch = batch_of(one, noise(3, 3, SIZE, SIZE))
    with torch.no_grad():
        one.detector.descriptor.mix.weight.mul_(0.5)  # so that no patch is a centroid
    parameters = [*one.detector.descriptor.parameters(), one.detector.radius]
    found = []
    for losses in (one.losses(batch), plain_losses(one, batch)):
        gradients = torch.autograd.grad(sum(losses.values()), parameters, retain_graph=True)
        found.append(([losses[name].float() for name in ("attraction", "repulsion")], gradients))
    (ours, ours_gradients), (plain, plain_gradients) = found
    assert (plain[1] > 0) == (radius == 1.0)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    for one_gradient, other in zip(ours_gradients, plain_gradients, strict=True):
        gap = (one_gradient - other).abs().max()
        assert gap <= 1e-3 * other.abs().max()
        assert other.abs().max() > 0


def test_the_nearest_are_looked_for_once_and_descriptions_are_of_a_large_block_of_pictures(
    monkeypatch,
):
    one = prepared()
    batch = batch_of(one, noise(3, 3, SIZE, SIZE))
    of_a_picture = 64 * one.detector.descriptor.mix.out_channels * 4
    monkeypatch.setattr(cfa, "_BLOCK", of_a_picture + 1)
    searched, described = [], []
    search = cfa.nearest_of
    monkeypatch.setattr(cfa, "nearest_of", lambda *a: searched.append(len(a[0])) or search(*a))
    one.detector.descriptor.register_forward_hook(lambda *a: described.append(len(a[2])))
    sum(one.losses(batch).values()).backward()
    assert searched == [128, 64]
    assert sorted(described) == [1, 1, 2, 2]  # once more for the gradient


def test_terms_can_be_minimised_one_by_one():
    one = prepared({"radius": 1.3})
    losses = one.losses(batch_of(one, noise(2, 3, SIZE, SIZE)))
    weight = one.detector.descriptor.mix.weight
    first = torch.autograd.grad(losses["attraction"], weight, retain_graph=True)[0]
    both = torch.autograd.grad(sum(losses.values()), weight)[0]
    assert first.abs().max() > 0
    assert not torch.equal(first, both)


def test_a_score_is_the_nearest_distance_times_its_share_of_softmin():
    one = prepared()
    images = noise(2, 3, SIZE, SIZE)
    detector = one.detector
    with torch.inference_mode():
        described = plain_description(detector.descriptor, detector.extractor(images))
        distance = torch.cdist(described.double(), detector.centroids.double())
        distance = distance.sort(2).values[..., :3]
        cells = (F.softmin(distance, 2)[..., 0] * distance[..., 0]).view(2, 1, 8, 8)
        expected = F.interpolate(cells, (SIZE, SIZE), mode="bilinear", align_corners=False)
        detector.blur = nn.Identity()
        score, anomaly_map = detector(images)
    torch.testing.assert_close(anomaly_map.double(), expected[:, 0], rtol=1e-4, atol=1e-4)
    assert torch.equal(score, anomaly_map.amax((1, 2)))


def test_learning_draws_patches_into_their_spheres_and_changes_the_radius_and_no_centroid():
    one = trainer({"lr": 1e-4}, num_epochs=10)
    before = prepared()
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures().sources])
    fit(one, pictures())
    losses = [sum(some.losses(batch_of(some, images)).values()) for some in (before, one)]
    assert losses[1] < 0.97 * losses[0]
    assert torch.equal(one.detector.centroids, before.detector.centroids)
    assert one.detector.radius > 5 * before.detector.radius
    assert not one.detector.radius.requires_grad


def test_the_numbers_of_the_paper_are_the_defaults():
    one = trainer()
    (optimization,) = one.optimizers(10)
    (group,) = optimization.optimizer.param_groups
    assert isinstance(optimization.optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["amsgrad"]) == (1e-3, 5e-4, True)
    assert any(p is one.detector.radius for p in group["params"])
    assert (one.neighbors, one.repelled, one.alpha, one.nu) == (3, 3, 0.1, 1e-3)
    assert one.detector.radius.item() == pytest.approx(1e-5)


def test_compiled_losses_are_the_same():
    one = prepared()
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    compiled = torch.compile(one.losses, backend="eager")(batch)
    torch.testing.assert_close(compiled, one.losses(batch))


def test_bf16_features_are_compared_in_float32():
    one = prepared(precision="bf16")
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    assert batch.frozen[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        losses = one.losses(batch)
    torch.testing.assert_close(losses, one.losses(batch), rtol=0, atol=0)
    assert one.detector.centroids.dtype == torch.float32


def test_an_untrained_detector_gives_no_scores():
    with pytest.raises(NotFittedError, match="`centroids` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))


def test_pictures_of_fewer_patches_than_centroids_that_are_looked_at_are_refused():
    one = trainer({"neighbors": 40, "repelled": 40})
    with pytest.raises(
        SettingError, match="are 80 centroids together, and pictures of 32 x 32 .* give 64, one"
    ):
        fit(one, pictures())


def test_a_loaded_model_of_too_few_centroids_is_refused():
    detector = prepared().detector
    detector.centroids = detector.centroids[:2].clone()
    with pytest.raises(ModelFileError, match="looks at 3 centroids; the saved model has 2. .* ch"):
        detector(noise(1, 3, SIZE, SIZE))


@pytest.mark.parametrize(("name", "shape"), [("centroids", (64, 7)), ("radius", (2,))])
def test_loaded_tensors_of_another_shape_are_refused(name, shape):
    state = {**prepared().detector.state_dict(), name: torch.ones(shape)}
    with pytest.raises(ModelFileError, match="Tensor `.*` of the saved model .* is needed"):
        load_tensors(trainer().detector, state, "elsewhere")


@pytest.mark.parametrize(
    ("option", "value"),
    [("neighbors", 0), ("repelled", 0), ("radius", 0), ("gamma_d", 0), ("nu", 0)],
)
def test_options_that_cannot_work_are_refused(option, value):
    with pytest.raises(SettingError, match=f"`{option}` of `CfaTrainer`: .* got 0"):
        trainer({option: value})


def test_descriptions_can_be_shorter():
    one = trainer({"gamma_d": 4})
    fit(one, pictures())
    assert one.detector.centroids.shape == (64, 112)


def test_pictures_may_be_wider_than_high_and_of_another_size_than_was_learnt_from():
    wide = [make_picture(i, size=(32, 64))[0] for i in range(4)]
    one = trainer(img_size=(32, 64))
    fit(one, PictureSet(wide, (32, 64)))
    assert one.detector.centroids.shape == (128, 448)
    found = one.detector(noise(2, 3, 64, 48))
    assert found.map.shape == (2, 64, 48)
    assert found.score.isfinite().all()
