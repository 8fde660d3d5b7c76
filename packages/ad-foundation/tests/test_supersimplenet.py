import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ad.core import LearningBatch, PictureSet, Setup, Truth, fit
from ad.core.detector import mark_trained
from ad.core.errors import NotFittedError
from ad.core.testing import make_picture
from ad.foundation.supersimplenet import (
    SupersimplenetTrainer,
    blotches,
    focal_loss,
    fused,
    questions,
    truncated_gaps,
)

SIZE = 32


def trainer(options=None, **changes):
    values = {"img_size": SIZE, "normalize": True, "weights": "random", "batch_size": 4}
    options = {"backbone": "resnet18", "layers": ("layer1",), **(options or {})}
    return SupersimplenetTrainer(Setup(**{**values, **changes}), **options)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def test_the_papers_network_has_the_parameters_it_says():
    one = trainer({"backbone": "wide_resnet50_2", "layers": ("layer2", "layer3")})
    parts = (one.detector.adapt, one.detector.segment, one.detector.classify)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [2_360_832, 1_576_960, 4_919_043]


def test_features_are_twice_as_fine_as_the_first_layers_and_of_rectangles_too():
    maps = [noise(2, 3, 4, 6), noise(2, 5, 2, 3, seed=1)]
    features = fused(maps)
    assert features.shape == (2, 8, 8, 12)
    # By hand: corners aligned, then sums over 3 x 3 with zeros beyond the border.
    rows, columns = torch.linspace(0, 1, 8, dtype=torch.float64), torch.linspace(0, 1, 12)
    for maps_, some in ((maps[0], features[:, :3]), (maps[1], features[:, 3:])):
        h, w = maps_.shape[2:]
        y, x = rows * (h - 1), columns.double() * (w - 1)
        down = (1 - (y[:, None] - torch.arange(h)).abs()).clamp_min(0)
        across = (1 - (x[:, None] - torch.arange(w)).abs()).clamp_min(0)
        large = down @ maps_.double() @ across.T
        padded = F.pad(large, (1, 1, 1, 1))
        summed = sum(padded[..., i : i + 8, j : j + 12] for i in range(3) for j in range(3))
        torch.testing.assert_close(some.double(), summed / 9, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (20, 28), (2, 2), (1, 3)])
def test_blotches_are_masks_of_which_half_are_empty_on_purpose(size):
    masks = blotches(size, generators(60), threshold=-1.0, device=torch.device("cpu"))
    assert masks.shape == (60, 1, *size)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    full = masks.flatten(1).amin(dim=1)  # all noise is above -1
    assert 15 < full.sum() < 45


def test_blotches_shrink_with_the_threshold_and_come_from_the_generators_alone():
    shares = [
        blotches((64, 64), generators(40), threshold=t, device=torch.device("cpu")).mean().item()
        for t in (0.2, 0.6, 0.2)
    ]
    assert shares[0] == shares[2] > 2 * shares[1] > 0
    assert 0.06 < shares[0] < 0.2  # a quarter of the pixels, every other time


def test_noise_keeps_off_true_defects_and_labels_are_either_ones():
    masks = torch.zeros(4, 1, 4, 4)
    masks[0, 0, :2], masks[2, 0, 1:3] = 1, 1
    true = torch.zeros(2, 8, 8)
    true[0, 2:6] = 1  # the second and third rows of cells
    truth = Truth(labels=torch.tensor([1.0, 1.0]), masks=true, known=torch.tensor([True, False]))
    asked = questions(masks, truth)
    assert asked.noisy[:, 0, :, 0].tolist() == [[1, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4]
    assert asked.masks[:, 0, :, 0].tolist() == [[1, 1, 1, 0], [0] * 4, [0, 1, 1, 0], [0] * 4]
    assert asked.labels.tolist() == [1, 1, 1, 1]
    alone = questions(masks, None)
    assert torch.equal(alone.noisy, masks)
    assert alone.labels.tolist() == [1, 0, 1, 0]


def test_gaps_are_means_over_each_kind_and_zero_where_there_is_none():
    maps = torch.tensor([[[[-1.0, 0.0, 0.25, 2.0]]]])
    masks = torch.tensor([[[[0.0, 0.0, 1.0, 1.0]]]])
    good, defective = truncated_gaps(maps, masks)
    assert (good.item(), defective.item()) == (0.25, 0.125)
    assert truncated_gaps(maps, torch.zeros_like(masks))[1] == 0
    assert truncated_gaps(maps, torch.ones_like(masks))[0] == 0


def test_the_focal_loss_is_its_formula():
    logits, targets = 6 * noise(50) - 3, (noise(50, seed=1) > 0.5).float()
    q = torch.sigmoid(logits.double())
    p = torch.where(targets > 0, q, 1 - q)
    expected = (-p.log() * (1 - p) ** 4).mean()
    torch.testing.assert_close(focal_loss(logits, targets).double(), expected, atol=1e-7, rtol=1e-5)


def batch_of(one, images, truth=None):
    frozen = tuple(one.frozen(images))
    rows = tuple(range(len(images)))
    return LearningBatch(images=images, frozen=frozen, indices=rows, epoch=0, seed=0, truth=truth)


@pytest.mark.parametrize("supervised", [False, True])
def test_without_supervision_the_map_is_not_taught_by_the_classifying_head(supervised):
    one = trainer({"supervised": supervised})
    batch = batch_of(one, noise(2, 3, SIZE, SIZE))
    one.losses(batch)["picture"].backward()
    reached = one.detector.segment[0].weight.grad is not None
    assert reached == supervised


def test_the_classifying_head_sees_the_networks_own_features_if_told_so():
    own, adapted = (trainer({"classify_adapted": a}) for a in (False, True))
    for one in (own, adapted):
        mark_trained(one.detector)
        with torch.no_grad():
            one.detector.segment[3].weight.zero_()  # nothing comes by the map
    images = noise(2, 3, SIZE, SIZE)
    before = [one.detector(images).score for one in (own, adapted)]
    for one in (own, adapted):
        torch.nn.init.eye_(one.detector.adapt.weight.data[:, :, 0, 0]).mul_(0)
    after = [one.detector(images).score for one in (own, adapted)]
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_the_numbers_of_the_papers_are_the_defaults():
    (optimization,) = trainer().optimizers(100)
    groups = optimization.optimizer.param_groups
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(1e-4, 0.01), (2e-4, 1e-5)]
    factors = [optimization.schedule(step) for step in (0, 79, 80, 89, 90, 99)]
    assert factors == pytest.approx([1, 1, 0.4, 0.4, 0.16, 0.16])
    assert optimization.clip_norm is None
    assert trainer({"supervised": True}).optimizers(1)[0].clip_norm == 1


def test_the_frozen_network_never_changes_and_labelled_defects_are_told_apart():
    one = trainer({"supervised": True, "lr": 2e-3}, num_epochs=4)
    before = {k: v.clone() for k, v in one.detector.extractor.state_dict().items()}
    good = [make_picture(i, size=SIZE)[0] for i in range(6)]
    bad = [make_picture(100 + i, size=SIZE, defect=True) for i in range(3)]
    pictures = PictureSet([*good, *(one for one, _ in bad)], SIZE)
    fit(one, pictures, defects={6 + i: mask if i else None for i, (_, mask) in enumerate(bad)})
    images = [torch.from_numpy(np.array(p)).permute(2, 0, 1) / 255 for p in pictures.sources]
    score = one.detector(torch.stack(images)).score
    assert score[6:].min() > score[:6].max()
    for name, tensor in one.detector.extractor.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_noise_that_was_not_learnt_to_be_found_is_told():
    pictures = PictureSet([make_picture(index, size=SIZE)[0] for index in range(4)], SIZE)
    one = trainer({"noise_std": 1e-6}, num_steps=2)
    assert one.notes == ()
    fit(one, pictures)
    (note,) = one.notes
    assert "has not learnt to find noise" in note
    assert "`--set noise_std=1e-05`" in note
    one.wrong = torch.tensor(0.3)
    assert one.notes == ()


def test_an_untrained_one_gives_no_scores():
    with pytest.raises(NotFittedError, match="`trained` is empty"):
        trainer().detector(noise(1, 3, SIZE, SIZE))
