import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ad.adapt.simplenet import Head, SimplenetTrainer
from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.errors import ModelFileError, NotFittedError, SettingError
from ad.core.saved.loading import load_tensors
from ad.core.testing import make_picture

SIZE = 64  # pixels; 8 x 8 patches


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    options = {"backbone": "resnet18", "embedding": "concatenated", **(options or {})}
    return SimplenetTrainer(Setup(**{**values, **changes}), **options)


def pictures(count=6):
    return PictureSet([make_picture(i, size=SIZE)[0] for i in range(count)], SIZE)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(one, images):
    with torch.no_grad():
        frozen = tuple(one.frozen(images))
    return LearningBatch(
        images=images, frozen=frozen, indices=tuple(range(len(images))), epoch=0, seed=0
    )


def losses_of(one, batch, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return one.losses(batch)


@pytest.mark.parametrize(("length", "channels", "bins"), [(4608, 512, 768), (9216, 1024, 768)])
def test_pooled_patches_of_a_wide_network_are_means_of_neighbouring_numbers(length, channels, bins):
    """6 and 12 numbers of ``[C, 3, 3]`` make one: 1536 features of both layers."""
    from ad.core.networks import PooledPatches

    layer = (512, 1024).index(channels)
    patches = PooledPatches((512, 1024), 1536, per_layer=1536)
    maps = [torch.zeros(1, 512, 3, 3), torch.zeros(1, 1024, 3, 3)]
    maps[layer] = noise(1, channels, 3, 3)
    found = patches(maps)[0, 1, 1]  # of the cell whose neighbourhood is the whole map
    expected = maps[layer].flatten().view(bins, length // bins).mean(1)
    torch.testing.assert_close(found[768 * layer :][:768], expected)
    assert found.count_nonzero() == 768


@pytest.mark.parametrize(("embedding", "features"), [("pooled", 1536), ("concatenated", 384)])
def test_an_embedding_is_as_long_as_it_says(embedding, features):
    head = trainer({"embedding": embedding}).detector.head
    assert head.adaptor.weight.shape == (features, features)
    assert head.discriminator[0].weight.shape == (1024, features)


def test_losses_push_good_patches_and_noisy_ones_to_both_sides_of_the_margin():
    one = trainer({"noise": 0.3, "margin": 0.7})
    one.detector.train()
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    losses = losses_of(one, batch)

    first, norm, _, last = one.detector.head.discriminator
    adaptor = one.detector.head.adaptor
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        patches = one.detector.patches(batch.frozen).flatten(0, 2)
        adapted = patches @ adaptor.weight.T + adaptor.bias
        both = torch.cat([adapted, adapted + 0.3 * torch.randn_like(patches)])
        hidden = both @ first.weight.T + first.bias
        # Batch norm of both at once, by hand.
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + norm.eps).sqrt()
        likeness = (F.leaky_relu(hidden, 0.2) @ last.weight.T)[:, 0]
        good, broken = likeness[: len(patches)], likeness[len(patches) :]
        expected = {"good": F.relu(0.7 - good).mean(), "broken": F.relu(0.7 + broken).mean()}
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_noise_is_drawn_anew_for_each_step_and_depends_on_the_seed_of_the_step_alone():
    one = trainer()
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    once, again, other = (losses_of(one, batch, seed)["broken"] for seed in (0, 0, 1))
    assert once == again
    assert once != other


def test_a_score_is_the_largest_of_the_patches_before_smoothing():
    one = trainer()
    one.prepare(None)
    detector = one.detector
    images = noise(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        patches = detector.patches(detector.extractor(images))
        cells = -detector.head.discriminator(detector.head.adaptor(patches.flatten(0, 2)))
        cells = cells.view(2, 8, 8)
        smooth, blur = detector(images).map, detector.blur
        detector.blur = nn.Identity()
        score, rough = detector(images)
    torch.testing.assert_close(score, cells.amax((1, 2)))
    expected = F.interpolate(cells[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(rough, expected[:, 0])
    assert blur.sigma == 4.0
    torch.testing.assert_close(smooth, blur(rough))


def test_learning_tells_good_patches_from_noise_and_leaves_the_network_alone():
    one = trainer({"noise": 4.0, "lr": 5e-3}, num_epochs=10)
    network = {k: v.clone() for k, v in one.detector.extractor.state_dict().items()}
    batch = batch_of(one, noise(4, 3, SIZE, SIZE))
    before = sum(losses_of(one, batch).values())
    fit(one, pictures())
    assert sum(losses_of(one, batch).values()) < 0.7 * before
    for name, tensor in one.detector.extractor.state_dict().items():
        assert torch.equal(tensor, network[name])


def test_the_numbers_of_the_authors_are_the_defaults():
    one = trainer()
    (optimization,) = one.optimizers(10)
    adaptor, discriminator = optimization.optimizer.param_groups
    names = ("lr", "weight_decay", "decoupled_weight_decay")
    assert tuple(adaptor[name] for name in names) == (1e-4, 1e-2, True)
    assert tuple(discriminator[name] for name in names) == (2e-4, 1e-5, False)
    assert len(adaptor["params"]) == 2
    assert len(discriminator["params"]) == 5
    assert (one.noise, one.margin) == (0.015, 0.5)


def test_both_groups_step_as_optimisers_of_their_own():
    one, twin = Head(4, 3), Head(4, 3)
    twin.load_state_dict(one.state_dict())
    made = trainer()
    made.detector.head = one
    (optimization,) = made.optimizers(3)
    others = [
        torch.optim.AdamW(twin.adaptor.parameters(), 1e-4, weight_decay=1e-2),
        torch.optim.Adam(twin.discriminator.parameters(), 2e-4, weight_decay=1e-5),
    ]
    for step in range(3):
        for head, optimizers in ((one, [optimization.optimizer]), (twin, others)):
            good, broken = head(noise(9, 4, seed=step), noise(9, 4, seed=9))
            loss = (good - 2 * broken).square().sum()
            head.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    torch.testing.assert_close(list(one.parameters()), list(twin.parameters()))


def test_weights_start_as_glorot_says_and_follow_the_seed():
    first, same, other = (trainer(**{"seed": seed}).detector.head for seed in (0, 0, 1))
    assert torch.equal(first.adaptor.weight, same.adaptor.weight)
    assert not torch.equal(first.adaptor.weight, other.adaptor.weight)
    for layer in (first.adaptor, first.discriminator[0], first.discriminator[3]):
        expected = (2 / sum(layer.weight.shape)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_bf16_features_are_adapted_in_float32():
    one = trainer(precision="bf16")
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    assert batch.frozen[0].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(one, batch)
    torch.testing.assert_close(losses, losses_of(one, batch), rtol=0, atol=0)


def test_an_untrained_head_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))


def test_a_loaded_head_of_another_shape_is_refused():
    one = trainer()
    one.prepare(None)
    state = {**one.detector.state_dict(), "head.adaptor.bias": torch.ones(3)}
    with pytest.raises(ModelFileError, match="Tensor `.*` of the saved model .* is needed"):
        load_tensors(trainer().detector, state, "elsewhere")


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("noise", 0, "greater than 0"),
        ("margin", 0, "greater than 0"),
        ("embedding", "mean", "'pooled' or 'concatenated'"),
    ],
)
def test_options_that_cannot_work_are_refused(option, value, allowed):
    with pytest.raises(SettingError, match=f"`{option}` of `SimplenetTrainer`: .*{allowed}"):
        trainer({option: value})


def test_pictures_may_be_wider_than_high_and_of_another_size_than_was_learnt_from():
    one = trainer(img_size=(64, 96))
    fit(one, PictureSet([make_picture(i, size=(64, 96))[0] for i in range(4)], (64, 96)))
    for size in ((64, 96), (96, 64)):
        found = one.detector(noise(2, 3, *size))
        assert found.map.shape == (2, *size)
        assert found.score.isfinite().all()
