import pytest
import torch
import torch.nn.functional as F

from ad.core import LearningBatch, PictureSet, Setup, fit
from ad.core.errors import NotFittedError, SettingError
from ad.core.testing import make_picture
from ad.distill.stfpm import StfpmTrainer, gap

SIZE = 64


def setup(**changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    return Setup(**{**values, **changes})


def trainer(**changes):
    return StfpmTrainer(setup(**changes), backbone="resnet18")


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(trainer, images):
    return LearningBatch(
        images=images,
        frozen=tuple(trainer.frozen(images)),
        indices=tuple(range(len(images))),
        epoch=0,
        seed=0,
    )


def test_the_gap_is_the_squared_distance_of_unit_vectors():
    taught, learnt = noise(2, 5, 3, 4), noise(2, 5, 3, 4, seed=1)
    cosine = F.cosine_similarity(taught, learnt, dim=1)
    torch.testing.assert_close(gap(taught, learnt), 2 - 2 * cosine)
    assert gap(taught, 3 * taught).abs().max() < 1e-6
    torch.testing.assert_close(gap(taught, -taught), torch.full((2, 3, 4), 4.0))


def test_a_student_equal_to_its_teacher_finds_nothing():
    one = trainer()
    one.prepare(None)
    one.detector.student.load_state_dict(one.detector.teacher.net.state_dict())
    score, anomaly_map = one.detector.eval()(noise(2, 3, SIZE, SIZE))
    assert score.abs().max() < 1e-6
    assert anomaly_map.shape == (2, SIZE, SIZE)


def test_the_student_starts_from_other_weights_than_a_random_teacher():
    one = trainer()
    theirs, ours = one.detector.teacher.net.state_dict(), one.detector.student.state_dict()
    assert not torch.equal(theirs["conv1.weight"], ours["conv1.weight"])


@pytest.mark.parametrize("zero", [False, True])
def test_the_last_norm_of_each_block_starts_at_one_as_the_authors_or_at_zero(zero):
    options = {"zero_init_last": True} if zero else {}
    one = StfpmTrainer(setup(), backbone="resnet18", **options)
    norms = {
        name: module.weight.unique().tolist()
        for name, module in one.detector.student.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    last = [f"layer{stage}.{block}.bn2" for stage in (1, 2, 3) for block in (0, 1)]
    assert {name for name, start in norms.items() if start == [0.0]} == ({*last} if zero else set())
    assert all(start in ([0.0], [1.0]) for start in norms.values())


def test_the_map_is_the_product_of_the_layers_gaps_on_the_first_grid():
    one = trainer()
    one.prepare(None)
    images = noise(1, 3, SIZE, SIZE)
    detector = one.detector.eval()
    with torch.inference_mode():
        found = detector(images)
        expected = torch.ones(1, 1, 16, 16)
        for taught, learnt in zip(detector.teacher(images), detector.imitate(images), strict=True):
            difference = F.normalize(taught, dim=1) - F.normalize(learnt, dim=1)
            square = (difference**2).sum(1, keepdim=True)
            expected = expected * F.interpolate(square, (16, 16), mode="bilinear")
        expected = F.interpolate(expected, (SIZE, SIZE), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.map, expected)
    torch.testing.assert_close(found.score, expected.amax((1, 2)))


def test_the_loss_is_the_mean_gap_of_each_layer():
    one = trainer()
    one.detector.eval()
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    with torch.inference_mode():
        losses = one.losses(batch)
        pairs = zip(batch.frozen, one.detector.imitate(batch.images), strict=True)
        expected = [(2 - 2 * F.cosine_similarity(*pair, dim=1)).mean() for pair in pairs]
    assert list(losses) == ["layer1", "layer2", "layer3"]
    torch.testing.assert_close(list(losses.values()), expected)


def test_epochs_are_judged_by_the_mean_of_each_held_out_pictures_map():
    one = trainer()
    one.prepare(None)
    images = noise(3, 3, SIZE, SIZE)
    with torch.inference_mode():
        found, maps = one.monitor(images), one.detector(images).map
    torch.testing.assert_close(found, torch.stack([each.mean() for each in maps]))


def test_the_loss_does_not_change_when_the_batch_is_doubled():
    one = trainer()
    one.detector.eval()  # batch statistics would differ in their last digits
    images = noise(2, 3, SIZE, SIZE)
    once = one.losses(batch_of(one, images))
    twice = one.losses(batch_of(one, torch.cat([images, images])))
    assert list(once) == ["layer1", "layer2", "layer3"]
    for name in once:
        torch.testing.assert_close(once[name], twice[name])


def test_the_teacher_never_changes_and_the_student_learns():
    one = trainer(num_epochs=4)
    teacher = {k: v.clone() for k, v in one.detector.teacher.state_dict().items()}
    pictures = PictureSet([make_picture(i, size=SIZE)[0] for i in range(8)], SIZE)
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures.sources])
    before = sum(one.losses(batch_of(one, images)).values())
    fit(one, pictures)
    after = sum(one.losses(batch_of(one, images)).values())
    assert after < 0.7 * before
    for name, tensor in one.detector.teacher.state_dict().items():
        assert torch.equal(tensor, teacher[name])
    assert not one.detector.teacher.training


def test_the_numbers_of_the_paper_are_the_defaults():
    (optimization,) = trainer().optimizers(10)
    (group,) = optimization.optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.4, 0.9, 1e-4)


def test_an_untrained_student_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))


def test_pictures_of_a_single_cell_are_refused_and_of_two_by_two_are_learnt_one_by_one():
    with pytest.raises(SettingError, match="`img_size` of STFPM must be above 16, .*; got 16"):
        trainer(img_size=16)
    StfpmTrainer(setup(img_size=16), backbone="resnet18", layers=("layer1",))
    one = trainer(img_size=17, batch_size=1)
    fit(one, PictureSet([make_picture(0, size=17)[0]], 17))
    assert one.detector(noise(1, 3, 17, 17)).score.isfinite()
